"""Every sampler with every pruner, on the simulated engine: budgets, states, seeds, restarts."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Sequence

import pytest
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState

from study import algorithms, analysis, stages
from study.records import Result, Status, Trial
from study.simulate import Answer, Simulation
from study.spec import Spec
from tests.study.synthetic import make_spec

SAMPLERS = ("qmc", "random", "grid", "tpe", "gp", "cmaes")
PRUNERS = ("none", "median", "successive_halving", "hyperband", "wilcoxon")
TWO_RANGES = "search={rho: {low: 0.05, high: 5, log: true}, lr: {low: 0.01, high: 1, log: true}}"
TWO_AXES = "search={rho: {low: 0.1, high: 5, points: 3}, lr: {choices: [0.1, 0.2]}}"


def a_spec(sampler: str, pruner: str, *more: str) -> Spec:
    search = TWO_AXES if sampler == "grid" else TWO_RANGES
    budget = (
        "{sampler: grid}" if sampler == "grid" else f"{{sampler: {sampler}, trials_per_arm: 6}}"
    )
    seeds = ["tune.search_seeds=4"] if pruner == "wilcoxon" else []
    return make_spec(
        f"tune={budget}",
        f"tune.pruner={pruner}",
        *seeds,
        search,
        "workload.epochs=9",
        "arms.plain={variant: none, search: {}}",
        "arms.sgd={variant: none}",
        *more,
    )


def noisy(trial: Trial) -> Answer:
    """Some trials diverge, some fail; the rest are the better the nearer rho is to 1."""
    drawn = random.Random(trial.name)
    status: Status = drawn.choices(("finished", "diverged", "failed"), (8, 1, 1))[0]
    goodness = 80 - 10 * abs(float(trial.hyperparameters.get("rho", 1.0)) - 1) + drawn.random()
    accuracy = goodness if status == "finished" else 10.0
    curve = [accuracy * (1 - 0.7**epoch) for epoch in range(1, 9)]
    scores = {"validation_accuracy": accuracy, "test_accuracy": accuracy, "test_loss": 1.0}
    known = {} if status == "failed" else scores
    return Answer(known, drawn.randint(1, 9), status, "", curve if status == "finished" else ())


def states(storage: InMemoryStorage) -> Counter[TrialState]:
    every = itertools.chain.from_iterable(
        storage.get_all_trials(study._study_id) for study in storage.get_all_studies()
    )
    return Counter(trial.state for trial in every)


def assert_exact(spec: Spec, results: Sequence[Result]) -> None:
    counts = Counter((r.trial.arm, r.trial.stage) for r in results)
    for name in spec.arms:
        assert counts[name, "search"] == stages.search_runs(spec, name)
        assert counts[name, "confirm"] == spec.confirm.seeds
    assert len({r.trial.name for r in results}) == len(results)


@pytest.mark.parametrize(("sampler", "pruner"), itertools.product(SAMPLERS, PRUNERS))
def test_budgets_are_exact_with_two_trials_at_once_and_nothing_stays_running(
    sampler: str, pruner: str
) -> None:
    spec = a_spec(sampler, pruner)
    storage = InMemoryStorage()
    results = Simulation(spec, noisy, 2, storage).run()
    assert_exact(spec, results)
    assert set(states(storage)) <= {TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL}
    assert not any(r.end.status == "pruned" for r in results if r.trial.stage == "confirm")


@pytest.mark.parametrize("pruner", ["median", "successive_halving", "hyperband"])
def test_a_pruner_stops_bad_trials_early_with_what_they_reached(pruner: str) -> None:
    spec = a_spec("qmc", pruner, "tune.trials_per_arm=20")
    storage = InMemoryStorage()
    results = Simulation(spec, noisy, 2, storage).run()
    pruned = [r for r in results if r.end.status == "pruned"]
    assert pruned
    finished = [r for r in results if r.end.status == "finished" and r.trial.stage == "search"]
    assert all(r.end.epochs < 9 for r in pruned)
    chosen = stages.chosen(spec, results)
    for arm in ("sam_all", "sam_on"):
        best = max(
            (r for r in finished if r.trial.arm == arm),
            key=lambda r: r.end.scores["validation_accuracy"],
        )
        assert chosen[arm] == best.trial.hyperparameters
    told = {
        trial.user_attrs["index"]: trial
        for study in storage.get_all_studies()
        if study.study_name == "tiny/sam_on/search"
        for trial in storage.get_all_trials(study._study_id)
    }
    for result in pruned:
        if result.trial.arm == "sam_on":
            trial = told[result.trial.index]
            assert trial.state == TrialState.PRUNED
            assert trial.intermediate_values == {
                e.epoch: e.metrics["validation_accuracy"] for e in result.epochs
            }
    remarks = " ".join(analysis.remarks(spec, analysis.summarize(spec, results), results))
    assert "budgets are equal in trials only" in remarks


def test_an_arm_that_measures_seeds_is_never_stopped() -> None:
    spec = make_spec("tune.pruner=median", "tune.trials_per_arm=12", "workload.epochs=9")
    results = Simulation(spec, noisy).run()
    assert not any(r.end.status == "pruned" for r in results if r.trial.arm == "sgd")


def test_several_search_seeds_score_a_configuration_by_their_mean() -> None:
    spec = make_spec("tune.search_seeds=3", "tune.trials_per_arm=2", "tune.seed=7")

    def by_seed(trial: Trial) -> Answer:
        # Index 0 has the best single seed, index 1 the better mean.
        table = {(0, 7): 90.0, (0, 8): 10.0, (0, 9): 10.0, (1, 7): 50.0, (1, 8): 50.0, (1, 9): 50.0}
        value = table.get((trial.index, trial.seed), 60.0)
        return Answer({"validation_accuracy": value, "test_accuracy": value, "test_loss": 1.0})

    storage = InMemoryStorage()
    results = Simulation(spec, by_seed, 3, storage).run()
    names = {r.trial.name for r in results if r.trial.arm == "sam_on"}
    assert {f"tiny/sam_on/search/{i}.{k}" for i in (0, 1) for k in (0, 1, 2)} <= names
    seeds = {r.trial.name: r.trial.seed for r in results}
    assert seeds["tiny/sam_on/search/1.2"] == 9
    # An arm with nothing to tune measures as many seeds, one a trial.
    assert [seeds[f"tiny/sgd/search/{i}"] for i in range(3)] == [7, 8, 9]
    chosen = stages.chosen(spec, results)
    second = next(r for r in results if r.trial.name == "tiny/sam_on/search/1.0")
    assert chosen["sam_on"] == second.trial.hyperparameters
    study = next(s for s in storage.get_all_studies() if s.study_name == "tiny/sam_on/search")
    values = [trial.value for trial in storage.get_all_trials(study._study_id)]
    assert values == [pytest.approx(110 / 3), 50.0]


def test_wilcoxon_spares_the_other_seeds_of_a_bad_configuration() -> None:
    spec = make_spec("tune.search_seeds=8", "tune.pruner=wilcoxon", "tune.trials_per_arm=4")

    def ranked(trial: Trial) -> Answer:
        value = 90.0 - 10 * trial.index + random.Random(trial.seed).random()
        return Answer({"validation_accuracy": value, "test_accuracy": value, "test_loss": 1.0})

    results = Simulation(spec, ranked, 2).run()
    assert_exact(spec, results)
    of_arm = [r for r in results if r.trial.arm == "sam_on" and r.trial.stage == "search"]
    best = [r for r in of_arm if r.trial.index == 0]
    assert {r.end.status for r in best} == {"finished"}
    spared = [r for r in of_arm if r.end.status == "pruned"]
    assert spared
    assert all(r.end.epochs == 0 and r.trial.index > 0 for r in spared)
    assert stages.chosen(spec, results)["sam_on"] == best[0].trial.hyperparameters


@pytest.mark.parametrize("sampler", ["tpe", "cmaes", "random", "qmc"])
@pytest.mark.parametrize("pruner", ["none", "median", "wilcoxon"])
def test_a_study_that_was_cut_off_goes_on_as_if_it_was_not(sampler: str, pruner: str) -> None:
    spec = a_spec(sampler, pruner, "tune.trials_per_arm=8")
    whole = Simulation(spec, noisy, 1).run()
    parts = Simulation(spec, noisy, 1)
    for trials in (5, 11, 1, None):
        parts.run(trials)
    assert_exact(spec, parts.results)

    def told(results: Sequence[Result]) -> dict[str, object]:
        return {r.trial.name: (r.trial.hyperparameters, r.end.status) for r in results}

    assert told(parts.results) == told(whole)


def test_an_adaptive_sampler_draws_other_points_for_every_arm_and_search_seed() -> None:
    def points(seed: int) -> dict[str, list[object]]:
        spec = a_spec("tpe", "none", "tune.trials_per_arm=12", f"tune.seed={seed}")
        found: dict[str, list[object]] = {}
        for r in Simulation(spec, noisy, 1).run():
            if r.trial.stage == "search" and r.trial.index >= 3:
                found.setdefault(r.trial.arm, []).append(r.trial.hyperparameters.get("rho"))
        return found

    first, again, other = points(0), points(0), points(1)
    assert first == again
    assert first["sam_on"] != first["sam_all"]
    assert first["sam_on"] != other["sam_on"]


def test_what_an_algorithm_cannot_do_is_told() -> None:
    few = algorithms.doubts(make_spec("tune.sampler=tpe"))
    assert few == [
        "tpe with fewer than 10 trials (sam_all, sam_on) hardly learns from them; give 10 or more, "
        "or the sampler qmc."
    ]
    narrow = algorithms.doubts(make_spec("tune.sampler=cmaes", "tune.trials_per_arm=12"))
    assert narrow == [
        "cmaes needs two ranges to search; after its first points it draws at random for sam_all, "
        "sam_on."
    ]
    assert algorithms.doubts(make_spec()) == []


def test_a_diverged_trial_is_told_to_samplers_that_read_nothing_but_complete_ones() -> None:
    def some_diverge(trial: Trial) -> Answer:
        scores = {"validation_accuracy": 10.0, "test_accuracy": 10.0}
        return Answer(scores, 1, "diverged", "NaN")

    for sampler, state in (("gp", TrialState.COMPLETE), ("tpe", TrialState.PRUNED)):
        spec = a_spec(sampler, "none", "tune.trials_per_arm=2")
        storage = InMemoryStorage()
        Simulation(spec, some_diverge, 1, storage).run()
        assert set(states(storage)) == {state}
