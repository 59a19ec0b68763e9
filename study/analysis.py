"""What each arm showed: its chosen hyperparameters, accuracies, cost, and what to be wary of."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from study import decide, importance, stages
from study.records import Result, Stage, Status, Value
from study.spec import Arm, Span, Spec

End = Literal["low", "high"]
"""An end of a range."""
FEWEST_TRIED = 3
"""Values of a hyperparameter that a search must have tried before their best one tells anything."""


@dataclass(frozen=True)
class Sample:
    """Mean and standard deviation of n numbers; of a single one the deviation is NaN."""

    mean: float
    deviation: float
    n: int

    @property
    def error(self) -> float:
        """Standard error of the mean."""
        return self.deviation / math.sqrt(self.n)


@dataclass(frozen=True)
class ArmSummary:
    """One arm over both stages. None where nothing was measured yet.

    chosen: hyperparameters of its confirm trials, {} where there is nothing to tune. validation:
    search trials with exactly these. confirm_validation: the confirm trials on validation data.
    rivals: other configurations of the search that validated about as well: see `_rivals`.
    diverged, failed, pruned: trials per stage. epochs: trained
    in each stage, by all trials together. gradient_evaluations: a whole training run, mean over
    the finished confirm trials. seconds_per_epoch: median over the confirm stage. perturbed_share:
    of the parameters, in percent. at_edge: why a chosen value may not be the best one.
    """

    arm: str
    chosen: Mapping[str, Value] | None
    validation: Sample | None
    confirm_validation: Sample | None
    test: Sample | None
    rivals: int
    diverged: Mapping[Stage, int]
    failed: Mapping[Stage, int]
    pruned: Mapping[Stage, int]
    epochs: Mapping[Stage, int]
    gradient_evaluations: float | None
    seconds_per_epoch: float | None
    perturbed_share: float | None
    at_edge: tuple[str, ...]

    @property
    def optimism(self) -> float | None:
        """The winner's curse: by how many points the best search score lies above what the same
        configuration scores on validation data of the confirm seeds. None without a choice."""
        if not self.chosen or self.validation is None or self.confirm_validation is None:
            return None
        return self.validation.mean - self.confirm_validation.mean


def sample(values: Iterable[float]) -> Sample | None:
    """The sample of the finite ones among `values`, None if there are none."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return None
    deviation = statistics.stdev(finite) if len(finite) > 1 else math.nan
    return Sample(statistics.mean(finite), deviation, len(finite))


def of_arm(results: Iterable[Result], arm: str, stage: Stage) -> list[Result]:
    """The results of one arm and stage by index, of one configuration by search seed."""
    chosen = [r for r in results if r.trial.arm == arm and r.trial.stage == stage]
    return sorted(chosen, key=lambda result: (result.trial.index, result.trial.repeat or 0))


def score(result: Result, name: str) -> float:
    """A score of the trial, NaN where it has none."""
    return result.end.scores.get(name, math.nan)


def metric(result: Result, name: str) -> list[float]:
    """The finite values of an epoch metric, in order."""
    values = (epoch.metrics.get(name, math.nan) for epoch in result.epochs)
    return [value for value in values if math.isfinite(value)]


def gradient_evaluations(result: Result) -> float:
    """Gradient evaluations of the whole trial."""
    return math.fsum(metric(result, "gradient_evaluations"))


def summarize(spec: Spec, results: Sequence[Result]) -> tuple[ArmSummary, ...]:
    """The summary of every arm, in the order of the spec."""
    return tuple(
        _summary(spec, arm, of_arm(results, arm, "search"), of_arm(results, arm, "confirm"))
        for arm in spec.arms
    )


def _summary(spec: Spec, arm: str, search: list[Result], confirm: list[Result]) -> ArmSummary:
    untuned: dict[str, Value] | None = None if spec.arms[arm].search else {}
    chosen = dict(confirm[0].trial.hyperparameters) if confirm else untuned
    same = [r for r in search if dict(r.trial.hyperparameters) == chosen]
    finished = [r for r in confirm if r.end.status == "finished"]
    seconds = [s for r in confirm for s in metric(r, "seconds_per_epoch")]
    totals = sample(map(gradient_evaluations, finished))
    shares = (s for r in (*confirm, *search) for s in metric(r, "perturbed_share"))
    return ArmSummary(
        arm=arm,
        chosen=chosen,
        validation=sample(score(r, "validation_accuracy") for r in same),
        confirm_validation=sample(score(r, "validation_accuracy") for r in confirm),
        test=sample(score(r, "test_accuracy") for r in confirm),
        rivals=_rivals(spec, chosen or {}, search),
        diverged=_count("diverged", search, confirm),
        failed=_count("failed", search, confirm),
        pruned=_count("pruned", search, confirm),
        epochs={
            "search": sum(r.end.epochs for r in search),
            "confirm": sum(r.end.epochs for r in confirm),
        },
        gradient_evaluations=totals.mean if totals else None,
        seconds_per_epoch=statistics.median(seconds) if seconds else None,
        perturbed_share=next(shares, None),
        at_edge=_edges(spec.arms[arm], chosen or {}, search),
    )


def _rivals(spec: Spec, chosen: Mapping[str, Value], search: list[Result]) -> int:
    """Configurations other than the chosen one whose mean validation accuracy is below its own by
    no more than the standard error of a difference between two accuracies on so many images."""
    finished = [runs for runs in decide.ranked(search) if decide.status(runs) == "finished"]
    others = [r for r in finished if dict(r[0].trial.hyperparameters) != chosen]
    if not chosen or len(others) == len(finished):
        return 0
    best = max(decide.score(runs) for runs in finished if runs not in others)
    images = spec.workload.data.validation_size * spec.tune.search_seeds
    error = math.sqrt(2 * best * (100 - best) / images)
    return sum(decide.score(runs) >= best - error for runs in others)


def edge(arm: Arm, key: str, point: Mapping[str, Value], search: Sequence[Result]) -> End | None:
    """At which end of what its method tried the value of `key` in `point` lies, if at any: none
    was tried beyond it, or the range ends there.

    Of fewer than FEWEST_TRIED values one of the outer ones is always the best: that tells nothing.
    """
    value, span, tried = point[key], arm.span(key, point), _tried(arm, key, point, search)
    if isinstance(value, (bool, str)) or len(tried) < FEWEST_TRIED:
        return None
    position, rim = 0.5, 0.0
    if span.choices is None:
        position, rim = unit(span, value), 1 / (2 * len(tried))
    if value == min(tried) or position <= rim:
        return "low"
    if value == max(tried) or position >= 1 - rim:
        return "high"
    return None


def _edges(arm: Arm, chosen: Mapping[str, Value], search: list[Result]) -> tuple[str, ...]:
    """Texts for the chosen values that lie at an edge of what their method tried."""
    texts = []
    for key, value in chosen.items():
        if (end := edge(arm, key, chosen, search)) is None:
            continue
        span = arm.span(key, chosen)
        where = f"{len(_tried(arm, key, chosen, search))} choices"
        if span.choices is None:
            where = f"range {span.low:g} to {span.high:g}"
        beyond = "lower" if end == "low" else "higher"
        texts.append(
            f"the chosen {key} {value:.4g} lies at the {end} edge of what was tried ({where}); "
            f"{beyond} values might do better"
        )
    return tuple(texts)


def _tried(arm: Arm, key: str, point: Mapping[str, Value], search: Sequence[Result]) -> set[float]:
    """The numbers tried for `key` with the method of `point`."""
    method = arm.method(point)
    values = [
        r.trial.hyperparameters.get(key)
        for r in search
        if arm.method(r.trial.hyperparameters) == method
    ]
    return {v for v in values if isinstance(v, (int, float)) and not isinstance(v, bool)}


def _count(status: Status, search: list[Result], confirm: list[Result]) -> dict[Stage, int]:
    return {
        "search": sum(r.end.status == status for r in search),
        "confirm": sum(r.end.status == status for r in confirm),
    }


def unit(span: Span, value: float) -> float:
    """Where `value` lies in a range, from 0 at its low end to 1 at its high end."""
    if span.low is None or span.high is None:
        raise ValueError("choices have no position in a range")
    if span.log:
        return math.log(value / span.low) / math.log(span.high / span.low)
    return (value - span.low) / (span.high - span.low)


def warnings(spec: Spec, arms: Sequence[ArmSummary]) -> list[str]:
    """What a reader of the result should be wary of, one plain sentence each."""
    texts = [f"{arm.arm}: {text}." for arm in arms for text in arm.at_edge]
    texts += [
        f"{name}: the suggested range of rho for {method.title} is borrowed from the subset norm."
        for name, arm in spec.arms.items()
        for method in arm.methods
        if (span := method.rho or arm.search.get("rho")) is not None and span.borrowed
    ]
    if spec.tune.search_seeds == 1 and any(arm.rivals for arm in arms):
        told = ", ".join(f"{arm.arm} {arm.rivals}" for arm in arms if arm.rivals)
        texts.append(
            f"One search seed with {spec.workload.data.validation_size} validation images cannot "
            f"tell what it chose from other configurations within a standard error ({told}): "
            "another seed may choose another, and a word of the verdict may change; "
            "tune.search_seeds runs each on several."
        )
    stages: tuple[Stage, ...] = ("search", "confirm")
    for arm in arms:
        for stage in stages:
            if n := arm.diverged[stage]:
                counts = ", counted with chance accuracy" if stage == "confirm" else ""
                texts.append(f"{arm.arm}: {_trials(n, stage)} diverged{counts}.")
            if n := arm.pruned[stage]:
                texts.append(f"{arm.arm}: {_trials(n, stage)} stopped early.")
            if n := arm.failed[stage]:
                texts.append(f"{arm.arm}: {_trials(n, stage)} failed.")
    return texts


def remarks(spec: Spec, arms: Sequence[ArmSummary], results: Sequence[Result]) -> list[str]:
    """What the comparison rests on, one plain sentence each: budgets, order, what was chosen."""
    budget, full = spec.workload.budget, spec.workload.epochs
    if budget is None or budget.match == "epochs":
        texts = [f"Budgets match epochs, {full} a trial; gradient evaluations may differ."]
    else:
        each = {
            name: dict.fromkeys(str(stages.epochs(spec, name, method)) for method in arm.methods)
            for name, arm in spec.arms.items()
        }
        told = ", ".join(f"{name} {' or '.join(epochs)}" for name, epochs in each.items())
        texts = [f"Budgets match the gradient evaluations of {budget.of}; epochs a trial: {told}."]
    if spec.tune.pruner != "none":
        told = ", ".join(f"{arm.arm} {arm.epochs['search']:,}" for arm in arms)
        texts.append(
            f"Pruner {spec.tune.pruner}: epochs spent in the search: {told}; budgets are equal in "
            "trials only."
        )
    if not stages.in_any_order(spec):
        texts.append(
            "The order in which trials ended decided what was tried next or stopped early; another "
            "run of this study may choose other configurations."
        )
    if approximate := _approximate(spec, arms):
        texts.append(f"Approximate: {approximate}. Other arms compute what their formula says.")
    for name, arm in spec.arms.items():
        if text := importance.sentence(name, arm, of_arm(results, name, "search")):
            texts.append(text)
    return texts


def _approximate(spec: Spec, arms: Sequence[ArmSummary]) -> str:
    """The arms whose steps are cheaper than their formula and not equal to it, each with what makes
    them so."""
    told = []
    for arm in arms:
        point = arm.chosen or {}
        if found := spec.arms[arm.arm].method(point).approximations(point):
            told.append(f"{arm.arm} ({', '.join(found)})")
    return ", ".join(told)


def _trials(n: int, stage: Stage) -> str:
    return f"{n} {stage} trial{'s' if n > 1 else ''}"
