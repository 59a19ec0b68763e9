"""What a running study tells of its mirror, with a child that says what a test wants, and a real
one whose store goes away."""

from __future__ import annotations

import io
import itertools
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rich.console import Console

from study import sync, tracking, tracking_state, tracking_watch
from study.progress import Progress
from study.tracking_process import MirrorProcess
from study.tracking_watch import Watch, mirrored
from tests.study.mirror_check import assert_equals_journal
from tests.study.mirrored import Study, spec_of

AWAY = "2026-01-02 03:04:05 MLflow at http://x:1: [Errno 111] Connection refused"
OTHER = "2026-01-02 03:04:06 MLflow at http://x:1: timed out"
BACK = "2026-01-02 03:04:07 caught up"
CATCH_UP = "python -m study.sync s"
WAIT = 60.0


class Child:
    """Stands for the mirroring process. starts: how often it was started again."""

    catch_up = CATCH_UP

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.dead: str | None = None
        self.starts = 0
        self.refused: OSError | None = None

    def said(self) -> list[str]:
        lines, self.lines = self.lines, []
        return lines

    def death(self) -> str | None:
        return self.dead

    def spawn(self) -> None:
        if self.refused:
            raise self.refused
        self.dead = None
        self.starts += 1

    def finish(self) -> None:
        self.lines.append("")

    def stop(self, timeout: float) -> str | None:
        return f"MLflow is behind after {timeout:g} s" if self.dead else None


@pytest.fixture
def child() -> Child:
    return Child()


@pytest.fixture
def told() -> list[str]:
    return []


def watch(child: Child, told: list[str], outage: str = "") -> Watch:
    return Watch(child, told.append, outage)  # type: ignore[arg-type]


def look(watch: Watch, child: Child, *lines: str) -> None:
    child.lines += lines
    watch.look()


def test_an_outage_is_one_line_when_it_begins_and_one_when_it_is_over(
    child: Child, told: list[str]
) -> None:
    watched = watch(child, told)
    look(watched, child, BACK)
    assert (told, watched.state) == ([], "")
    for lines in ([AWAY], [OTHER], [], [AWAY, OTHER]):
        look(watched, child, *lines)
        assert watched.state == "MLflow is behind"
    assert told == [
        "MLflow at http://x:1: [Errno 111] Connection refused; the study runs all the same, what "
        f"is missing is sent later, or with {CATCH_UP}"
    ]
    look(watched, child, BACK)
    assert told[1:] == ["MLflow has caught up: nothing is missing there"]
    assert watched.state == ""
    look(watched, child, AWAY)
    assert len(told) == 3


def test_an_outage_that_was_told_before_the_start_is_not_told_again(
    child: Child, told: list[str]
) -> None:
    watched = watch(child, told, "MLflow at http://x:1: Connection refused")
    assert watched.state == "MLflow is behind"
    look(watched, child, AWAY)
    assert told == []
    look(watched, child, BACK)
    assert told == ["MLflow has caught up: nothing is missing there"]


def test_what_else_stands_in_the_log_means_nothing(child: Child, told: list[str]) -> None:
    watched = watch(child, told)
    trace = ["Traceback (most recent call last):", "  caught up", "MLflow at http://x:1: no date"]
    look(watched, child, *trace)
    assert (told, watched.state) == ([], "")


def test_a_child_that_dies_is_told_once_and_started_again(
    child: Child, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr("study.tracking_watch.time.monotonic", lambda: now)
    watched = watch(child, told)
    started = []
    for now in range(500):
        child.dead = "its process was ended by SIGKILL"
        before = child.starts
        watched.look()
        if child.starts > before:
            started.append(now)
    assert [b - a for a, b in itertools.pairwise(started)][:8] == [
        *(5, 9, 17, 33),
        *[61] * 4,
    ]
    [line] = told
    assert line.startswith(
        "MLflow is no longer written to, its process was ended by SIGKILL; it will be started again"
    )
    child.dead = None
    now += 100
    watched.look()
    look(watched, child, BACK)
    assert told[1:] == ["MLflow has caught up: nothing is missing there"]


def test_a_child_that_cannot_be_started_is_tried_again(
    child: Child, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr("study.tracking_watch.time.monotonic", lambda: now)
    watched = watch(child, told)
    child.dead = "its process ended with code 1"
    child.refused = OSError(11, "Resource temporarily unavailable")
    watched.look()
    now = 100.0
    watched.look()
    assert watched.state
    child.refused = None
    now = 200.0
    watched.look()
    assert child.starts == 1
    assert len(told) == 1


@pytest.mark.parametrize("outage", ["", "away"])
def test_the_end_says_that_mlflow_is_behind_or_has_caught_up(
    child: Child, told: list[str], outage: str
) -> None:
    watched = watch(child, told, outage)
    watched.start()
    watched.finish()
    watched.stop(3)
    assert told == (["MLflow has caught up: nothing is missing there"] if outage else [])
    dead = Child()
    dead.dead = "its process was ended by SIGKILL"
    watched = watch(dead, told, "away")
    watched.start()
    watched.stop(7)
    assert told[-1] == "MLflow is behind after 7 s"


@pytest.mark.parametrize("terminal", [True, False])
def test_the_display_says_so_while_mlflow_is_behind(terminal: bool) -> None:
    file = io.StringIO()
    console = Console(file=file, width=120, force_terminal=terminal)
    state = "MLflow is behind"
    with Progress(spec_of(), console, 1, lambda: state) as progress:
        progress.stage("search", [])
        if terminal:
            progress._live.refresh()
    head = "0/8 trials done, 0 running"
    assert f"{head}, MLflow is behind" in file.getvalue()
    state = ""
    with console.capture() as capture:
        console.print(progress._render())
    assert f"{head}\n" in "\n".join(line.rstrip() for line in capture.get().splitlines()) + "\n"


# A real child.


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setattr(os, "environ", {**os.environ, **sync.ENVIRONMENT})
        patch.setattr(tracking_watch, "_LOOK", 0.05)
        yield


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def equals(study: Study, uri: str) -> None:
    assert_equals_journal(tracking.open_store(uri), study.home.journal)


def test_a_store_that_is_away_at_first_gets_everything_when_it_is_there(
    study: Study, uri: str, empty_store: Path, tmp_path: Path, told: list[str]
) -> None:
    (tmp_path / "away").write_text("a file where a folder should be")
    late = f"sqlite:///{tmp_path}/away/mlflow.db"
    with mirrored(study.name, study.home.out, late, told.append) as mirror:
        study.whole(study.trial())
        wait_for(lambda: told)
        assert mirror.state
        (tmp_path / "away").unlink()
        (tmp_path / "away").mkdir()
        shutil.copy(empty_store, tmp_path / "away/mlflow.db")
        study.whole(study.trial(stage="confirm"))
        wait_for(lambda: not mirror.state)
        study.verdict()
    away, back = told
    assert away.startswith(f"MLflow at {late}: [Errno 17] File exists")
    assert back == "MLflow has caught up: nothing is missing there"
    equals(study, late)


def test_a_child_that_is_killed_is_replaced_and_nothing_is_missing_or_twice(
    study: Study, uri: str, told: list[str]
) -> None:
    with mirrored(study.name, study.home.out, uri, told.append) as mirror:
        study.whole(study.trial())
        wait_for(lambda: tracking_state.read_state(study.home.folder))
        mirror._child._process.send_signal(signal.SIGKILL)
        wait_for(lambda: mirror.state)
        study.whole(study.trial(stage="confirm"))
        wait_for(lambda: not mirror.state)
        study.verdict()
    away, back = told
    assert "its process was ended by SIGKILL; it will be started again" in away
    assert back == "MLflow has caught up: nothing is missing there"
    equals(study, uri)


def test_a_child_that_is_dead_at_the_end_is_told_with_how_to_catch_up(
    study: Study, uri: str
) -> None:
    child = MirrorProcess.start(study.name, study.home.out, uri)
    child._process.kill()
    child._process.wait()
    warning = child.stop(WAIT)
    assert warning is not None
    assert warning.startswith("MLflow is behind (its process was ended by SIGKILL); to catch up:")
    study.whole(study.trial())
    study.verdict()
    subprocess.run([*_words(warning), "--tracking-uri", uri], check=True, capture_output=True)
    equals(study, uri)


def _words(warning: str) -> list[str]:
    return [sys.executable, *shlex.split(warning.partition("to catch up: ")[2])[1:]]


@pytest.mark.parametrize("state", [b"", b"{", b"\xff\xfe", b"[1]", b'{"uri": 1}', b"null"])
def test_a_damaged_memory_of_the_mirror_costs_nothing(study: Study, uri: str, state: bytes) -> None:
    study.whole(study.trial())
    place = [study.name, "--out", str(study.home.out), "--tracking-uri", uri]
    assert sync.main(place) == 0
    (study.home.folder / tracking_state.STATE).write_bytes(state)
    study.whole(study.trial(stage="confirm"))
    study.end(study.start(study.trial(index=1)), "diverged", "NaN", epochs=0)
    study.epoch(study.start(study.trial("sgd")), 1, train_loss=float("nan"))
    assert sync.main(place) == 0
    equals(study, uri)


@pytest.mark.parametrize("offset", [3, 10**9, -5, "7", None, 1.5])
def test_an_offset_that_no_mirror_wrote_costs_nothing(
    study: Study, uri: str, offset: object
) -> None:
    study.whole(study.trial())
    place = [study.name, "--out", str(study.home.out), "--tracking-uri", uri]
    assert sync.main(place) == 0
    path = study.home.folder / tracking_state.STATE
    path.write_text(json.dumps({**json.loads(path.read_text()), "offset": offset}))
    study.whole(study.trial(stage="confirm"))
    study.verdict()
    assert sync.main(place) == 0
    equals(study, uri)


def test_a_second_empty_store_gets_the_whole_study_too(
    study: Study, uri: str, empty_store: Path, tmp_path: Path
) -> None:
    study.whole(study.trial())
    study.whole(study.trial(stage="confirm"))
    study.verdict()
    shutil.copy(empty_store, tmp_path / "other.db")
    other = f"sqlite:///{tmp_path}/other.db"
    for store in (uri, other, uri):
        assert sync.main([study.name, "--out", str(study.home.out), "--tracking-uri", store]) == 0
        equals(study, store)
    equals(study, other)
