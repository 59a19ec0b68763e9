"""Which ledger a study may have, as far as that is known without a database."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from study import preflight, run
from study.home import Home
from study.ledger_store import reserved
from study.patience import ALONE
from study.resolve import load
from study.yamlfile import SpecError
from tests.study.command import SPEC
from tests.study.synthetic import make_spec
from tests.study.test_preflight import FACTS

URL = "postgresql://ada:hunter2@db.example/ledgers"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


def begin(home: Home, ledger: str | None) -> None:
    with home.claimed(), preflight.opened(home, make_spec(), FACTS, ledger):
        pass


def refused(home: Home, url: str | None) -> str:
    with pytest.raises(SpecError) as caught, reserved(home, home.contents(), url):
        pass
    message = str(caught.value)
    assert "hunter2" not in message
    assert "\n" not in message
    return message


def test_without_a_url_it_is_a_file_that_opening_makes(tmp_path: Path) -> None:
    home = Home(tmp_path, "tiny")
    with reserved(home, None, None) as store:
        assert store.recorded is None
        assert list(tmp_path.iterdir()) == []
        begin(home, store.recorded)
        store.open(ALONE)
    assert home.ledger.exists()
    with reserved(home, home.contents(), None):
        pass


@pytest.mark.parametrize(
    "url", ["", "ledger.log", "sqlite:///x.db", "postgres://db/x", "mysql://db/x", "redis://db"]
)
def test_only_postgresql_holds_ledgers(tmp_path: Path, url: str) -> None:
    told = refused(Home(tmp_path, "tiny"), url)
    assert "unknown kind of ledger; allowed: postgresql://USER@HOST:PORT/NAME" in told


def test_a_url_that_is_none_is_told(tmp_path: Path) -> None:
    told = refused(Home(tmp_path, "tiny"), "postgresql://ada:hunter2@host:port/x")
    assert "not a database URL" in told or "driver is not installed" in told


def test_without_its_driver_it_is_told_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    told = refused(Home(tmp_path, "tiny"), URL)
    assert told.startswith("--ledger: 'postgresql://***@db.example/ledgers': its database driver")
    assert told.endswith("pip install 'sam-study[server]'")


def test_a_study_keeps_the_ledger_that_it_began_with(tmp_path: Path) -> None:
    in_file, in_database = Home(tmp_path, "file"), Home(tmp_path, "database")
    begin(in_file, None)
    begin(in_database, "postgresql://***@db.example/ledgers")
    told = refused(in_file, URL)
    assert told.endswith("this study began with the ledger in its folder; leave out --ledger")
    for other in (None, f"{URL}_2", URL.replace("db.", "db2.")):
        told = refused(in_database, other)
        assert "began with the ledger postgresql://***@db.example/ledgers; name it again" in told


def test_a_study_of_an_earlier_version_has_its_ledger_in_the_folder(tmp_path: Path) -> None:
    home = Home(tmp_path, "tiny")
    begin(home, None)
    text = home.journal.read_text()
    assert text.count(', "ledger": null') == 1
    home.journal.write_text(text.replace(', "ledger": null', ""))
    with reserved(home, home.contents(), None):
        pass


def test_the_command_names_the_ledger_it_refuses_and_makes_nothing(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, part in (
        (["--ledger", "sqlite:///x.db"], "--ledger: 'sqlite:///x.db': unknown kind of ledger"),
        (
            ["--ledger", f"sqlite:///{here}/x.db", "--tracking-uri", "sqlite:///x.db"],
            "--ledger: the tracking store lies there; name a database of its own",
        ),
    ):
        assert run.main([str(SPEC), *arguments]) == 2
        told = capsys.readouterr()
        assert told.out == ""
        assert part in told.err
        assert told.err.count("\n") == 1
    assert list(here.iterdir()) == []


def test_the_plan_asks_no_ledger_and_no_store(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nowhere = ["--ledger", "nowhere://", "--tracking-uri", "nowhere://"]
    assert run.main([str(SPEC), "--plan", *nowhere]) == 0
    assert load(SPEC).study in capsys.readouterr().out
    assert list(here.iterdir()) == []
