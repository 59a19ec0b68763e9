"""A real MLflow server that goes away and comes back while a study writes its journal."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from study import sync, tracking, tracking_state, tracking_watch
from study.tracking_watch import mirrored
from tests.services.tracking_server import TrackingServer
from tests.study.mirror_check import assert_equals_journal
from tests.study.mirrored import Study

_PATIENCE = 180.0
CAUGHT_UP = "MLflow has caught up: nothing is missing there"


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setattr(os, "environ", {**os.environ, **sync.ENVIRONMENT})
        yield


@pytest.fixture
def server(tmp_path: Path) -> Iterator[TrackingServer]:
    """A server on a file of its own, not started yet."""
    made = TrackingServer(f"sqlite:///{tmp_path}/server.db", tmp_path)
    yield made
    made.stop()


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study(tmp_path / "studies")


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + _PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def synced(study: Study, uri: str) -> int:
    return sync.main([study.name, "--out", str(study.home.out), "--tracking-uri", uri])


def equals(study: Study, uri: str) -> None:
    assert_equals_journal(tracking.open_store(uri), study.home.journal)


def test_away_at_the_start_then_killed_in_the_middle_and_back(
    server: TrackingServer, study: Study
) -> None:
    told: list[str] = []
    with mirrored(study.name, study.home.out, server.uri, told.append) as mirror:
        study.whole(study.trial())
        wait_for(lambda: mirror.state)
        server.start()
        wait_for(lambda: not mirror.state)
        begun = study.start(study.trial(stage="confirm"))
        study.epoch(begun, 1)
        wait_for(lambda: _mirrored_to(study) == study.home.journal.stat().st_size)
        server.kill()
        study.epoch(begun, 2)
        wait_for(lambda: mirror.state)
        study.epoch(begun, 3)
        study.end(begun)
        server.start()
        wait_for(lambda: not mirror.state)
        study.end(study.start(study.trial(index=1)), "diverged", "NaN in epoch 1", epochs=0)
        study.verdict()
    first, second, third, fourth = told
    refused = f"MLflow at {server.uri}: [Errno 111] Connection refused; the study runs all the same"
    assert first.startswith(refused)
    assert third.startswith(f"MLflow at {server.uri}: ")
    assert (second, fourth) == (CAUGHT_UP, CAUGHT_UP)
    equals(study, server.uri)


def _mirrored_to(study: Study) -> int:
    state = tracking_state.read_state(study.home.folder)
    return state.offset if state else 0


def test_away_throughout_then_one_command_and_a_second_server_as_well(
    server: TrackingServer, study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking_watch, "_WHEN_DONE", 60.0)
    told: list[str] = []
    away = f"MLflow at {server.uri}: Connection refused"  # as the probe before the start said
    with mirrored(study.name, study.home.out, server.uri, told.append, away) as mirror:
        study.whole(study.trial())
        study.whole(study.trial(stage="confirm"))
        open_trial = study.start(study.trial("sgd"))
        study.epoch(open_trial, 1)
        assert mirror.state
    [behind] = told
    assert behind.startswith("MLflow is behind (")
    assert "Connection refused" in behind
    assert synced(study, server.uri) == 1
    server.start()
    assert synced(study, server.uri) == 0
    equals(study, server.uri)

    study.epoch(open_trial, 2)
    study.end(open_trial, epochs=2)
    study.verdict()
    (tmp_path / "second").mkdir()
    second = TrackingServer(f"sqlite:///{tmp_path}/second.db", tmp_path / "second")
    second.start()
    try:
        for uri in (second.uri, server.uri):
            assert synced(study, uri) == 0
            equals(study, uri)
    finally:
        second.stop()
