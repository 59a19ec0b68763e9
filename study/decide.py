"""Pure rules: whose turn it is, what an ended trial is told as, which configuration is chosen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from study.records import End, Result, Value

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


def tell(end: End) -> tuple[Told, float | None]:
    """State and value that an ended trial is told to the ledger with.

    A diverged trial is an outcome, but one that no sampler should take for a measurement.
    """
    match end.status:
        case "finished":
            return "COMPLETE", end.scores["validation_accuracy"]
        case "diverged":
            return "PRUNED", None
        case "failed":
            return "FAIL", None


def choose(results: Iterable[Result]) -> Mapping[str, Value] | None:
    """The hyperparameters of the best search trial of an arm, or None where all of them failed.

    Best validation accuracy, ties to the lower index; a diverged trial only where no other is left.
    """
    candidates = [result for result in results if result.end.status != "failed"]
    best = min(
        candidates,
        key=lambda r: (
            r.end.status == "diverged",
            -r.end.scores["validation_accuracy"],
            r.trial.index,
        ),
        default=None,
    )
    return None if best is None else best.trial.hyperparameters
