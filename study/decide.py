"""Pure rules: whose turn it is, what an ended trial is told as, which configuration is chosen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import mean
from typing import Literal

from study.records import End, Result, Status, Value

Told = Literal["COMPLETE", "PRUNED", "FAIL"]
"""States of an Optuna trial that ended."""


def ask(
    left: Mapping[str, int], handed: Mapping[str, int], cost: Mapping[str, float]
) -> str | None:
    """The arm whose turn it is: of those with trials left, the one that got fewest; None: no more.

    left, handed: trials still to hand out and handed out, by arm, in the order of the spec. cost:
    of a trial. In a round the costly come first: a stage ends when its last trial does.
    """
    waiting = [arm for arm, count in left.items() if count]
    return min(waiting, key=lambda arm: (handed[arm], -cost[arm]), default=None)


def tell(ends: Sequence[End], sampler: str) -> tuple[Told, float | None]:
    """State and value that a configuration is told to the ledger with, once all its runs ended.

    The value is the mean of its validation accuracies. A diverged run is an outcome, but one that
    no sampler should take for a measurement; gp and cmaes read nothing but COMPLETE, and would
    never learn of it: they get the mean with chance accuracy.
    """
    states = {end.status for end in ends}
    if "failed" in states:
        return "FAIL", None
    if "pruned" in states or ("diverged" in states and sampler not in ("gp", "cmaes")):
        return "PRUNED", None
    return "COMPLETE", mean(end.scores["validation_accuracy"] for end in ends)


def choose(results: Iterable[Result]) -> Mapping[str, Value] | None:
    """The hyperparameters of an arm's best configuration, or None where all of them failed."""
    best = ranked(results)[:1]
    return best[0][0].trial.hyperparameters if best else None


def ranked(results: Iterable[Result]) -> list[list[Result]]:
    """The configurations of an arm, each as its runs, the one to choose first; none that failed.

    Best mean validation accuracy over its search seeds, ties to the lower index; one that was
    stopped early, or with a diverged run, only where no other is left.
    """
    runs: dict[int, list[Result]] = {}
    for result in results:
        runs.setdefault(result.trial.index, []).append(result)
    candidates = [
        (_rank(some), -score(some), index) for index, some in runs.items() if _scored(some)
    ]
    return [runs[index] for _, _, index in sorted(candidates)]


def score(runs: Iterable[Result]) -> float:
    """What a configuration is chosen by: its mean validation accuracy over its search seeds. A run
    that diverged has chance accuracy, one that was stopped early that of its last epoch."""
    return mean(r.end.scores["validation_accuracy"] for r in _scored(runs))


def status(runs: Iterable[Result]) -> Status:
    """How a configuration ended: as the worst of its runs."""
    return _ORDER[_rank(runs)]


def _rank(runs: Iterable[Result]) -> int:
    return max(_ORDER.index(result.end.status) for result in runs)


def _scored(runs: Iterable[Result]) -> list[Result]:
    return [result for result in runs if result.end.scores]


_ORDER: Sequence[Status] = ("finished", "failed", "pruned", "diverged")
