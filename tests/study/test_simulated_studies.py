"""Whole studies without Ray: budgets, stages, resume after any cut, choices, points, seeds."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState
from scipy.stats import qmc

from study import decide, space, stages, verdict
from study.ledger import Ledger, open_file
from study.records import End, Result, Trial
from study.simulate import Answer, Simulation
from study.spec import Spec
from tests.study.synthetic import confirm_trials, make_spec, search_trials

BEST = {"sam_all": 0.2, "sam_on": 2.0}


def truth(trial: Trial) -> Answer:
    """A parabola in log rho, with noise and a duration that only the trial's name decides."""
    noise = random.Random(trial.name)
    rho = trial.hyperparameters.get("rho")
    loss = math.log(float(rho) / BEST[trial.arm]) ** 2 if rho is not None else 3.0
    accuracy = 95 - loss + noise.gauss(0, 0.2)
    scores = {"validation_accuracy": accuracy}
    if trial.stage == "confirm":
        scores |= {"test_accuracy": accuracy, "test_loss": 1.0}
    return Answer(scores, seconds=noise.uniform(1, 3))


def scores(results: Sequence[Result]) -> dict[str, tuple[Trial, Mapping[str, float]]]:
    return {r.trial.name: (r.trial, r.end.scores) for r in results}


@pytest.mark.parametrize("workers", [1, 2, 3, 8])
@pytest.mark.parametrize("sampler", ["qmc", "random"])
def test_every_arm_gets_its_budget_and_no_trial_runs_twice(sampler: str, workers: int) -> None:
    spec = make_spec(f"tune.sampler={sampler}", "arms.sam_on.trials=7")
    simulation = Simulation(spec, truth, workers)
    results = simulation.run()
    counts = Counter((r.trial.arm, r.trial.stage) for r in results)
    assert counts == {
        ("sgd", "search"): 4,
        ("sam_all", "search"): 4,
        ("sam_on", "search"): 7,
        **{(arm, "confirm"): 6 for arm in spec.arms},
    }
    assert len({trial.name for trial in simulation.started}) == len(simulation.started)
    assert simulation.stages == ["search", "confirm"]


def test_no_confirm_trial_starts_before_the_last_search_trial_ended() -> None:
    results = Simulation(make_spec(), truth, 3).run()
    last = max(r.end.time for r in results if r.trial.stage == "search")
    assert min(r.started for r in results if r.trial.stage == "confirm") >= last


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 12), max_size=4), st.integers(1, 4))
def test_a_study_cut_off_anywhere_ends_as_if_it_was_not(cuts: list[int], workers: int) -> None:
    spec = make_spec()
    whole = Simulation(spec, truth, workers).run()
    parts = Simulation(spec, truth, workers)
    for cut in cuts:
        parts.run(cut)
    parts.run()
    ended = [result.trial.name for result in parts.results]
    assert len(ended) == len(set(ended))
    assert scores(parts.results) == scores(whole)
    assert verdict.decide(spec, parts.results).plain() == verdict.decide(spec, whole).plain()


def test_the_ledger_holds_no_running_trial_at_the_end() -> None:
    simulation = Simulation(make_spec(), truth)
    simulation.run(5)
    simulation.run()
    for study in simulation.storage.get_all_studies():
        states = {t.state for t in simulation.storage.get_all_trials(study._study_id)}
        assert states == {TrialState.COMPLETE}


def test_the_study_finds_the_best_rho_and_the_better_arm() -> None:
    spec = make_spec("tune.trials_per_arm=16")
    results = Simulation(spec, truth).run()
    chosen = stages.chosen(spec, results)
    assert float(chosen["sam_on"]["rho"]) == pytest.approx(2.0, rel=0.5)
    assert float(chosen["sam_all"]["rho"]) == pytest.approx(0.2, rel=0.5)
    words = {(c.arm, c.against): c.word for c in verdict.decide(spec, results).comparisons}
    assert words["sam_on", "sgd"] == "better"


@pytest.mark.parametrize("status", ["diverged", "failed"])
def test_a_trial_that_broke_counts_but_is_not_chosen(status: str) -> None:
    def broken(trial: Trial) -> Answer:
        if trial.stage == "search" and trial.index != 2:
            scores = {"validation_accuracy": 10.0} if status == "diverged" else {}
            return Answer(scores, status=status, reason="x")  # type: ignore[arg-type]
        return truth(trial)

    spec = make_spec()
    results = Simulation(spec, broken).run()
    assert sum(r.trial.stage == "search" for r in results) == 12
    points = space.points(spec, "sam_on")
    assert stages.chosen(spec, results)["sam_on"] == points[2]
    assert verdict.decide(spec, results).complete


def test_an_arm_whose_trials_all_failed_leaves_its_comparisons_incomplete() -> None:
    def broken(trial: Trial) -> Answer:
        return Answer({}, status="failed", reason="E") if trial.arm == "sam_on" else truth(trial)

    spec = make_spec()
    results = Simulation(spec, broken).run()
    assert not any(r.trial.arm == "sam_on" and r.trial.stage == "confirm" for r in results)
    judged = verdict.decide(spec, results)
    assert not judged.complete
    words = {(c.arm, c.against): c.word for c in judged.comparisons}
    assert words["sam_on", "sam_all"] == "incomplete"
    assert words["sgd", "sam_all"] != "incomplete"


def test_ties_go_to_the_lower_index() -> None:
    spec = make_spec()
    results = Simulation(spec, lambda trial: Answer({"validation_accuracy": 90.0})).run(12)
    assert stages.chosen(spec, results)["sam_all"] == space.points(spec, "sam_all")[0]


def test_seeds_are_those_of_the_design() -> None:
    spec = make_spec("tune.seed=5", "arms.sam_on.seed_offset=1000")
    search = {(t.arm, t.index): t.seed for t in search_trials(spec)}
    assert [search["sgd", i] for i in range(4)] == [5, 6, 7, 8]
    assert [search["sam_on", i] for i in range(4)] == [5, 5, 5, 5]
    confirm = confirm_trials(spec, {"sam_all": {"rho": 1.0}, "sam_on": {"rho": 1.0}})
    assert [t.seed for t in confirm] == [
        *(100_005 + i for i in range(6)),
        *(101_005 + i for i in range(6)),
    ]
    assert confirm[0].name == "tiny/sam_all/confirm/0"


def test_qmc_points_are_scrambled_sobol_points_in_the_suggested_range() -> None:
    spec = make_spec("tune.seed=3", "tune.trials_per_arm=5")
    units = qmc.Sobol(1, scramble=True, rng=np.random.default_rng(3)).random_base2(3)[:5, 0]
    for arm, low in (("sam_all", 0.02), ("sam_on", 0.1)):
        expected = [low * 50**u for u in units]
        assert [p["rho"] for p in space.points(spec, arm)] == pytest.approx(expected, rel=1e-12)


def shared(spec: Spec, arm: str) -> list[float]:
    span = spec.arms[arm].search["rho"]
    assert span.low is not None
    assert span.high is not None
    return [
        math.log(float(p["rho"]) / span.low) / math.log(span.high / span.low)
        for p in space.points(spec, arm)
    ]


@pytest.mark.parametrize("sampler", ["qmc", "random"])
def test_arms_share_unit_draws_whatever_else_they_tune(sampler: str) -> None:
    spec = make_spec(
        f"tune.sampler={sampler}",
        "arms.sam_on.trials=9",
        "arms.sam_on.search={lr: {low: 0.01, high: 1, log: true}, batch_size: {low: 16, high: 64}}",
    )
    narrow, wide = shared(spec, "sam_all"), shared(spec, "sam_on")
    assert wide[:4] == pytest.approx(narrow, abs=1e-12)
    assert all(0.01 <= float(p["lr"]) <= 1 for p in space.points(spec, "sam_on"))
    assert all(isinstance(p["batch_size"], int) for p in space.points(spec, "sam_on"))
    assert next(iter(spec.arms["sam_on"].search)) == "rho"


def test_a_grid_is_the_product_of_its_axes() -> None:
    spec = make_spec(
        "tune={sampler: grid}",
        "search={rho: {low: 0.1, high: 10, log: true, points: 3}, lr: {choices: [0.1, 0.2]}}",
    )
    points = space.points(spec, "sam_on")
    assert [(round(float(p["rho"]), 9), p["lr"]) for p in points] == [
        (r, lr) for r in (0.1, 1.0, 10.0) for lr in (0.1, 0.2)
    ]
    assert spec.arms["sam_on"].trials == 6
    assert [p["lr"] for p in space.points(spec, "sgd")] == [0.1, 0.2]


def test_the_hash_is_of_what_decides_the_numbers() -> None:
    spec = make_spec()
    same = ("question=Another?", "resources.max_trials=1")
    assert make_spec(*same).hash == spec.hash
    assert Spec.model_validate(spec.model_dump()).hash == spec.hash
    written_out = make_spec(
        "search={}",
        "arms.sam_all.search={rho: {low: 0.02, high: 1.0, log: true}}",
        "arms.sam_on.search={rho: {low: 0.1, high: 5, log: true}}",
    )
    assert written_out.hash == spec.hash
    for other in ("tune.seed=1", "resources.cpu=2", "workload.epochs=4", "confirm.seeds=7"):
        assert make_spec(other).hash != spec.hash


def test_turns_go_round_the_arms() -> None:
    cost = {"a": 1.0, "b": 1.0, "c": 2.0}
    assert decide.ask({"a": 1, "b": 2}, {"a": 0, "b": 0}, cost) == "a"
    assert decide.ask({"a": 1, "b": 2}, {"a": 1, "b": 0}, cost) == "b"
    assert decide.ask({"a": 0, "b": 2}, {"a": 0, "b": 5}, cost) == "b"
    assert decide.ask({"a": 0, "b": 0}, {"a": 4, "b": 5}, cost) is None
    assert decide.ask({"a": 1, "b": 1, "c": 1}, {"a": 3, "b": 3, "c": 3}, cost) == "c"


def test_a_ledger_file_with_a_torn_last_line_goes_on(tmp_path: Path) -> None:
    spec, path = make_spec(), tmp_path / "ledger.log"
    ledger = Ledger(open_file(path), spec)
    ledger.open_stage("search", stages.search_slots(spec), [])
    first = ledger.ask("search")
    assert first is not None
    end = End(first.name, "finished", "", {"validation_accuracy": 50.0}, 3, 0.0)
    ledger.tell(end)
    second = ledger.ask("search")
    path.write_bytes(path.read_bytes() + b'{"op_code": 4, "wor')
    again = Ledger(open_file(path), spec)
    again.open_stage("search", stages.search_slots(spec), [Result(first, end)])
    handed = [again.ask("search") for _ in range(12)]
    assert second in handed
    assert first not in handed
    assert handed[-1] is None
    assert len({trial.name for trial in handed if trial}) == 11
