"""Pure: how far a study is, from its journal: what is done, what is left, what it cost so far."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Literal

from study import stages
from study.journal import Contents
from study.records import Epoch, Result, Trial, Value
from study.spec import Resources, Spec

State = Literal["running", "stopped", "done"]


@dataclass(frozen=True)
class Best:
    """The best search trial of an arm, its validation accuracy in percent, and what it ran with;
    where only seeds differ, the mean over `seeds` of them."""

    validation_accuracy: float
    hyperparameters: Mapping[str, Value]
    seeds: int | None


@dataclass(frozen=True)
class ArmStanding:
    """Trials of an arm. planned, done: by stage; running, failed: over both stages."""

    planned: Mapping[str, int]
    done: Mapping[str, int]
    running: int
    failed: int
    best: Best | None


@dataclass(frozen=True)
class Standing:
    """How far a study is. stage: the one under way or the last; sentence: the verdict's, empty
    before it; seconds_left: None where nothing runs or no trial finished yet; training_hours: of
    training steps, summed over trials; gpu_hours: those times the GPUs of a trial; cost: by
    resources.price_per_hour, None without it."""

    study: str
    state: State
    stage: str
    arms: Mapping[str, ArmStanding]
    seconds_left: float | None
    training_hours: float
    gpu_hours: float
    cost: float | None
    sentence: str


def standing(rounds: Sequence[Spec], contents: Contents, *, alive: bool) -> Standing:
    """How far a study is. rounds: the planned study and its extensions. alive: whether a process
    runs it."""
    spec, number = rounds[-1], len(rounds) - 1
    results = stages.of_round(rounds, number, contents.results)
    running = [t for n, t in contents.trials.items() if n not in contents.ends] if alive else []
    arms = {name: _arm(spec, name, results, running) for name in spec.arms}
    plans = stages.begun(rounds, contents.results)
    done = contents.complete and stages.done(rounds, contents.results)
    left = None
    if alive and running:
        done_of = {name: sum(arm.done.values()) for name, arm in arms.items()}
        shares = [(trial, contents.epochs.get(trial.name, ())) for trial in running]
        left = seconds_left(spec, done_of, durations(results), shares, len(running))
    seconds = training_seconds(contents.epochs.values())
    verdicts = contents.verdicts
    return Standing(
        spec.study,
        "done" if done else "running" if alive else "stopped",
        plans[-1][1].stage,
        arms,
        left,
        seconds / 3600,
        seconds / 3600 * spec.resources.gpu,
        price(spec.resources, seconds),
        verdicts[max(verdicts)]["sentence"] if verdicts else "",
    )


def planned(spec: Spec, arm: str) -> dict[str, int]:
    """Trials of an arm by stage."""
    return {"search": stages.search_runs(spec, arm), "confirm": spec.confirm.seeds}


def durations(results: Iterable[Result]) -> dict[str, list[float]]:
    """Seconds from start to end of the trials that finished, by arm."""
    seconds: dict[str, list[float]] = {}
    for result in results:
        if result.end.status == "finished":
            seconds.setdefault(result.trial.arm, []).append(result.end.time - result.started)
    return seconds


def best(spec: Spec, arm: str, found: Sequence[tuple[float, Mapping[str, Value]]]) -> Best | None:
    """The best of an arm's search trials so far. found: validation accuracy and hyperparameters of
    those that finished."""
    if not found:
        return None
    if not spec.arms[arm].search:
        return Best(mean(accuracy for accuracy, _ in found), {}, len(found))
    accuracy, point = max(found, key=lambda each: each[0])
    return Best(accuracy, point, None)


def seconds_left(
    spec: Spec,
    done: Mapping[str, int],
    durations: Mapping[str, Sequence[float]],
    running: Iterable[tuple[Trial, Sequence[Epoch]]],
    at_once: int,
) -> float | None:
    """Seconds until the end, from the trials that finished; None before the first one did.

    done: trials that ended, by arm. durations: seconds of those that finished. running: with their
    epochs so far. at_once: trials side by side.
    """
    costs = {name: arm.cost * stages.epochs(spec, name) for name, arm in spec.arms.items()}
    known = {name: mean(seconds) for name, seconds in durations.items() if seconds}
    if not known:
        return None
    per_cost = mean(seconds / costs[name] for name, seconds in known.items())
    left = 0.0
    for name in spec.arms:
        trials = sum(planned(spec, name).values()) - done.get(name, 0)
        left += trials * known.get(name, per_cost * costs[name])
    for trial, epochs in running:
        share = (epochs[-1].epoch if epochs else 0) / stages.trial_epochs(spec, trial)
        left -= share * known.get(trial.arm, per_cost * costs[trial.arm])
    return left / at_once


def training_seconds(epochs: Iterable[Sequence[Epoch]]) -> float:
    """Seconds that trials trained, each epoch once. epochs: of every trial."""
    return sum(epoch.metrics.get("seconds_per_epoch", 0.0) for each in epochs for epoch in each)


def price(resources: Resources, seconds: float) -> float | None:
    """What so many seconds of trials cost: by the GPUs of a trial, or its CPU cores where it has no
    GPU; None without resources.price_per_hour."""
    if resources.price_per_hour is None:
        return None
    return seconds / 3600 * (resources.gpu or resources.cpu) * resources.price_per_hour


def _arm(spec: Spec, name: str, results: Iterable[Result], running: Iterable[Trial]) -> ArmStanding:
    mine = [result for result in results if result.trial.arm == name]
    done = {stage: sum(r.trial.stage == stage for r in mine) for stage in ("search", "confirm")}
    found = [
        (result.end.scores["validation_accuracy"], result.trial.hyperparameters)
        for result in mine
        if result.trial.stage == "search" and result.end.status == "finished"
    ]
    return ArmStanding(
        planned(spec, name),
        done,
        sum(trial.arm == name for trial in running),
        sum(result.end.status == "failed" for result in mine),
        best(spec, name, found),
    )
