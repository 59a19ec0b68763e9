"""Whatever a spec says wrong is told in one line, at once, and nothing is created."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from study import resolve
from study.spec import Spec
from study.yamlfile import Document, SpecError
from tests.study.command import ROOT, SPEC

TEXT = SPEC.read_text()


def told(tmp_path: Path, text: str | bytes, *assignments: str) -> str:
    path = tmp_path / "spec.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(SpecError) as caught:
        resolve.load(path, assignments)
    message = str(caught.value)
    assert "\n" not in message
    return message.removeprefix(f"{path}")


def changed(old: str, new: str) -> str:
    assert TEXT.count(old) == 1
    return TEXT.replace(old, new)


@pytest.mark.parametrize(
    ("old", "new", "parts"),
    [
        ("  epochs: 40", "  epoch: 40", [":17:", "unknown key 'epoch'", "did you mean 'epochs'?"]),
        ("  epochs: 40", "  epochs: forty", [":17:", "whole number, not 'forty'"]),
        ("  epochs: 40", "  epochs: -3", [":17:", "at least 1, not -3"]),
        ("  epochs: 40", "  epochs: 1.5", [":17:", "whole number"]),
        ("  epochs: 40", "  epochs:", [":17:", "whole number, not None"]),
        ("lr: 0.1", "lr: .nan", ["must be a number"]),
        ("lr: 0.1", "lr: 1e999", ["finite"]),
        ("name: digits", "name: digit", ["unknown data set 'digit'", "did you mean 'digits'?"]),
        ("name: resnet8", "name: resnet9", ["unknown model 'resnet9'", "timm/NAME", "resnet8"]),
        ("name: sgd", "name: sdg", ["unknown optimizer 'sdg'"]),
        ("variant: none", "variant: nine", [":21:", "unknown variant 'nine'", "asam"]),
        ("perturb: norm}", "perturb: nrom}", [":23:", "unknown subset 'nrom'", "'norm'"]),
        ("{variant: none}", "{variant: none, perturb: all}", ["perturbs nothing"]),
        ("{variant: none}", "{variant: none, search: {rho: suggested}}", ["has no rho"]),
        ("perturb: norm}", "perturb: norm, eta: 1}", ["unknown key 'eta'", "bn_statistics"]),
        ("perturb: norm}", "perturb: norm, bn_statistics: last}", ["not one of first, both"]),
        ("rho: suggested ", "rho: {low: 3, high: 1} ", ["low 3 must be below high 1"]),
        ("rho: suggested ", "rho: {low: 0, high: 1, log: true} ", ["starts above 0"]),
        ("rho: suggested ", "rho: {low: -1, high: 1} ", ["below 0"]),
        ("rho: suggested ", "rho: {choices: []} ", ["at least one value"]),
        ("rho: suggested ", "rhu: suggested ", ["unknown search key 'rhu'", "did you mean 'rho'?"]),
        ("rho: suggested ", "lr: suggested ", ["only rho has suggested ranges"]),
        ("sampler: qmc", "sampler: grid", ["a grid needs points"]),
        ("sampler: qmc", "sampler: tree", ["unknown sampler 'tree'"]),
        ("trials_per_arm: 8", "trials_per_arm: 0", ["at least 1, not 0"]),
        ("seeds: 8", "seeds: 1", ["at least 2, not 1"]),
        ("baseline: sam_all", "baseline: sam_al", ["unknown arm 'sam_al'", "'sam_all'?"]),
        ("[[sam_on, sgd]]", "[[sam_on, sam_all]]", ["planned already"]),
        ("[[sam_on, sgd]]", "[[sam_on]]", ["at least 2 entries"]),
        ("validation_size: 300", "validation_size: 301", ["1101 images", "1100"]),
        ("augment: crop", "augment: crop_flip", ["augmentation for digits"]),
        ("batch_size: 64", "batch_size: 801", ["more than the 800 training images"]),
        ("study: norm_vs_all", "study: ../norm", ["letters, digits", "no path"]),
        ("study: norm_vs_all", "study: a/b", ["no path"]),
        ("study: norm_vs_all", "study: norm_vs_all\nstudy: b", [":12:", "stands twice"]),
        ("resources: {cpu: 1,", "resources: {cpu: 0,", ["at least 1, not 0"]),
        ("cpu: 1, gpu: 0", "cpu: 1, gpu: -1", ["at least 0, not -1"]),
    ],
)
def test_one_line_says_where_what_and_what_is_allowed(
    tmp_path: Path, old: str, new: str, parts: list[str]
) -> None:
    message = told(tmp_path, changed(old, new))
    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "must hold a mapping"),
        ("- a\n- b\n", "must hold a mapping"),
        ("a: [1,\n", "not YAML"),
        ("a: !!python/object/apply:os.system [id]\n", "is not allowed"),
        ("a: !thing 3\n", "is not allowed"),
        ("? [1, 2]\n: 3\n", "must be a word"),
        (b"\xff\xfe\x00\x01", "not text in UTF-8"),
        ("[" * 20_000, "too deeply nested"),
        ("a: " + "[" * 50 + "]" * 50, "too deeply nested"),
        ("x" * 1_000_001, "larger than"),
        ("a: &a [*a]\n", "too large or too deeply nested"),
        (
            "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
            + "".join(
                f"{b}: &{b} [{', '.join(['*' + a] * 10)}]\n"
                for a, b in zip("abcdefgh", "bcdefghi", strict=True)
            ),
            "too large",
        ),
        ("study: x", "workload: is missing"),
    ],
)
def test_what_is_no_spec_at_all_is_refused(tmp_path: Path, text: str | bytes, part: str) -> None:
    assert part in told(tmp_path, text)


@pytest.mark.parametrize(
    ("assignment", "part"),
    [
        ("confirm.seeds", "write --set KEY=VALUE"),
        ("=3", "write --set KEY=VALUE"),
        ("confirm..seeds=3", "write --set KEY=VALUE"),
        ("confirm.seed=3", "unknown key 'seed'"),
        ("confirm.seeds=x", "whole number, not 'x'"),
        ("study.name=3", "a value that is no mapping"),
        ("arms={}", "at least two arms"),
        ("workload.data=!!set {}", "is not allowed"),
        ("cross={variant: [sam, asm], perturb: [all]}", "makes the arm 'sam_all' a second time"),
    ],
)
def test_set_is_held_to_the_same_rules(tmp_path: Path, assignment: str, part: str) -> None:
    message = told(tmp_path, TEXT, assignment)
    assert part in message
    assert f"--set {assignment}" in message or message.startswith(": arms")


def test_a_missing_file_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "norm_vs_all.yaml").write_text(TEXT)
    with pytest.raises(SpecError, match=r"no such file; did you mean '.*norm_vs_all.yaml'"):
        resolve.load(tmp_path / "norm_vs_al.yaml")
    with pytest.raises(SpecError, match="cannot be read"):
        resolve.load(tmp_path)


def test_words_and_numbers_are_those_of_yaml_1_2() -> None:
    spec = resolve.load(SPEC, ["workload.optimizer.lr=1e-2", "arms.no={variant: none}"])
    assert spec.workload.optimizer.lr == 0.01
    assert "no" in spec.arms


@pytest.mark.parametrize(
    "arguments", [["--help"], [str(SPEC), "--plan"], [str(SPEC), "--set", "confirm.seeds=x"]]
)
def test_the_command_answers_without_torch_ray_or_mlflow(
    tmp_path: Path, arguments: list[str]
) -> None:
    check = (
        "import sys\nfrom study import run\n"
        "try:\n    code = run.main(sys.argv[1:])\nexcept SystemExit as error:\n"
        "    code = error.code\n"
        "heavy = {'torch', 'ray', 'mlflow', 'optuna', 'scipy'} & set(sys.modules)\n"
        "assert not {'torch', 'ray', 'mlflow'} & heavy, heavy\nsys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", check, *arguments],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
    )
    wrong = "confirm.seeds=x" in arguments
    assert done.returncode == (2 if wrong else 0), done.stderr
    assert len(done.stderr.splitlines()) == (1 if wrong else 0)
    assert list(tmp_path.iterdir()) == []


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)


def _places(value: object, place: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    below = value.items() if isinstance(value, dict) else ()
    return [place, *(p for key, item in below for p in _places(item, (*place, key)))]


PLAIN = yaml.safe_load(TEXT)


@settings(max_examples=300, deadline=None)
@given(place=st.sampled_from(_places(PLAIN)), value=_VALUES)
def test_any_value_anywhere_gives_a_spec_or_one_line(place: tuple[str, ...], value: object) -> None:
    def put(data: object, rest: tuple[str, ...]) -> object:
        if not rest:
            return value
        assert isinstance(data, dict)
        return {**data, rest[0]: put(data[rest[0]], rest[1:])}

    try:
        spec = resolve.resolve(Document(put(PLAIN, place), {(): "file"}))
    except SpecError as error:
        lines = str(error).splitlines()
        if len(lines) != 1:
            raise
    else:
        assert isinstance(spec, Spec)
