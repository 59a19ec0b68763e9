"""Every sampler with every pruner on a real Ray: exact budgets, and no trial stays running."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from optuna.trial import TrialState

from study import stages
from study.home import Home
from study.ledger import open_file
from tests.study.synthetic import make_spec
from tests.study.test_engine import execute

pytestmark = pytest.mark.ray

SAMPLERS = ("qmc", "random", "grid", "tpe", "gp", "cmaes")
PRUNERS = ("none", "median", "successive_halving", "hyperband", "wilcoxon")
OVER = {TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL}


@pytest.fixture(scope="module", autouse=True)
def one_session() -> Iterator[None]:
    """Engines that are told to keep Ray join it; the last one does not end it."""
    yield
    ray.shutdown()


# A cover in which each is met at least twice; all of them run on the simulated engine.
PAIRS = [
    (sampler, PRUNERS[(i + shift) % len(PRUNERS)])
    for i, sampler in enumerate(SAMPLERS)
    for shift in (0, 2)
]


@pytest.mark.parametrize(("sampler", "pruner"), PAIRS)
def test_budgets_are_exact_with_two_trials_at_once(
    sampler: str, pruner: str, tmp_path: Path
) -> None:
    points = ", points: 2" if sampler == "grid" else ""
    trials = "null" if sampler == "grid" else 5
    # In every arm that searches some learning rates overflow: such a trial diverges.
    search = (
        f"rho: {{low: 0.1, high: 1, log: true{points}}}, "
        f"lr: {{low: 0.05, high: 1.0e+30, log: true{points}}}"
    )
    spec = make_spec(
        "workload.epochs=3",
        "workload.data.train_size=128",
        "workload.data.validation_size=64",
        "workload.model.width=4",
        f"search={{{search}}}",
        "arms={sgd: {variant: none}, auto: {variant: {choices: [sam, asam]}, perturb: norm}}",
        f"tune={{sampler: {sampler}, trials_per_arm: {trials}, pruner: {pruner}}}",
        f"tune.search_seeds={3 if pruner == 'wilcoxon' else 1}",
        "confirm.seeds=2",
        "verdict={baseline: sgd, equivalence_margin: 0.5}",
        "resources.max_trials=2",
    )
    home = Home(tmp_path, spec.study)
    contents, starts = execute(spec, home, keep=True)
    assert len(starts) == len(set(starts))
    counts = Counter((trial.arm, trial.stage) for trial in contents.trials.values())
    for name in spec.arms:
        assert counts[name, "search"] == stages.search_runs(spec, name)
        assert counts[name, "confirm"] == 2
    assert contents.ends.keys() == contents.trials.keys()
    statuses = {end.status for end in contents.ends.values()}
    assert "diverged" in statuses
    assert "failed" not in statuses
    storage = open_file(home.ledger)
    for study in storage.get_all_studies():
        assert {trial.state for trial in storage.get_all_trials(study._study_id)} <= OVER
