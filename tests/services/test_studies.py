"""Whole studies against a team's services: an MLflow server and a ledger on PostgreSQL."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from study import sync, tracking
from study.tracking_uri import default_uri
from tests.services.postgres import Postgres
from tests.services.tracking_server import TrackingServer
from tests.study.command import Ended, journal_lines, run, running
from tests.study.test_command import EXACT, ONE_PAIR, QUICK, TWO_ARMS
from tests.trainables import object_store
from trainables.checkpoint import unpacked
from trainables.storage import open_storage

pytestmark = pytest.mark.ray

SETTINGS = (*QUICK, TWO_ARMS, ONE_PAIR)
TRIALS = 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("whole")


@pytest.fixture(scope="module", autouse=True)
def whole(folder: Path) -> Ended:
    """The study with its ledger in the folder and its mirror in sqlite."""
    ended = run(folder, SETTINGS)
    assert ended.code == 0, ended.err
    return ended


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in sync.ENVIRONMENT.items():
        monkeypatch.setenv(key, value)


def artifacts(client: Any, run_id: str, path: str | None = None) -> dict[str, int]:
    """Every file of a run with its size."""
    found: dict[str, int] = {}
    for entry in client.list_artifacts(run_id, path):
        if entry.is_dir:
            found |= artifacts(client, run_id, entry.path)
        else:
            found[entry.path] = entry.file_size
    return found


def rows(uri: str, name: str = "quick") -> dict[str, Any]:
    """All that a store holds of a study but for ids of its own, by run name."""
    client = tracking.open_store(uri)
    experiment = client.get_experiment_by_name(name)
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    names = {run.info.run_id: run.info.run_name for run in runs}
    held: dict[str, Any] = {"tags": dict(experiment.tags)}
    for run_ in runs:
        info, data = run_.info, run_.data
        tags = dict(data.tags)
        parent = names.get(tags.pop("mlflow.parentRunId", ""))
        points = {
            key: [
                (p.step, p.timestamp, p.value) for p in client.get_metric_history(info.run_id, key)
            ]
            for key in data.metrics
        }
        times = (info.status, info.start_time, info.end_time, info.lifecycle_stage)
        files = artifacts(client, info.run_id)
        held[info.run_name] = (parent, times, tags, data.params, data.metrics, points, files)
    assert len(held) == len(runs) + 1
    return held


def test_mlflow_over_http_on_postgresql_holds_the_same_as_sqlite(
    folder: Path, tracking: TrackingServer
) -> None:
    place = ["quick", "--out", str(folder / "studies"), "--tracking-uri", tracking.uri]
    assert sync.main(place) == 0
    there, here = rows(tracking.uri), rows(default_uri(folder))
    assert len(here) == TRIALS + 2
    assert "report.html" in here["quick"][-1]
    assert any(path.startswith("plots/") for path in here["quick"][-1])
    assert [len(points) for points in here["sam_on/confirm/1"][5].values()].count(2) >= 7
    assert there == here
    assert sync.main(place) == 0
    assert rows(tracking.uri) == here


def test_a_study_on_both_services_goes_on_after_an_interrupt_to_the_same_bytes(
    folder: Path, tracking: TrackingServer, url: str, tmp_path: Path
) -> None:
    settings = [*SETTINGS, "study=shared"]
    words = ["--tracking-uri", tracking.uri, "--ledger", url]
    home = tmp_path / "studies/shared"
    with running(tmp_path, settings, arguments=words) as command:
        command.wait_for(lambda: len(journal_lines(home, kind="end")) >= 3)
        command.signal(signal.SIGINT)
        stopped = command.ended()
        assert stopped.code == 130, stopped.err
        assert stopped.err.strip() == "interrupted; the same command goes on from here"
        assert command.wait_for_children() == {}
    ended = run(tmp_path, settings, arguments=words)
    assert ended.code == 0, ended.err
    assert ended.err == ""
    assert "MLflow" not in ended.out
    assert ended.lines[-2] == f"to compare studies: {tracking.uri}"
    assert ended.lines[-1].startswith(f"this study there: {tracking.uri}/#/experiments/")
    starts = [line["trial"] for line in journal_lines(home, kind="start")]
    assert len(starts) == len(set(starts)) == TRIALS
    other = folder / "studies/quick"
    [mine], [theirs] = (journal_lines(each, kind="header") for each in (home, other))
    for name in EXACT:
        plain = (other / name).read_text().replace(theirs["hash"], mine["hash"])
        assert (home / name).read_text() == plain.replace("quick", "shared")
    assert not (home / "ledger.log").exists()
    held = b"".join(path.read_bytes() for path in home.rglob("*") if path.is_file())
    assert b"sesame" not in held
    found = rows(tracking.uri, "shared")
    assert len(found) == TRIALS + 2
    assert {found[name][1][0] for name in found if name != "tags"} == {"FINISHED"}


def test_a_study_with_its_checkpoints_on_s3_goes_on_after_a_signal_to_the_same_bytes(
    folder: Path, tmp_path: Path
) -> None:
    settings = [*SETTINGS, "checkpoint.epochs=1", "workload.epochs=12"]
    assert run(folder, [*settings, "study=long"]).code == 0
    with object_store.serving() as uri:
        words = ["--storage", uri]
        storage, home = open_storage(uri), tmp_path / "studies/long"
        with running(tmp_path, [*settings, "study=long"], arguments=words) as command:
            command.wait_for(lambda: bool(storage.names("long/checkpoints/sam_on/confirm/1")))
            command.signal(signal.SIGTERM)
            stopped = command.ended()
            assert stopped.code == 130, stopped.err
        assert not (home / "checkpoints").exists()
        forgotten = run(tmp_path, [*settings, "study=long"])
        assert forgotten.code == 2
        assert f"give --storage {uri} again" in forgotten.err
        ended = run(tmp_path, [*settings, "study=long"], arguments=words)
        assert ended.code == 0, ended.err
        assert "goes on from a checkpoint, " in ended.out
        assert storage.names("long/checkpoints") == []
        for arm in ("sam_all", "sam_on"):
            for index in range(2):
                weights = storage.read(f"long/weights/{arm}/confirm/{index}.pt")
                there = folder / f"studies/long/weights/{arm}/confirm/{index}.pt"
                assert unpacked(weights).keys() == unpacked(there.read_bytes()).keys()
                theirs = unpacked(there.read_bytes())["model"]
                for key, value in unpacked(weights)["model"].items():
                    assert torch.equal(value, theirs[key])
    for name in EXACT:
        assert (home / name).read_bytes() == (folder / "studies/long" / name).read_bytes()


def test_a_ledger_that_goes_away_costs_nothing_but_the_wait(
    folder: Path, own_server: Postgres, tmp_path: Path
) -> None:
    words = ["--ledger", own_server.url(own_server.database())]
    home = tmp_path / "studies/quick"

    def ended(trials: int) -> Callable[[], bool]:
        return lambda: len(journal_lines(home, kind="end")) >= trials

    with running(tmp_path, SETTINGS, arguments=words) as command:
        command.wait_for(ended(1))
        own_server.restart()
        command.wait_for(ended(3))
        own_server.stop()
        time.sleep(3)  # so that most likely something waits for it
        command.signal(signal.SIGINT)
        stopped = command.ended()
    assert stopped.code == 130, stopped.err
    assert stopped.err.strip() == "interrupted; the same command goes on from here"
    own_server.start()
    with running(tmp_path, SETTINGS, arguments=words) as command:
        command.wait_for(ended(5))
        own_server.stop()
        time.sleep(3)
        own_server.start()
        finished = command.ended()
    assert finished.code == 0, finished.err
    assert finished.err == ""
    names = [line["trial"] for line in journal_lines(home, kind="end")]
    assert len(names) == len(set(names)) == TRIALS
    for name in EXACT:
        plain = (folder / "studies/quick" / name).read_bytes()
        assert (home / name).read_bytes() == plain


def test_a_server_that_is_down_is_one_warning_and_caught_up_later(
    server: Postgres, folder: Path, tmp_path: Path
) -> None:
    late = TrackingServer(server.url(server.database()), tmp_path)
    ended = run(tmp_path, SETTINGS, arguments=["--tracking-uri", late.uri])
    assert ended.code == 0, ended.err
    assert ended.err == ""
    first, *rest = ended.lines
    assert first.startswith(f"MLflow at {late.uri}: ")
    assert "Connection refused" in first
    assert first.endswith("or later with python -m study.sync quick")
    [behind] = [line for line in rest if line.startswith("MLflow")]
    stages = [line for line in rest if " stage: " in line]
    assert stages
    assert all(line.endswith(", MLflow is behind") for line in stages)
    assert behind.startswith("MLflow is behind (")
    for name in EXACT:
        plain = (folder / "studies/quick" / name).read_bytes()
        assert (tmp_path / "studies/quick" / name).read_bytes() == plain
    late.start()
    try:
        out = str(tmp_path / "studies")
        assert sync.main(["quick", "--out", out, "--tracking-uri", late.uri]) == 0
        assert rows(late.uri).keys() == rows(default_uri(folder)).keys()
    finally:
        late.stop()


def test_a_wrong_password_of_the_tracking_database_is_wrong_input(
    server: Postgres, tmp_path: Path
) -> None:
    uri = server.url(server.database(), "open-sesame")
    ended = run(tmp_path, SETTINGS, arguments=["--tracking-uri", uri])
    assert ended.code == 2
    assert ended.out == ""
    [line] = ended.err.splitlines()
    assert line.startswith("--tracking-uri: MLflow at postgresql://***@127.0.0.1:")
    assert "password authentication failed" in line
    assert "sesame" not in line
    assert list(tmp_path.iterdir()) == []


def test_a_tracking_database_that_is_not_there_yet_is_one_warning(
    server: Postgres, url: str
) -> None:
    from study import tracking_probe

    assert tracking_probe.problem(url) is None
    missing = tracking_probe.problem(f"{url}x")
    assert missing is not None
    assert "does not exist" in missing.text
    assert not missing.lasting
