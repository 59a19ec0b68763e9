"""Optuna's samplers and pruners as a spec asks for them, one for each arm."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np

from study import space, stages
from study.spec import ADAPTIVE, EPOCH_PRUNERS, Spec

if TYPE_CHECKING:
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler


def sampler(spec: Spec, name: str, index: int) -> BaseSampler:
    """What chooses the point with this index of the arm `name`.

    Its seed follows from search seed, arm and index, so that a study that was interrupted neither
    repeats its draws nor goes on with others than it would have had.
    """
    from optuna import samplers

    place = list(spec.arms).index(name)
    seed = int(np.random.SeedSequence([spec.tune.seed, place, index]).generate_state(1)[0])
    start = space.startup(spec.arms[name].trials)
    # Multivariate TPE with groups (for arms with conditional options) and CMA-ES are marked
    # experimental, which is Optuna's word for an API that may change.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        match spec.tune.sampler:
            case "tpe":
                return samplers.TPESampler(
                    n_startup_trials=start,
                    multivariate=True,
                    group=True,
                    constant_liar=True,
                    seed=seed,
                )
            case "gp":
                return samplers.GPSampler(n_startup_trials=start, seed=seed)
            case "cmaes":
                return samplers.CmaEsSampler(
                    n_startup_trials=start, warn_independent_sampling=False, seed=seed
                )
    return samplers.RandomSampler(seed)  # all is enqueued, it is never asked


def pruner(spec: Spec, name: str) -> BasePruner | None:
    """What judges a trial of the arm `name` after an epoch, or a configuration after a seed; None
    where nothing is stopped early: trials that only differ in seeds measure noise."""
    from optuna import pruners

    if not spec.arms[name].search:
        return None
    epochs = stages.epochs(spec, name)
    shortest = max(1, epochs // 9)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        match spec.tune.pruner:
            case "median":
                start = space.startup(spec.arms[name].trials)
                return pruners.MedianPruner(n_startup_trials=start, n_warmup_steps=epochs // 4)
            case "successive_halving":
                return pruners.SuccessiveHalvingPruner(min_resource=shortest, reduction_factor=3)
            case "hyperband":
                return pruners.HyperbandPruner(
                    min_resource=shortest, max_resource=epochs, reduction_factor=3
                )
            case "wilcoxon":
                return pruners.WilcoxonPruner(p_threshold=0.1)
    return None


def by_epoch(spec: Spec) -> bool:
    """Whether the pruner judges epochs."""
    return spec.tune.pruner in EPOCH_PRUNERS


def doubts(spec: Spec) -> list[str]:
    """What a user should know of the algorithms before a study starts, one sentence each."""
    texts = []
    tuned = {name: arm for name, arm in spec.arms.items() if arm.search}
    if spec.tune.sampler in ADAPTIVE:
        few = [name for name, arm in tuned.items() if arm.trials < 10]
        if few:
            texts.append(
                f"{spec.tune.sampler} with fewer than 10 trials ({', '.join(few)}) hardly learns "
                "from them; give 10 or more, or the sampler qmc."
            )
    if spec.tune.sampler == "cmaes":
        narrow = [
            name
            for name, arm in tuned.items()
            if sum(span.choices is None for span in arm.search.values()) < 2
        ]
        if narrow:
            texts.append(
                f"cmaes needs two ranges to search; after its first points it draws at random for "
                f"{', '.join(narrow)}."
            )
    return texts
