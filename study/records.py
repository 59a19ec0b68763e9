"""Frozen records: what was planned, what a trial reported, how it ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Stage = Literal["search", "confirm"]
Status = Literal["finished", "pruned", "diverged", "failed"]
Value = float | int | bool | str
"""A hyperparameter's value."""


@dataclass(frozen=True)
class Trial:
    """One training run: arm, hyperparameters and seed.

    index: counts within arm and stage from 0. hyperparameters: what the search chose, by name.
    repeat: of several search seeds, which one, from 0; None where a configuration runs once.
    """

    study: str
    arm: str
    stage: Stage
    index: int
    seed: int
    hyperparameters: Mapping[str, Value] = field(default_factory=dict)
    repeat: int | None = None

    @property
    def name(self) -> str:
        """STUDY/ARM/STAGE/INDEX[.REPEAT]: unique within a study, the tag `trial` in MLflow."""
        repeat = "" if self.repeat is None else f".{self.repeat}"
        return f"{self.study}/{self.arm}/{self.stage}/{self.index}{repeat}"


@dataclass(frozen=True)
class Epoch:
    """One epoch of a trial. epoch: from 1. metrics: by their MLflow names, NaN where diverged."""

    trial: str
    epoch: int
    metrics: Mapping[str, float]
    time: float
    """Seconds since 1970."""


@dataclass(frozen=True)
class Correct:
    """Which of so many test images a run got right: numpy.packbits of them, in the order that they
    have in all runs of a study."""

    images: int
    bits: bytes

    @property
    def count(self) -> int:
        """How many it got right."""
        return int.from_bytes(self.bits).bit_count()


@dataclass(frozen=True)
class End:
    """How a trial ended. scores: validation_accuracy and, in the confirm stage, test_accuracy and
    test_loss; accuracies in percent; empty for failed. pruned: stopped early; its scores are those
    of the last epoch it had. reason: empty for finished. epochs: done. correct: of a confirm run
    that finished; None where a journal of an earlier version lacks it."""

    trial: str
    status: Status
    reason: str
    scores: Mapping[str, float]
    epochs: int
    time: float
    correct: Correct | None = None


@dataclass(frozen=True)
class Failure:
    """An attempt at a trial that failed. number: from 1, over all executions. reason: as of End.
    epochs: reported by then."""

    trial: str
    number: int
    reason: str
    epochs: int
    time: float


@dataclass(frozen=True)
class Measured:
    """A number measured on the weights of a confirm run. part: of its parameters (all, norm, rest),
    or a tensor's name, empty where it means nothing. at: a radius, a severity, a position, None
    where there is none. value: NaN where it was not finite."""

    measure: str
    part: str
    at: float | None
    value: float


@dataclass(frozen=True)
class Measurement:
    """What was measured on a confirm run. what: of catalog.MEASURES. against: the run at the other
    end of a line, None for what looks at one run."""

    trial: str
    what: str
    against: str | None
    values: tuple[Measured, ...]
    time: float


@dataclass(frozen=True)
class Result:
    """A trial that ended, with the epochs it reported (each once, in order)."""

    trial: Trial
    end: End
    epochs: tuple[Epoch, ...] = ()
    started: float = 0.0
