"""Pure: from spec and results to the trials to run next, and when a study is done."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from study import decide, space
from study.records import Result, Stage, Trial, Value
from study.spec import ADAPTIVE, Method, Spec

_AS_GIVEN = {
    *("batch_size", "label_smoothing", "train", "clip_norm", "accumulate", "precision"),
    "diagnostics",
    "ema",
}
"""Keys of the workload that are fields of trainables.training.Config as they are."""
CONFIRM_SEEDS = 100_000
"""Confirm run i uses seed CONFIRM_SEEDS + tune.seed + i: never a seed of the search."""


@dataclass(frozen=True)
class Slot:
    """A place in the budget of an arm and stage: a configuration, and the seeds that it runs on.

    point: what the sampler sees of it, None where it is still to choose. hyperparameters: what a
    trial runs with, None likewise.
    """

    arm: str
    index: int
    seeds: tuple[int, ...]
    point: space.Point | None
    hyperparameters: Mapping[str, Value] | None

    def trial(self, spec: Spec, stage: Stage, which: int, point: Mapping[str, Value]) -> Trial:
        """The run of this configuration on its seed number `which`; point: its hyperparameters."""
        several = spec.tune.search_seeds > 1 and stage == "search" and spec.arms[self.arm].search
        repeat = which if several else None
        return Trial(spec.study, self.arm, stage, self.index, self.seeds[which], point, repeat)

    def names(self, spec: Spec, stage: Stage) -> list[str]:
        """The names of its trials."""
        return [self.trial(spec, stage, i, {}).name for i in range(len(self.seeds))]


@dataclass(frozen=True)
class Plan:
    """A stage and its whole budget, by arm in the order of the spec and by index."""

    stage: Stage
    slots: tuple[Slot, ...]


def begun(rounds: Sequence[Spec], results: Sequence[Result]) -> tuple[tuple[Spec, Plan], ...]:
    """The stages that have begun, each once the one before is over: search and confirm of the
    planned study, then of every extension; each with the spec of its round."""
    plans: list[tuple[Spec, Plan]] = []
    first = 0
    before: tuple[Mapping[str, Mapping[str, Value]], int] | None = None
    for spec in rounds:
        search = Plan("search", search_slots(spec))
        plans.append((spec, search))
        if not over(spec, search, results):
            break
        choices = chosen(spec, results)
        if before is not None and choices != before[0]:
            # Test accuracy was looked at: another configuration is judged on seeds never used.
            first += before[1]
        before = choices, spec.confirm.seeds
        confirm = Plan("confirm", confirm_slots(spec, choices, first))
        plans.append((spec, confirm))
        if not over(spec, confirm, results):
            break
    return tuple(plans)


def done(rounds: Sequence[Spec], results: Sequence[Result]) -> bool:
    """Whether every trial of the planned study and its extensions has ended."""
    plans = begun(rounds, results)
    return len(plans) == 2 * len(rounds) and over(*plans[-1], results)


def over(spec: Spec, plan: Plan, results: Iterable[Result]) -> bool:
    """Whether every trial of a stage has ended."""
    ended = {result.trial.name for result in results}
    return all(name in ended for name in trial_names(spec, plan))


def trial_names(spec: Spec, plan: Plan) -> list[str]:
    """The names of the trials of a stage."""
    return [name for slot in plan.slots for name in slot.names(spec, plan.stage)]


def of_round(rounds: Sequence[Spec], number: int, results: Sequence[Result]) -> list[Result]:
    """The results that a round's verdict rests on: of the planned study (0) or an extension."""
    plans = begun(rounds[: number + 1], results)[2 * number :]
    names = {name for spec, plan in plans for name in trial_names(spec, plan)}
    return [result for result in results if result.trial.name in names]


def search_slots(spec: Spec) -> tuple[Slot, ...]:
    """The budget of the search stage. An arm with nothing to tune counts up seeds, so that its
    trials measure the noise between seeds; the others run every configuration on the same ones."""
    seed, repeats = spec.tune.seed, spec.tune.search_seeds
    slots = []
    for name, arm in spec.arms.items():
        if not arm.search:
            slots += [Slot(name, i, (seed + i,), {}, {}) for i in range(max(arm.trials, repeats))]
            continue
        seeds = tuple(range(seed, seed + repeats))
        known = space.points(spec, name)
        slots += [
            Slot(name, i, seeds, point, space.hyperparameters(arm, point))
            for i, point in enumerate(known)
        ]
        slots += [Slot(name, i, seeds, None, None) for i in range(len(known), arm.trials)]
    return tuple(slots)


def confirm_slots(
    spec: Spec, configurations: Mapping[str, Mapping[str, Value]], first: int = 0
) -> tuple[Slot, ...]:
    """The confirm stage: each arm's configuration on the same fresh seeds, from index `first`."""
    seed = CONFIRM_SEEDS + spec.tune.seed
    return tuple(
        Slot(name, i, (seed + i + spec.arms[name].seed_offset,), {}, point)
        for name, point in configurations.items()
        for i in range(first, first + spec.confirm.seeds)
    )


def chosen(spec: Spec, results: Iterable[Result]) -> dict[str, Mapping[str, Value]]:
    """The configuration that the search chose for each arm; arms whose trials all failed have
    none."""
    search = [result for result in results if result.trial.stage == "search"]
    choices = {
        name: decide.choose(
            r for r in search if r.trial.arm == name and r.trial.index < budget(spec, name)
        )
        for name in spec.arms
    }
    return {name: choice for name, choice in choices.items() if choice is not None}


def budget(spec: Spec, name: str) -> int:
    """Configurations that the search of an arm tries; seeds, where there is nothing to tune."""
    arm = spec.arms[name]
    return arm.trials if arm.search else max(arm.trials, spec.tune.search_seeds)


def search_runs(spec: Spec, name: str) -> int:
    """Trials of an arm in the search stage."""
    repeats = spec.tune.search_seeds if spec.arms[name].search else 1
    return budget(spec, name) * repeats


def in_any_order(spec: Spec) -> bool:
    """Whether results do not depend on the order in which trials end."""
    return spec.tune.sampler not in ADAPTIVE and spec.tune.pruner == "none"


def training_config(spec: Spec, trial: Trial) -> dict[str, Any]:
    """The fields of trainables.training.Config for a trial."""
    return _config(spec, trial.arm, trial.hyperparameters, trial.seed)


def example_configs(spec: Spec) -> dict[str, dict[str, Any]]:
    """As training_config, at the first point of every arm and method: to check or to time them."""
    configs = {}
    for name, arm in spec.arms.items():
        first = space.points(spec, name)[0]
        for title, method in zip(titles(spec, name), arm.methods, strict=True):
            point = {**first, "variant": method.variant, "perturb": method.perturb}
            configs[title] = _config(spec, name, space.hyperparameters(arm, point), spec.tune.seed)
    return configs


def titles(spec: Spec, name: str) -> list[str]:
    """The keys of example_configs that belong to the arm `name`."""
    methods = spec.arms[name].methods
    return [name] if len(methods) == 1 else [f"{name} ({method.title})" for method in methods]


def epochs(spec: Spec, name: str, method: Method | None = None) -> int:
    """Epochs of a trial of the arm `name`, with its first method where none is given.

    Where gradient evaluations are matched, as many as make a trial cost what one of the reference
    costs, rounded to the nearest.
    """
    budget, full = spec.workload.budget, spec.workload.epochs
    if budget is None or budget.match == "epochs":
        return full
    method = method or spec.arms[name].methods[0]
    return max(1, round(full * spec.arms[budget.of].cost / method.cost))


def trial_epochs(spec: Spec, trial: Trial) -> int:
    """Epochs of this trial."""
    return epochs(spec, trial.arm, spec.arms[trial.arm].method(trial.hyperparameters))


def gradient_evaluations(spec: Spec, name: str, images: int | None) -> float | None:
    """Gradient evaluations of one trial of the arm, of the costliest method; None where the images
    are not counted yet."""
    if images is None:
        return None
    steps = images // spec.workload.batch_size
    return max(epochs(spec, name, m) * steps * m.cost for m in spec.arms[name].methods)


def _config(spec: Spec, name: str, point: Mapping[str, Value], seed: int) -> dict[str, Any]:
    workload, method = spec.workload, spec.arms[name].method(point)
    given = workload.model.model_dump(exclude_none=True)
    optimizer, schedule = workload.optimizer.model_dump(), workload.schedule.model_dump()
    duration = epochs(spec, name, method)
    return {
        "model": given.pop("name"),
        "model_options": given,
        "optimizer": optimizer.pop("name"),
        **optimizer,
        "schedule": schedule.pop("name"),
        "schedule_per": schedule.pop("per"),
        # All of a schedule stretches with the epochs of the arm.
        "warmup": schedule.pop("warmup") * duration / workload.epochs,
        **schedule,
        "epochs": duration,
        **workload.model_dump(include=_AS_GIVEN),
        **workload.data.model_dump(
            include={"train_size", "validation_size", "label_noise", "augment"}
        ),
        **spec.engine.model_dump(exclude={"batched_trials"}),
        "rho": None,
        "seed": seed,
        **{key: value for key, value in point.items() if not method.takes(key)},
        "variant": method.variant,
        "perturb": method.perturb,
        "options": {**method.options, **{k: v for k, v in point.items() if method.takes(k)}},
    }


def data_place(spec: Spec) -> dict[str, Any]:
    """What trainables.loading takes as the place of a data set."""
    keys = {"name", "root", "image_size", "split_seed", "stream", "stand_in"}
    return spec.workload.data.model_dump(include=keys)
