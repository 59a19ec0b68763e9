"""Pure: from spec and results to the trials to run next, and when a study is done."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from study import decide, space
from study.records import Result, Stage, Trial, Value
from study.spec import Arm, Spec
from trainables import catalog

CONFIRM_SEEDS = 100_000
"""Confirm run i uses seed CONFIRM_SEEDS + tune.seed + i: never a seed of the search."""


@dataclass(frozen=True)
class Plan:
    """A stage and all its trials, by arm in the order of the spec and by index."""

    stage: Stage
    trials: tuple[Trial, ...]


def begun(spec: Spec, results: Sequence[Result]) -> tuple[Plan, ...]:
    """The search, and the confirm stage once the search is over."""
    search = Plan("search", search_trials(spec))
    if not over(search, results):
        return (search,)
    return search, Plan("confirm", confirm_trials(spec, chosen(spec, results)))


def over(plan: Plan, results: Iterable[Result]) -> bool:
    """Whether every trial of a stage has ended."""
    return {trial.name for trial in plan.trials} <= {result.trial.name for result in results}


def search_trials(spec: Spec) -> tuple[Trial, ...]:
    """The search stage: every arm at its points. An arm with nothing to tune counts up seeds, so
    that its trials measure the noise between seeds."""
    seed = spec.tune.seed
    return tuple(
        Trial(spec.study, name, "search", i, seed if arm.search else seed + i, point)
        for name, arm in spec.arms.items()
        for i, point in enumerate(space.points(spec, name))
    )


def confirm_trials(
    spec: Spec, configurations: Mapping[str, Mapping[str, Value]]
) -> tuple[Trial, ...]:
    """The confirm stage: each arm's configuration on the same fresh seeds."""
    first = CONFIRM_SEEDS + spec.tune.seed
    return tuple(
        Trial(spec.study, name, "confirm", i, first + i + spec.arms[name].seed_offset, point)
        for name, point in configurations.items()
        for i in range(spec.confirm.seeds)
    )


def chosen(spec: Spec, results: Iterable[Result]) -> dict[str, Mapping[str, Value]]:
    """The configuration that the search chose for each arm; arms whose trials all failed have
    none."""
    search = [result for result in results if result.trial.stage == "search"]
    choices = {
        name: decide.choose(result for result in search if result.trial.arm == name)
        for name in spec.arms
    }
    return {name: choice for name, choice in choices.items() if choice is not None}


def training_config(spec: Spec, trial: Trial) -> dict[str, Any]:
    """The fields of trainables.training.Config for a trial."""
    return _config(spec, spec.arms[trial.arm], trial.hyperparameters, trial.seed)


def example_config(spec: Spec, name: str) -> dict[str, Any]:
    """As training_config, for the first point of an arm: to check or to time it."""
    return _config(spec, spec.arms[name], space.points(spec, name)[0], spec.tune.seed)


def gradient_evaluations(spec: Spec, name: str, images: int | None) -> float | None:
    """Gradient evaluations of one trial of the arm; None where the images are not counted yet."""
    if images is None:
        return None
    cost = catalog.VARIANTS[spec.arms[name].variant].cost
    return spec.workload.epochs * (images // spec.workload.batch_size) * cost


def _config(spec: Spec, arm: Arm, point: Mapping[str, Value], seed: int) -> dict[str, Any]:
    workload = spec.workload
    given = workload.model.model_dump(exclude_none=True)
    fields = {
        "model": given.pop("name"),
        "model_options": given,
        **workload.optimizer.model_dump(exclude={"name"}),
        "epochs": workload.epochs,
        "batch_size": workload.batch_size,
        "label_smoothing": workload.label_smoothing,
        **workload.data.model_dump(
            include={"train_size", "validation_size", "label_noise", "augment"}
        ),
        "variant": arm.variant,
        "perturb": arm.perturb,
        "rho": None,
        "options": dict(arm.options),
        "seed": seed,
    }
    for key, value in point.items():
        if key in arm.options:
            fields["options"][key] = value
        else:
            fields[key] = value
    return fields


def data_place(spec: Spec) -> dict[str, Any]:
    """The arguments of trainables.data.load_pool and load_test."""
    return spec.workload.data.model_dump(include={"name", "root", "image_size", "split_seed"})
