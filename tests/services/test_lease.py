"""The lease of a study: one driver, whatever happens to it or to its server."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import NullPool, create_engine, inspect, text
from sqlalchemy.exc import OperationalError

from study import lease
from study.home import Home
from study.journal import RecordError
from study.lease import Lease
from study.ledger_store import reserved
from study.patience import Driver, GivenUp
from study.yamlfile import SpecError
from tests.services.postgres import Postgres
from tests.study.command import ROOT


def nothing(connection: object) -> None:
    """Is wrong with the database."""


def leased(url: str, name: str = "tiny") -> Lease:
    return Lease(create_engine(url, poolclass=NullPool), name)


def run(url: str, statement: str) -> None:
    with create_engine(url, poolclass=NullPool).begin() as connection:
        connection.execute(text(statement))


def tables(url: str) -> list[str]:
    return inspect(create_engine(url, poolclass=NullPool)).get_table_names()


@contextmanager
def elsewhere(url: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lease of 'tiny' until its input ends."""
    code = (
        "import sys; from sqlalchemy import create_engine; from study.lease import Lease; "
        "lease = Lease(create_engine(sys.argv[1]), 'tiny'); "
        "print(lease.take(lambda connection: None), flush=True); sys.stdin.read()"
    )
    words = [sys.executable, "-c", code, url]
    process = subprocess.Popen(
        words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "None\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_second_driver_is_told_who_holds_it_and_when_it_is_free(url: str) -> None:
    with elsewhere(url) as process:
        run(url, "UPDATE study_lease SET beat = beat - interval '20 seconds'")
        told = leased(url).take(nothing)
        assert told is not None
        head, _, rest = told.partition(f", pid {process.pid}, ")
        assert head.startswith("another process runs a study 'tiny' with this ledger: ")
        assert rest.startswith("heard of 2")
        assert " s ago; wait for it, or stop it first; if it is dead, the study is free in " in rest
        assert leased(url, "tiny_2").take(nothing) is None


def test_of_drivers_that_start_at_once_one_runs(url: str) -> None:
    for number in range(20):
        name = f"study-{number % 4}"  # the first times with the table still to be made
        ready = threading.Barrier(3)

        def start(name: str, ready: threading.Barrier) -> Lease | None:
            mine = leased(url, name)
            ready.wait()
            return mine if mine.take(nothing) is None else None

        with ThreadPoolExecutor(3) as threads:
            started = [threads.submit(start, name, ready) for _ in range(3)]
        [holder] = [lease for each in started if (lease := each.result()) is not None]
        with holder.kept():
            pass
        assert tables(url) == []


def test_one_that_gave_no_sign_of_life_is_taken_over_and_finds_out(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "BEAT", 0.05)
    found = threading.Event()
    with elsewhere(url):
        run(url, "UPDATE study_lease SET beat = beat - interval '61 seconds'")
        mine = leased(url)
        assert mine.take(nothing) is None
        mine.when_lost(found.set)
        with mine.kept():
            assert not found.wait(0.3)
            run(url, "UPDATE study_lease SET holder = 'x', host = 'node-2', pid = 7")
            assert found.wait(30)
            assert (mine.lost, mine.taker) == (True, "node-2, pid 7")
    assert tables(url) == ["study_lease"]
    again = threading.Event()
    mine.when_lost(again.set)
    assert again.is_set()


def test_a_driver_that_was_killed_here_holds_up_nobody(url: str) -> None:
    with elsewhere(url) as process:
        assert leased(url).take(nothing) is not None
        process.kill()
        process.wait()
        assert leased(url).take(nothing) is None


def test_one_that_was_killed_on_another_machine_does_until_it_expires(url: str) -> None:
    with elsewhere(url) as process:
        process.kill()
    run(url, "UPDATE study_lease SET host = 'node-2'")
    told = leased(url).take(nothing)
    assert told is not None
    assert f"node-2, pid {process.pid}, " in told
    run(url, "UPDATE study_lease SET beat = beat - interval '61 seconds'")
    assert leased(url).take(nothing) is None


def test_it_outlives_its_server(own_server: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    url = own_server.url(own_server.database())
    monkeypatch.setattr(lease, "BEAT", 0.05)
    monkeypatch.setattr(lease, "_RETRY", 0.05)
    mine = leased(url)
    assert mine.take(nothing) is None
    with mine.kept():
        own_server.stop()
        with pytest.raises(OperationalError):
            leased(url).take(nothing)
        own_server.start()
        run(url, "UPDATE study_lease SET beat = beat - interval '61 seconds'")
        beats = "SELECT beat > clock_timestamp() - interval '30 seconds' FROM study_lease"
        engine = create_engine(url, poolclass=NullPool)
        for _ in range(600):
            with engine.connect() as connection:
                if connection.scalar(text(beats)):
                    break
            threading.Event().wait(0.05)
        assert leased(url).take(nothing) is not None
        assert not mine.lost
    assert tables(url) == []


def test_a_start_that_is_refused_makes_nothing(url: str) -> None:
    assert leased(url).take(lambda connection: "no") == "no"
    assert tables(url) == []


def test_a_study_that_lost_it_stops_and_writes_nothing_more(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "BEAT", 0.05)
    stopped = threading.Event()

    def driven() -> None:
        with reserved(Home(tmp_path, "tiny"), None, url) as store:
            storage = store.open(Driver(stopped.is_set, stopped.set, pytest.fail))
            run(url, "UPDATE study_lease SET holder = 'x', host = 'node-2', pid = 7")
            assert stopped.wait(30)
            with pytest.raises(GivenUp):
                storage.get_all_studies()
            raise KeyboardInterrupt

    with pytest.raises(RecordError) as caught:
        driven()
    assert str(caught.value).endswith(
        "node-2, pid 7 took the study over while this process was out of touch with it"
    )
    with (
        pytest.raises(SpecError, match="node-2, pid 7"),
        reserved(Home(tmp_path, "tiny"), None, url),
    ):
        pass
