"""What a search saw, by trying everything instead of a formula."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

from study import decide
from study.records import Result


def expected_best(results: Sequence[Result], k: int) -> float:
    """The mean, over all sets of k of these configurations, of the score of what is chosen."""
    by_index: dict[int, list[Result]] = {}
    for result in results:
        by_index.setdefault(result.trial.index, []).append(result)
    known = [some for some in by_index.values() if any(run.end.scores for run in some)]
    best = []
    for some in itertools.combinations(known, k):
        runs = [run for configuration in some for run in configuration]
        point = decide.choose(runs)
        scores = [r.end.scores for r in runs if r.trial.hyperparameters == point and r.end.scores]
        best.append(sum(each["validation_accuracy"] for each in scores) / len(scores))
    return sum(best) / len(best)


def near_best(
    points: Mapping[float, float], chosen: float, tolerance: float, steps: int = 20_000
) -> tuple[float, float]:
    """Walks from the chosen rho in small equal steps of log rho while the line between tried values
    is not too low."""
    tried, ends = sorted(points), []

    def line(x: float) -> float:
        for a, b in itertools.pairwise(tried):
            if math.log(a) <= x <= math.log(b):
                part = (x - math.log(a)) / (math.log(b) - math.log(a))
                return points[a] + part * (points[b] - points[a])
        raise ValueError(x)

    for edge in (tried[0], tried[-1]):
        x, step = math.log(chosen), (math.log(edge) - math.log(chosen)) / steps
        for _ in range(steps if step else 0):
            try:
                if line(x + step) < points[chosen] - tolerance:
                    break
            except ValueError:
                break
            x += step
        ends.append(math.exp(x))
    return ends[0], ends[1]
