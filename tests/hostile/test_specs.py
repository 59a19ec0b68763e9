"""Hostile study files and --set arguments: a spec, or one short line that says where."""

from __future__ import annotations

import io
import resource
from pathlib import Path

import pytest
from rich.console import Console

from study import plan, resolve, smoke
from study.spec import Spec
from study.yamlfile import SpecError
from tests.hostile import HostileSpec, specs
from tests.hostile.patience import no_hang
from tests.hostile.specs import LONGEST_ANSWER

SEED, COUNT = 20, 340
SPECS = list(specs(SEED, COUNT))


def load(spec: HostileSpec, path: Path, *, small: bool) -> Spec | str:
    """What reading a hostile spec gives: a spec, or what the user is told."""
    path.write_bytes(spec.content)
    with no_hang():
        try:
            if small:
                return smoke.load(path, spec.settings)
            return resolve.load(path, spec.settings)
        except SpecError as error:
            return str(error)


@pytest.mark.parametrize("small", [False, True], ids=["study", "smoke"])
def test_every_hostile_spec_is_a_spec_or_one_short_line(tmp_path: Path, small: bool) -> None:
    path = tmp_path / "spec.yaml"
    console = Console(file=io.StringIO(), width=200, highlight=False, markup=False)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    outcomes = {"spec": 0, "told": 0}
    for spec in SPECS:
        found = load(spec, path, small=small)
        if isinstance(found, str):
            outcomes["told"] += 1
            assert found.isprintable(), spec.title
            assert 0 < len(found) <= LONGEST_ANSWER, spec.title
            assert "Traceback" not in found
            assert found.startswith((f"{path}:", "--set ")), spec.title
        else:
            outcomes["spec"] += 1
            assert found == Spec.model_validate(found.model_dump()) or small, spec.title
            with no_hang():
                plan.show(found, console, tmp_path, timed=False)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KB
    # Else the generator makes only what the first line of a reader refuses.
    assert outcomes["spec"] >= 15
    assert outcomes["told"] >= 250


def test_the_same_seed_makes_the_same_specs() -> None:
    assert list(specs(SEED, COUNT)) == SPECS
    assert list(specs(SEED + 1, COUNT)) != SPECS
    assert len(SPECS) == COUNT


def test_what_is_wrong_in_a_file_is_told_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    titles = ("alias bomb", "merge key", "python object", "deep blocks", "key of 900 letters")
    lines = {"deep blocks": 20}
    for spec in SPECS:
        if spec.title in titles:
            told = load(spec, path, small=False)
            assert isinstance(told, str)
            assert told.startswith(f"{path}:{lines.get(spec.title, 1)}: "), told


@pytest.mark.parametrize(
    ("setting", "part"),
    [
        ("arms.sam_on.perturb=regex:a{99999999999}", "no regular expression: the repetition"),
        (f"arms.sam_on.perturb='regex:{'(' * 40_000}'", "nested too deeply"),
        (f"arms.sam_on.perturb=norm_last:{'1' * 90_000}x", "needs a decimal fraction"),
        ("tune.trials_per_arm=100001", "at most 100000, not 100001"),
    ],
)
def test_traps_of_the_readers_behind_are_told_too(tmp_path: Path, setting: str, part: str) -> None:
    text = next(spec for spec in SPECS if spec.title.startswith("--set")).content
    told = load(HostileSpec("", text, (setting,)), tmp_path / "spec.yaml", small=False)
    assert isinstance(told, str)
    assert part in told


def test_a_grid_that_nobody_could_run_is_refused_with_its_size(tmp_path: Path) -> None:
    [spec] = [spec for spec in SPECS if spec.title == "a grid of 1e12 points"]
    told = load(spec, tmp_path / "spec.yaml", small=False)
    assert isinstance(told, str)
    assert "the grid of arm sgd has 100,000,000 points; at most 10,000 are run" in told
