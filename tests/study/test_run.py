"""The command up to the moment when Ray would start: exit codes, one line, nothing created."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from study import execution, journal, preflight, run
from study.home import Home
from study.records import End, Status
from study.resolve import load
from study.spec import Spec
from study.tracking import open_store
from study.tracking_state import State, is_finished, write_state
from study.tracking_uri import default_uri
from study.verdict import decide
from tests.study.command import SPEC
from tests.study.mirror_check import assert_equals_journal
from tests.study.synthetic import make_contents, search_trials
from tests.study.test_preflight import FACTS


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What the command says when it ends with 2."""
    assert run.main([str(SPEC), *arguments]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    return told.err


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--set", "confirm.seeds=0"], "confirm.seeds: must be at least 2, not 0"),
        (["--plan", "--set", "confirm.seeds=0"], "confirm.seeds: must be at least 2, not 0"),
        (["--time"], "--time goes with --plan"),
        (["other.yaml"], "other.yaml: one SPEC at a time; only --smoke takes several"),
        (["--smoke", "--set", "confirm.seeds=0"], "confirm.seeds: must be at least 2, not 0"),
        (["other.yaml", "--smoke"], "other.yaml: no such file"),
        (["--tracking-uri", "ftp://x"], "unknown kind of store"),
        (["--tracking-uri", "./mlruns"], "MLflow gave up its store of plain files"),
        (["--out", "/dev/null/x"], "/dev/null/x/norm_vs_all: cannot be written"),
        (["--out", "x" * 300], "cannot be read: File name too long"),
    ],
)
def test_wrong_input_ends_with_2_and_creates_nothing(
    here: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], part: str
) -> None:
    message = refused(capsys, *arguments)
    assert part in message
    assert message.count("\n") == 1
    assert list(here.iterdir()) == []


@pytest.mark.parametrize("name", ["missing.yaml", ".", "a/b.yaml"])
def test_a_file_that_cannot_be_read_is_named(
    here: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    assert run.main([name]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{name}: ")
    assert list(here.iterdir()) == []


def test_a_study_that_another_process_runs_is_left_alone(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Home(here / "studies", "norm_vs_all").claimed():
        assert "runs this study; wait for it, or stop it first" in refused(capsys)
    assert [path.name for path in (here / "studies/norm_vs_all").iterdir()] == ["lock"]


def test_a_changed_spec_is_refused_with_what_changed(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = Home(here / "studies", "norm_vs_all")
    with home.claimed(), preflight.opened(home, load(SPEC), FACTS):
        pass
    before = {path.name: path.read_bytes() for path in home.folder.iterdir()}
    told = refused(capsys, "--set", "tune.seed=3", "--set", "question=Really?")
    assert "-  seed: 0\n+  seed: 3\n" in told
    assert "Really" not in told
    assert "--set study=norm_vs_all_2" in told
    assert {path.name: path.read_bytes() for path in home.folder.iterdir()} == before


def finished(home: Home) -> None:
    """Writes the journal of a study that has its verdict."""
    spec = load(SPEC)
    contents = make_contents(spec)
    with home.claimed(), preflight.opened(home, spec, FACTS) as records:
        for result in contents.results:
            records.append(journal.start_line(result.trial, 1.0))
            for epoch in result.epochs:
                records.append(journal.epoch_line(epoch))
            records.append(journal.end_line(result.end))
        plain = decide(spec, contents.results).plain()
        records.append({"kind": "verdict", "number": 0, "verdict": plain, "time": 9.0})


def test_a_study_with_its_verdict_is_reported_without_ray(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = Home(here / "studies", "norm_vs_all")
    finished(home)
    size = home.journal.stat().st_size
    write_state(home.folder, State(default_uri(here), "1", size, finished=True))
    assert run.main([str(SPEC)]) == 0
    told = capsys.readouterr()
    assert told.err == ""
    assert "starting Ray" not in told.out
    assert home.report.exists()
    assert not (here / "mlflow.db").exists()


def test_what_a_dead_mirror_left_out_is_sent_by_the_same_command(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home, uri = Home(here / "studies", "norm_vs_all"), default_uri(here)
    finished(home)
    for missing in (True, False):
        assert run.main([str(SPEC)]) == 0
        told = capsys.readouterr()
        assert told.err == ""
        assert ("norm_vs_all: sending MLflow what is missing there" in told.out) == missing
        assert_equals_journal(open_store(uri), home.journal)
    assert is_finished(home, uri)
    assert not is_finished(home, default_uri(here / "elsewhere"))


def test_the_plan_names_arms_and_costs_and_starts_nothing(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hostile = "question='[red]what[/red] [link=x]?'"
    images = "workload.data={name: imagefolder, root: /nowhere, validation_size: 100}"
    assert run.main([str(SPEC), "--plan", "--set", hostile]) == 0
    text = capsys.readouterr().out
    assert "norm_vs_all: [red]what[/red] [link=x]?" in text
    rows = {line.split()[0]: line.split() for line in text.splitlines() if line.strip()}
    assert rows["sgd"][-6:] == ["only", "8", "+", "8", "640", "7,680"]
    assert rows["sam_on"][-5:] == ["8", "+", "8", "640", "15,360"]
    assert "32 search and 32 confirm trials" in text
    assert "2,560 epochs, 53,760 gradient evaluations" in " ".join(text.split())
    assert run.main([str(SPEC), "--plan", "--set", images]) == 0
    assert "unknown" in capsys.readouterr().out
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(("failing", "code"), [("", 0), ("smoke_norm_vs_all/sgd/search/0", 1)])
def test_a_smoke_run_ends_with_1_where_a_trial_failed_and_keeps_nothing(
    here: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    failing: str,
    code: int,
) -> None:
    homes: list[Home] = []

    def finish(spec: Spec, extension: None, home: Home, *others: object) -> None:
        homes.append(home)
        with home.claimed(), preflight.opened(home, spec, FACTS) as records:
            for trial in search_trials(spec):
                records.append(journal.start_line(trial, 0.0))
                status: Status = "failed" if trial.name == failing else "diverged"
                scores = {} if status == "failed" else {"validation_accuracy": 10.0}
                records.append(journal.end_line(End(trial.name, status, "", scores, 0, 1.0)))
        quiet = next(each for each in others if isinstance(each, Console))
        quiet.print("an accuracy that means nothing")

    monkeypatch.setattr(execution, "finish", finish)
    assert run.main([str(SPEC), str(SPEC), "--smoke"]) == code
    told = capsys.readouterr()
    assert told.err == ""
    said = f"smoke_norm_vs_all: 4 trials ran, {code} failed; no verdict"
    assert told.out.splitlines() == 2 * [
        "smoke_norm_vs_all: sgd and sam_all, a few digits as digits",
        said,
    ]
    assert len({home.folder for home in homes}) == 2
    assert not [home for home in homes if home.out.parent.exists()]
    assert list(here.iterdir()) == []


def test_a_smoke_run_is_no_plan(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run.main([str(SPEC), "--smoke", "--plan"])
    assert ended.value.code == 2
    assert "not allowed with argument" in capsys.readouterr().err


def test_the_help_ends_with_0(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run.main(["--help"])
    assert ended.value.code == 0
    assert "--set KEY=VALUE" in capsys.readouterr().out
