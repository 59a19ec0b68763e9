"""The command and the child process, from outside, against real stores."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from study import sync, tracking_state
from study.tracking_process import MirrorProcess
from tests.study.mirrored import EPOCHS, METRICS, Study, rows, runs

WAIT = 60.0


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setattr(os, "environ", os.environ.copy())
        yield


@pytest.fixture
def closed() -> Iterator[str]:
    """The URI of a server that nobody runs; the port stays taken so that nobody can."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://bob:hunter2@127.0.0.1:{taken.getsockname()[1]}"


def command(study: Study, *more: str) -> list[str]:
    return [study.name, "--out", str(study.home.out), *more]


def test_the_command_catches_up_and_says_where(
    study: Study, uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    study.whole(study.trial())
    assert sync.main(command(study, "--tracking-uri", uri)) == 0
    assert capsys.readouterr().out == f"s is mirrored in {uri}\n"
    assert len(rows(uri)["metrics"]) == EPOCHS * len(METRICS)


def test_without_a_uri_it_goes_where_the_study_was_last_mirrored(study: Study, uri: str) -> None:
    sync.main(command(study, "--tracking-uri", uri))
    study.whole(study.trial())
    assert sync.main(command(study)) == 0
    assert "sam_on/search/0" in runs(uri)


def test_without_any_memory_it_goes_to_the_current_folder(
    study: Study, uri: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert sync.main(["s"]) == 0
    assert runs(uri).keys() == {"s"}


def test_a_study_that_does_not_exist_is_told_with_the_nearest_name(
    study: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sync.main(["S", "--out", str(study.home.out)]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "holds no study 'S'" in line
    Study(study.home.out, "norm_vs_all")
    assert sync.main(["norm_vs_al", "--out", str(study.home.out)]) == 2
    assert "did you mean 'norm_vs_all'?" in capsys.readouterr().err


def test_a_uri_that_can_never_work_is_wrong_input(
    study: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sync.main(command(study, "--tracking-uri", "ftp://x")) == 2
    assert "unknown kind of store" in capsys.readouterr().err


def test_a_store_that_cannot_be_reached_is_told_in_one_line_without_the_password(
    study: Study, closed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sync.main(command(study, "--tracking-uri", closed)) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("MLflow at http://***@127.0.0.1:")
    assert "hunter2" not in line


def test_a_remembered_uri_without_its_password_is_asked_for_again(
    study: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    tracking_state.write_state(study.home.folder, tracking_state.State("http://***@host", "1", 0))
    assert sync.main(command(study)) == 2
    assert "give --tracking-uri again" in capsys.readouterr().err


def test_a_study_that_is_being_mirrored_is_left_alone(
    study: Study, uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with tracking_state.only_one(study.home.folder):
        assert sync.main(command(study, "--tracking-uri", uri)) == 1
    assert "another process mirrors this study" in capsys.readouterr().err


def test_looking_for_help_imports_no_mlflow() -> None:
    check = "import sys, study.sync, study.tracking_process; assert 'mlflow' not in sys.modules"
    subprocess.run([sys.executable, "-c", check], check=True)


def test_the_child_mirrors_to_the_end_and_says_nothing(study: Study, uri: str) -> None:
    mirror = MirrorProcess.start(study.name, study.home.out, uri)
    study.whole(study.trial())
    study.verdict()
    assert mirror.stop(WAIT) is None
    found = runs(uri)
    assert {run.info.status for run in found.values()} == {"FINISHED"}
    assert found.keys() == {"s", "sam_on/search/0"}
    [line] = (study.home.folder / "mlflow.log").read_text().splitlines()
    assert line.endswith(" caught up")


def test_when_the_study_is_killed_the_child_drains_and_ends(study: Study, uri: str) -> None:
    study.epoch(study.start(study.trial()), 1)
    script = (
        "import sys, time; from pathlib import Path;"
        "from study.tracking_process import MirrorProcess;"
        "mirror = MirrorProcess.start(sys.argv[1], Path(sys.argv[2]), sys.argv[3]);"
        "print('started', flush=True); time.sleep(600)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script, study.name, str(study.home.out), uri],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    parent.stdout.readline()
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + WAIT
    while tracking_state.read_state(study.home.folder) is None and time.monotonic() < deadline:
        time.sleep(0.05)
    with (study.home.folder / "mlflow.lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # held by the child until its end
    found = runs(uri)
    assert found["sam_on/search/0"].data.tags["reason"] == "interrupted"
    assert {run.info.status for run in found.values()} == {"KILLED"}


def test_an_outage_ends_in_a_warning_that_says_how_to_catch_up(study: Study, closed: str) -> None:
    mirror = MirrorProcess.start(study.name, study.home.out, closed)
    study.whole(study.trial())
    warning = mirror.stop(WAIT)
    assert warning is not None
    assert "MLflow is behind" in warning
    assert f"python -m study.sync s --out {study.home.out} --tracking-uri" in warning
    log = (study.home.folder / "mlflow.log").read_text()
    assert len(log.splitlines()) == 1
    assert "hunter2" not in warning + log
    assert not (study.home.folder / tracking_state.STATE).exists()


def test_what_could_not_be_written_at_first_is_written_later(study: Study, uri: str) -> None:
    log = study.home.folder / "mlflow.log"
    with tracking_state.only_one(study.home.folder):
        mirror = MirrorProcess.start(study.name, study.home.out, uri)
        deadline = time.monotonic() + WAIT
        while not log.read_text() and time.monotonic() < deadline:
            time.sleep(0.05)
    study.whole(study.trial())
    assert mirror.stop(WAIT) is None
    assert "sam_on/search/0" in runs(uri)
    failed, caught_up = log.read_text().splitlines()
    assert "another process mirrors this study" in failed
    assert "caught up" in caught_up


def test_a_child_that_takes_too_long_is_ended_with_a_warning(study: Study, uri: str) -> None:
    mirror = MirrorProcess.start(study.name, study.home.out, uri)
    warning = mirror.stop(0.0)
    assert warning is not None
    assert "not done within 0 s" in warning


def test_two_children_may_make_the_same_new_store(tmp_path: Path) -> None:
    new = f"sqlite:///{tmp_path}/fresh/mlflow.db"
    names = ("a", "b")
    studies = [Study(tmp_path / "studies", name) for name in names]
    mirrors = [MirrorProcess.start(s.name, s.home.out, new) for s in studies]
    for s in studies:
        s.whole(s.trial())
        s.verdict()
    assert [mirror.stop(WAIT) for mirror in mirrors] == [None, None]
    for name in names:
        assert runs(new, name).keys() == {name, "sam_on/search/0"}
