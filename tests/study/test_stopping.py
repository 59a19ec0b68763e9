"""A request to stop a study, left in its ledger."""

from __future__ import annotations

import threading
from pathlib import Path

import optuna
import pytest
from optuna.storages import InMemoryStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend

from study import stop
from study.home import Home
from study.stopping import heard, request
from tests.study.synthetic import make_spec
from tests.study.test_standing import write

_PATIENCE = 30.0  # seconds; it takes one


def test_a_request_of_another_process_is_heard(tmp_path: Path) -> None:
    path = str(tmp_path / "ledger.log")
    driver, other = (JournalStorage(JournalFileBackend(path)) for _ in range(2))
    asked = threading.Event()
    with heard(driver, "s", asked.set):
        request(other, "s")  # nothing to leave it in yet
        optuna.create_study(storage=driver, study_name="s/sgd/search")
        request(other, "s")
        assert asked.wait(_PATIENCE)


def test_one_for_an_earlier_execution_or_another_study_is_not_heard() -> None:
    storage, asked = InMemoryStorage(), threading.Event()
    for name in ("s/sgd/search", "s2/sgd/search"):
        optuna.create_study(storage=storage, study_name=name)
    request(storage, "s")
    with heard(storage, "s", asked.set):
        request(storage, "s2")
        assert not asked.wait(2.5)
        request(storage, "s")
        assert asked.wait(_PATIENCE)


def test_a_ledger_that_fails_for_a_while_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    storage, asked, failed = InMemoryStorage(), threading.Event(), threading.Event()
    optuna.create_study(storage=storage, study_name="s/sgd/search")
    found = storage.get_study_user_attrs

    def away(study_id: int) -> dict[str, object]:
        if not failed.is_set():
            failed.set()
            raise ConnectionError("away")
        return found(study_id)

    with heard(storage, "s", asked.set):
        monkeypatch.setattr(storage, "get_study_user_attrs", away)
        assert failed.wait(_PATIENCE)
        request(storage, "s")
        assert asked.wait(_PATIENCE)


def test_a_study_that_does_not_run_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(Home(tmp_path, "tiny"), make_spec(), 3)
    assert stop.main(["tiny", "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "tiny does not run\n"
    assert stop.main(["other", "--out", str(tmp_path)]) == 2
    assert "holds no study 'other'" in capsys.readouterr().err
