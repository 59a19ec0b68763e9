"""What the search stage saw, beside what it chose: how much rho matters, what more trials would
bring, where training diverges, and how large the noise of a seed is. It decides nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from study import analysis, decide
from study.analysis import End, Sample
from study.records import Result, Stage, Value
from study.spec import ADAPTIVE, Arm, Span, Spec

QUARTERS = 4
"""Equal parts of the searched range of rho in which diverged runs are counted."""


@dataclass(frozen=True)
class Near:
    """The values of rho from low to high, around the chosen one, that do about as well.

    low_open, high_open: the interval reaches the edge of what was tried, so it may be wider.
    between: its ends lie between tried values; otherwise they are tried ones. apart: values beyond
    a worse one do as well, so noise may have cut the interval short.
    """

    low: float
    high: float
    low_open: bool
    high_open: bool
    between: bool
    apart: bool = False

    @property
    def factor(self) -> float | None:
        """high / low; None where rho = 0 is in it."""
        return self.high / self.low if self.low > 0 else None


@dataclass(frozen=True)
class Count:
    """Runs that diverged, of n."""

    diverged: int
    n: int


@dataclass(frozen=True)
class Search:
    """The search of one arm. What has no meaning for it, or no numbers yet, is None or empty.

    n: configurations with a score. near: of rho. edge: at which end of what was tried the chosen
    rho lies. diverged: in each quarter of the range of rho. best: validation accuracy, in percent,
    of the best of 1, 2, ... n trials (see `kind`). configurations, seeds: validation accuracies of
    the configurations that were trained to the end, and of one configuration on several seeds, the
    chosen one where there was a choice; runs that diverged are in neither.
    """

    arm: str
    n: int
    near: Near | None
    edge: End | None
    diverged: tuple[Count, ...]
    best: tuple[float, ...]
    configurations: Sample | None
    seeds: Sample | None


@dataclass(frozen=True)
class Searches:
    """The searches of a study. noise: the deviation between seeds, of all arms together, in
    percentage points, None where it was not measured. tolerance: how far below the best a
    configuration still counts as near it."""

    arms: tuple[Search, ...]
    noise: float | None
    tolerance: float


def look(spec: Spec, results: Sequence[Result]) -> Searches:
    """What the searches of all arms saw, in the order of the spec.

    Near the best is what lies within the equivalence margin of it, or within one standard deviation
    between seeds where that is more: then one other seed would have turned the order. The deviation
    is pooled over the arms, so that their intervals can be compared.
    """
    seeds = {arm: _seeds(spec, arm, results) for arm in spec.arms}
    noise = pooled_deviation([sample for sample in seeds.values() if sample is not None])
    tolerance = max(spec.verdict.equivalence_margin, noise or 0.0)
    arms = tuple(_look(spec, arm, results, tolerance, seeds[arm]) for arm in spec.arms)
    return Searches(arms, noise, tolerance)


def kind(spec: Spec) -> str:
    """What the best of k trials is with the study's sampler.

    Only draws at random are independent, so that any k of them are what k trials would have been.
    """
    sampler, cut = spec.tune.sampler, spec.tune.pruner != "none"
    if sampler in ADAPTIVE:
        return "best so far, in the order of the trials"
    if sampler == "grid":
        return "expected best of k points of this grid, taken at random"
    return f"expected best of k trials{', approximate' if sampler == 'qmc' or cut else ''}"


def expected_best(scores: Sequence[float]) -> list[float]:
    """The expected score of what would be chosen from k of the n trials, for k from 1 to n.

    scores: from the trial to choose last to the one to choose first. The k trials are drawn without
    replacement; the one at place i (from 1) is the best of them with probability C(i-1, k-1) /
    C(n, k). Unbiased for k independent trials. Source: Tang et al. 2020, arXiv 2004.13705.
    """
    n = len(scores)
    expected = []
    for k in range(1, n + 1):
        total, weight = 0.0, k / n
        for i in range(n, k - 1, -1):
            total += weight * scores[i - 1]
            if i == k or weight < 1e-18:  # what is left is lost in the last digit
                break
            weight *= (i - k) / (i - 1)
        expected.append(total)
    return expected


def best_so_far(scores: Sequence[float], order: Sequence[int]) -> list[float]:
    """The score of what would be chosen after 1, 2, ... trials. scores: from the trial to choose
    last to the one to choose first; order: the places of the trials in it, as they were tried."""
    best, path = -1, []
    for place in order:
        best = max(best, place)
        path.append(scores[best])
    return path


def near_best(points: Mapping[float, float], chosen: float, tolerance: float) -> Near:
    """The values of rho around the chosen one whose score is at most `tolerance` below its own.

    points: score by rho. Straight lines in log rho (in rho, where 0 was tried) join the points.
    """
    tried = sorted(points)
    least = points[chosen] - tolerance
    line = math.log if tried[0] > 0 else float
    back = math.exp if tried[0] > 0 else float

    def end(step: int) -> tuple[float, bool]:
        i = tried.index(chosen)
        while 0 <= i + step < len(tried):
            here, beyond = tried[i], tried[i + step]
            if points[beyond] < least:
                part = (points[here] - least) / (points[here] - points[beyond])
                at = line(here) + part * (line(beyond) - line(here))
                return (back(at) if part else here), False
            i += step
        return tried[i], True

    (low, low_open), (high, high_open) = end(-1), end(1)
    apart = any(score >= least and not low <= rho <= high for rho, score in points.items())
    return Near(low, high, low_open, high_open, between=True, apart=apart)


def pooled_deviation(samples: Sequence[Sample]) -> float | None:
    """The standard deviation within samples, pooled by their degrees of freedom; None without."""
    several = [sample for sample in samples if sample.n > 1]
    freedom = sum(sample.n - 1 for sample in several)
    if not freedom:
        return None
    return math.sqrt(math.fsum((s.n - 1) * s.deviation**2 for s in several) / freedom)


def _look(
    spec: Spec, name: str, results: Sequence[Result], tolerance: float, seeds: Sample | None
) -> Search:
    arm, search = spec.arms[name], analysis.of_arm(results, name, "search")
    if not arm.search:
        return Search(name, 0, None, None, (), (), None, seeds)
    ranked = decide.ranked(search)
    last_first = ranked[::-1]
    scores = [decide.score(runs) for runs in last_first]
    if spec.tune.sampler in ADAPTIVE:
        order = sorted(range(len(scores)), key=lambda i: last_first[i][0].trial.index)
        best = best_so_far(scores, order)
    else:
        best = expected_best(scores)
    finished = [decide.score(runs) for runs in ranked if decide.status(runs) == "finished"]
    edge = None
    if ranked and "rho" in arm.search:
        edge = analysis.edge(arm, "rho", ranked[0][0].trial.hyperparameters, search)
    return Search(
        arm=name,
        n=len(ranked),
        near=_near(arm, ranked, tolerance),
        edge=edge,
        diverged=_diverged(arm, search),
        best=tuple(best),
        configurations=analysis.sample(finished),
        seeds=seeds,
    )


def _seeds(spec: Spec, name: str, results: Sequence[Result]) -> Sample | None:
    stage: Stage = "confirm" if spec.arms[name].search else "search"
    runs = analysis.of_arm(results, name, stage)
    return analysis.sample(
        analysis.score(r, "validation_accuracy") for r in runs if r.end.status == "finished"
    )


def _near(arm: Arm, ranked: Sequence[Sequence[Result]], tolerance: float) -> Near | None:
    """None without rho, and where too few values of it were tried with the method that was chosen.

    Where other hyperparameters are searched beside rho no line joins the points: then from the
    lowest to the highest rho that did about as well.
    """
    if "rho" not in arm.search or not ranked:
        return None
    chosen = ranked[0][0].trial.hyperparameters
    points: dict[float, float] = {}
    for runs in ranked:  # of equal rho the first counts, which is the best
        point = runs[0].trial.hyperparameters
        if arm.method(point) == arm.method(chosen):
            points.setdefault(float(point["rho"]), decide.score(runs))
    if len(points) < analysis.FEWEST_TRIED:
        return None
    if len(arm.search) == 1:
        return near_best(points, float(chosen["rho"]), tolerance)
    near = [
        rho for rho, score in points.items() if score >= points[float(chosen["rho"])] - tolerance
    ]
    low, high = min(near), max(near)
    return Near(low, high, low == min(points), high == max(points), between=False)


def _diverged(arm: Arm, search: Sequence[Result]) -> tuple[Count, ...]:
    """Runs in each quarter of the range of rho; those that failed tell nothing of it."""
    runs = [r for r in search if r.end.status != "failed"]
    if "rho" not in arm.search or not runs:
        return ()
    counts = [[0, 0] for _ in range(QUARTERS)]
    for run in runs:
        count = counts[_quarter(arm, run.trial.hyperparameters)]
        count[0] += run.end.status == "diverged"
        count[1] += 1
    return tuple(Count(diverged, n) for diverged, n in counts)


def _quarter(arm: Arm, point: Mapping[str, Value]) -> int:
    """Where rho lies in the range of its method, which of choices is from the lowest to the
    highest, in log rho unless 0 is among them."""
    span = arm.span("rho", point)
    if span.choices is not None:
        numbers = [float(choice) for choice in span.choices]
        low, high = min(numbers), max(numbers)
        if low == high:
            return 0
        span = Span(low=low, high=high, log=low > 0)
    return min(max(int(QUARTERS * analysis.unit(span, float(point["rho"]))), 0), QUARTERS - 1)
