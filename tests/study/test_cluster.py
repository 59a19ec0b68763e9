"""What goes to a cluster, and what does not; the cluster itself is in tests/services."""

from __future__ import annotations

from pathlib import Path

import pytest

from study import cluster, extend, provenance, replay, report, run, status, stop, submit
from study.places import OUT
from study.resolve import load
from study.yamlfile import SpecError
from tests.study.command import ROOT, SPEC

NOWHERE = "http://127.0.0.1:1"


@pytest.mark.parametrize(
    ("out", "place"), [(OUT, "~/studies"), (Path("/data/s"), "/data/s"), (Path("~/s"), "~/s")]
)
def test_a_place_on_the_head_is_absolute(out: Path, place: str) -> None:
    assert cluster.place_on_head(out) == place


def test_a_relative_place_on_the_head_is_refused() -> None:
    with pytest.raises(SpecError, match="--out s/t: must be absolute, or begin with ~"):
        cluster.place_on_head(Path("s/t"))


def test_words_are_sent_as_they_were_given() -> None:
    words = [
        "tiny",
        "--watch",
        "--out",
        "/a b",
        "--address=http://x",
        "--ledger",
        "postgresql://u@h/n",
    ]
    kept = ["tiny", "--watch", "--ledger", "postgresql://u@h/n"]
    assert cluster._without(words, "--address", "--out") == kept


def test_what_ray_says_before_the_command_is_left_out() -> None:
    log = "INFO -- Runtime env is setting up.\nRunning entrypoint for job x: python\na\nb"
    assert cluster._of_command(log) == "a\nb"
    assert cluster._of_command("INFO -- Runtime env is setting up.\n") == ""


def test_code_and_spec_and_nothing_else_are_sent(tmp_path: Path) -> None:
    with cluster._package([SPEC]) as folder:
        assert {path.name for path in folder.iterdir()} == {
            "study", "trainables", "norm_vs_all.yaml", "commit",
        }  # fmt: skip
        assert (folder / "commit").read_text() == provenance.commit()
        assert not list(folder.rglob("__pycache__"))
        for package in ("study", "trainables"):
            sent = {path.relative_to(folder) for path in (folder / package).rglob("*.py")}
            assert sent == {path.relative_to(ROOT) for path in (ROOT / package).rglob("*.py")}


def test_a_package_of_the_users_own_is_sent_with_the_spec(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT / "docs" / "own_model")
    path = Path("stripes.yaml")
    assert submit._files(path, load(path)) == [path, Path("my_package")]


@pytest.mark.parametrize(
    "arguments",
    [
        (submit, str(SPEC)),
        (status,),
        (stop, "tiny"),
        (report, "tiny"),
        (replay, "tiny/sgd/search/0"),
        (extend, "tiny", "--seeds", "9"),
    ],
)
def test_a_cluster_that_does_not_answer_is_one_line(
    arguments: tuple[object, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    module, *words = arguments
    assert module.main([*words, "--address", NOWHERE]) == 2  # type: ignore[attr-defined]
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.count("\n") == 1
    assert told.err.startswith(f"--address {NOWHERE}: no Ray cluster answers there")


def test_study_run_names_the_command_for_a_cluster(capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main([str(SPEC), "--address", NOWHERE]) == 2
    assert f"study.submit SPEC --address {NOWHERE}" in capsys.readouterr().err
    assert submit.main([str(SPEC), "--address", "auto"]) == 2
    assert "not the address of a cluster's Jobs API" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--ledger", "postgresql://ada:hunter2@host/ledgers"),
        ("--tracking-uri", "https://ada:hunter2@mlflow.example"),
    ],
)
def test_a_password_is_not_sent(
    option: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert submit.main([str(SPEC), "--address", NOWHERE, option, value]) == 2
    told = capsys.readouterr().err
    assert "holds a password" in told
    assert "hunter2" not in told
