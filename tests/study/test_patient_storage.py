"""The ledger's storage where answers of its database get lost. SQLite stands for PostgreSQL."""

from __future__ import annotations

import itertools
import re
import sqlite3
from collections.abc import Callable
from pathlib import Path

import numpy as np
import optuna
import psycopg
import pytest
from optuna.exceptions import DuplicatedStudyError, UpdateFinishedTrialError
from optuna.storages import BaseStorage, InMemoryStorage, RDBStorage, _cached_storage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial
from psycopg import errors
from sqlalchemy import event
from sqlalchemy.engine.default import DefaultDialect
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError

from study import ledger_store, patience
from study.ledger import Ledger
from study.patience import ALONE, AwayError, Patience
from study.patient_storage import PatientStorage, is_away
from study.simulate import Answer, Simulation
from study.spec import Spec
from tests.study.lossy import Lossy
from tests.study.synthetic import hill, make_spec

SPEC = make_spec("tune.trials_per_arm=3", "confirm.seeds=2")


def opened(path: Path) -> PatientStorage:
    storage = ledger_store.open_url(f"sqlite:///{path}")
    assert isinstance(storage, PatientStorage)
    # nothing here has to outlive the machine
    event.listen(storage.engine, "connect", lambda c, _: c.execute("PRAGMA synchronous=OFF"))
    storage.engine.dispose()
    return storage


@pytest.fixture
def storage(tmp_path: Path) -> PatientStorage:
    return opened(tmp_path / "ledger.db")


@pytest.fixture(autouse=True)
def _sqlite_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_store, "CONNECTION", {})
    monkeypatch.setattr(patience, "_BLINK", 0.001)


def once(number: int) -> Callable[[int], bool]:
    return lambda commit: commit == number


def simulation(spec: Spec, storage: BaseStorage) -> Simulation:
    def objective(trial: object) -> Answer:
        score = hill(trial)  # type: ignore[arg-type]
        curve = [score - 2, score - 1] if spec.tune.pruner == "median" else []
        scores = {"validation_accuracy": score, "test_accuracy": score, "test_loss": 0.1}
        return Answer(scores, curve=curve)

    return Simulation(spec, objective, storage=storage)


def told(run: Simulation) -> list[tuple[object, ...]]:
    """All that a study came to, in order."""
    return [(r.trial, r.end.status, r.end.scores) for r in run.results]


def trials(storage: BaseStorage) -> dict[str, list[FrozenTrial]]:
    return {
        study.study_name: storage.get_all_trials(study._study_id)
        for study in storage.get_all_studies()
    }


def error(kind: type[psycopg.Error], text: str = "", broken: bool = False) -> Exception:
    return DBAPIError.instance(
        "SELECT 1", {}, kind(text), psycopg.Error, connection_invalidated=broken
    )


def test_every_method_that_optuna_calls_waits() -> None:
    source = Path(_cached_storage.__file__).read_text()
    called = set(re.findall(r"self\._backend\.(\w+)", source))
    asks = {name for name in vars(BaseStorage) if not name.startswith("_")} | called
    heartbeat = {name for name in asks if "heartbeat" in name or "stale" in name}
    in_memory = {"remove_session", "check_trial_is_updatable"}
    # made of the others
    composed = {"create_new_trial", "set_trial_param", "get_all_trials", "get_best_trial"}
    composed |= {"get_n_trials", "get_trial_number_from_id", "get_trial_params"}
    waits = {name for name in asks if name in vars(PatientStorage)}
    assert asks - waits == heartbeat | in_memory | composed
    assert all(getattr(RDBStorage, name, None) is not None for name in waits)


@pytest.mark.parametrize(
    "away",
    [
        error(psycopg.OperationalError, "connection failed: Connection refused"),
        error(psycopg.OperationalError, "server closed the connection unexpectedly"),
        error(psycopg.InterfaceError, "the connection is closed"),
        error(psycopg.DatabaseError, "lost synchronization", broken=True),
        error(errors.AdminShutdown),
        error(errors.CannotConnectNow),
        error(errors.TooManyConnections),
        error(errors.ConnectionFailure),
    ],
)
def test_a_server_that_is_away_is_known_by_its_errors(away: Exception) -> None:
    assert is_away(away)


@pytest.mark.parametrize(
    "other",
    [
        None,
        ValueError("Connection refused"),
        error(psycopg.OperationalError, 'FATAL:  database "x" does not exist'),
        error(psycopg.OperationalError, 'FATAL:  password authentication failed for user "x"'),
        error(psycopg.ProgrammingError, "syntax"),
        error(errors.DeadlockDetected),
        error(errors.DiskFull),
        error(errors.UndefinedTable),
        error(errors.UniqueViolation),
    ],
)
def test_other_errors_are_what_they_are(other: Exception | None) -> None:
    assert not is_away(other)


def test_the_error_that_stays_is_the_database_s_own(tmp_path: Path) -> None:
    hasty = Patience("X", ALONE, limit=0.0)
    storage = PatientStorage(f"sqlite:///{tmp_path / 'x.db'}", {}, hasty)
    Lossy(storage, lambda commit: True)
    with pytest.raises(OperationalError, match="server closed the connection") as caught:
        storage.get_all_studies()
    assert not isinstance(caught.value.__cause__, AwayError)


def test_an_integrity_error_is_still_one(storage: PatientStorage) -> None:
    storage.create_new_study([StudyDirection.MAXIMIZE], "x")
    with pytest.raises(DuplicatedStudyError):
        storage.create_new_study([StudyDirection.MAXIMIZE], "x")
    assert not is_away(IntegrityError("", {}, Exception()))


def test_tables_are_made_though_answers_get_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commits, commit = itertools.count(), DefaultDialect.do_commit

    def lossy(dialect: DefaultDialect, connection: DBAPIConnection) -> None:
        commit(dialect, connection)  # type: ignore[no-untyped-call]
        if next(commits) in (0, 2, 3):  # each time all begins again
            raise sqlite3.OperationalError("server closed the connection unexpectedly")

    monkeypatch.setattr(DefaultDialect, "do_commit", lossy)
    storage = opened(tmp_path / "ledger.db")
    assert next(commits) > 4
    assert storage.get_all_studies() == []


def test_a_study_is_loaded_where_it_was_made_and_the_answer_lost(storage: PatientStorage) -> None:
    lossy = Lossy(storage, once(0))
    study = optuna.create_study(storage=storage, study_name="x", load_if_exists=True)
    assert lossy.lost == 1
    assert [each.study_name for each in storage.get_all_studies()] == [study.study_name] == ["x"]


@pytest.fixture
def trial(storage: PatientStorage) -> int:
    study = storage.create_new_study([StudyDirection.MAXIMIZE], "x")
    return storage.create_new_trial(study, create_trial(state=TrialState.WAITING))


def test_a_trial_is_ours_where_it_was_taken_and_the_answer_lost(
    storage: PatientStorage, trial: int
) -> None:
    lossy = Lossy(storage, once(0))
    assert storage.set_trial_state_values(trial, TrialState.RUNNING)
    assert lossy.lost == 1
    assert not storage.set_trial_state_values(trial, TrialState.RUNNING)  # no answer was lost


def test_an_end_is_told_where_it_was_told_and_the_answer_lost(
    storage: PatientStorage, trial: int
) -> None:
    lossy = Lossy(storage, once(1))
    storage.set_trial_state_values(trial, TrialState.RUNNING)
    assert storage.set_trial_state_values(trial, TrialState.COMPLETE, [3.0])
    assert lossy.lost == 1
    assert storage.get_trial(trial).value == 3.0
    with pytest.raises(UpdateFinishedTrialError):
        storage.set_trial_state_values(trial, TrialState.COMPLETE, [4.0])


def test_parameters_and_attributes_are_once_what_they_are(
    storage: PatientStorage, trial: int
) -> None:
    lossy = Lossy(storage, lambda commit: commit in (0, 1, 3, 5))  # the first is not made again
    span = optuna.distributions.FloatDistribution(0, 1)
    storage.set_trial_param(trial, "rho", 0.5, span)
    storage.set_trial_user_attr(trial, "index", 3)
    storage.set_trial_system_attr(trial, "fixed_params", {})
    storage.set_trial_intermediate_value(trial, 1, 50.0)
    assert lossy.lost == 4
    there = storage.get_trial(trial)
    assert (there.params, there.user_attrs) == ({"rho": 0.5}, {"index": 3})
    assert there.intermediate_values == {1: 50.0}


def test_a_slot_made_twice_is_run_once(storage: PatientStorage) -> None:
    """The answer to each making of a trial gets lost once."""
    make, made = storage._create_new_trial, []

    def twice(*arguments: object) -> object:
        made.append(make(*arguments))  # type: ignore[arg-type]
        return make(*arguments)  # type: ignore[arg-type]

    storage._create_new_trial = twice  # type: ignore[method-assign, assignment]
    run, plain = simulation(SPEC, storage), simulation(SPEC, InMemoryStorage())
    assert run.run() == plain.run()
    assert len(made) == len(run.results) == 15
    for there in trials(storage).values():
        assert [trial.state for trial in there[1::2]] == [TrialState.FAIL] * (len(there) // 2)
        assert all(trial.state == TrialState.COMPLETE for trial in there[::2])


COMMITS = 160
"""At least as many as a whole study makes."""


@pytest.mark.parametrize("number", range(0, COMMITS, 11))
def test_a_study_is_the_same_whichever_answer_got_lost(
    storage: PatientStorage, number: int
) -> None:
    lossy = Lossy(storage, lambda commit: number <= commit < number + 2)
    run, plain = simulation(SPEC, storage), simulation(SPEC, InMemoryStorage())
    run.run(), plain.run()
    assert told(run) == told(plain)
    assert lossy.lost == 2
    assert [trial.name for trial in run.started] == [trial.name for trial in plain.started]


@pytest.mark.parametrize(
    "settings",
    [
        (),
        ("tune.sampler=tpe", "tune.trials_per_arm=6"),
        ("tune.pruner=median",),
        ("tune.search_seeds=2",),
    ],
)
@pytest.mark.parametrize("seed", range(2))
def test_a_study_is_the_same_with_crashes_and_many_lost_answers(
    tmp_path: Path, settings: tuple[str, ...], seed: int
) -> None:
    spec = make_spec("tune.trials_per_arm=3", "confirm.seeds=2", *settings)
    draws = np.random.default_rng(seed)
    plain = simulation(spec, InMemoryStorage())
    plain.run()
    run = simulation(spec, InMemoryStorage())
    lost = 0
    while True:
        storage = opened(tmp_path / "ledger.db")
        lossy = Lossy(storage, lambda commit: bool(draws.random() < 0.2))
        run.storage = storage
        before = len(run.results)
        run.run(trials=int(draws.integers(1, 16)))
        lost += lossy.lost
        if len(run.results) == before:
            break
    assert lost > 10
    names = [result.trial.name for result in run.results]
    assert len(names) == len(set(names))
    assert set(names) == {result.trial.name for result in plain.results}
    if not settings:
        assert sorted(told(run), key=str) == sorted(told(plain), key=str)
    held = [trial for study in trials(run.storage).values() for trial in study]
    assert all(trial.state.is_finished() for trial in held)


def test_a_slot_that_a_crash_left_twice_is_run_once(storage: PatientStorage) -> None:
    ledger = Ledger(storage, SPEC)
    ledger.open_stage("search", [], [])
    [study, *_] = storage.get_all_studies()
    attributes = {"index": 0, "seeds": [0]}
    for _ in range(2):
        optuna.load_study(study_name=study.study_name, storage=storage).enqueue_trial(
            {}, user_attrs=attributes
        )
    run, plain = simulation(SPEC, storage), simulation(SPEC, InMemoryStorage())
    run.run(), plain.run()
    assert told(run) == told(plain)
