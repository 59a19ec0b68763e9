"""A ledger whose PostgreSQL goes away in the middle of a study."""

from __future__ import annotations

import threading

import pytest
from optuna.storages import InMemoryStorage

from study.ledger_store import open_url
from study.patience import Driver, GivenUp
from study.records import Trial
from study.simulate import Answer, Simulation
from study.tracking_uri import masked
from tests.services.postgres import Postgres
from tests.study.synthetic import hill, make_spec

SPEC = make_spec("tune.trials_per_arm=3", "confirm.seeds=3")


@pytest.fixture
def url(own_server: Postgres) -> str:
    return own_server.url(own_server.database())


def answer(trial: Trial) -> Answer:
    score = hill(trial)
    return Answer({"validation_accuracy": score, "test_accuracy": score, "test_loss": 0.1})


@pytest.mark.parametrize("every", [1, 4])
def test_a_study_is_the_same_with_restarts_of_the_server(
    own_server: Postgres, url: str, every: int
) -> None:
    count = 0

    def objective(trial: Trial) -> Answer:
        nonlocal count
        count += 1
        if count % every == 0:
            own_server.restart()
        return answer(trial)

    plain = Simulation(SPEC, answer, storage=InMemoryStorage())
    run = Simulation(SPEC, objective, storage=open_url(url))
    assert run.run() == plain.run()
    assert run.started == plain.started
    held = {s.study_name: s for s in run.storage.get_all_studies()}
    assert len(held) == 2 * len(SPEC.arms)
    for study in held.values():
        assert all(
            trial.state.is_finished() for trial in run.storage.get_all_trials(study._study_id)
        )


def test_an_outage_is_waited_for_and_told(own_server: Postgres, url: str) -> None:
    told: list[str] = []
    storage = open_url(url, Driver(lambda: False, lambda: None, told.append))
    own_server.stop()
    back = threading.Timer(1.5, own_server.start)
    back.start()
    run = Simulation(SPEC, answer, storage=storage)
    assert run.run() == Simulation(SPEC, answer).run()
    back.join()
    first, second = told
    assert first.startswith(f"the ledger {masked(url)} does not answer; waiting for it, for up to")
    assert "Connection refused" in first
    assert second == f"the ledger {masked(url)} answers again"
    assert "sesame" not in first


def test_a_request_to_stop_ends_the_wait(own_server: Postgres, url: str) -> None:
    stop = threading.Event()
    driver = Driver(stop.is_set, lambda: None, lambda text: stop.set())
    run = Simulation(SPEC, answer, storage=open_url(url, driver))
    run.run(trials=3)
    own_server.stop()
    try:
        with pytest.raises(GivenUp):
            run.run()
    finally:
        own_server.start()
    run.storage = open_url(url)
    scores = {r.trial.name: (r.trial, r.end.scores) for r in Simulation(SPEC, answer).run()}
    assert {r.trial.name: (r.trial, r.end.scores) for r in run.run()} == scores
    assert len(run.results) == len(scores)
