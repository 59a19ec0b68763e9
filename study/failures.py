"""Pure: what a failed attempt at a trial means, and when failing is no accident of one trial."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from study.records import End, Result

_SUSPICIOUS = 3
"""Trials of a stage that fail before any ends well, after which the study stops: it is a bug."""


class EveryTrialFails(Exception):  # noqa: N818  the sentence that it says
    """Every trial of a stage fails; told to the user with the trace of the last."""


class Failures:
    """Counts the failures of one execution of a study.

    retries: how often a trial may fail without coming further than before: a machine that goes away
    every hour is no reason to give a trial up, an error at the same step is. before: failures in
    earlier executions, by trial.
    """

    def __init__(self, retries: int, before: Mapping[str, int]) -> None:
        self._retries = retries
        self._counts = Counter(before)
        self._reached: dict[str, float] = {}
        self._vain: dict[str, int] = {}
        self._limit = _SUSPICIOUS
        self._proven = False
        self._held: list[End] = []

    def begin(self, trials: Iterable[str], results: Iterable[Result]) -> None:
        """A stage begins. trials: all that it has; results: all that ended so far."""
        ended = {result.trial.name: result.end.status for result in results}
        names = set(trials)
        self._proven = any(ended.get(name, "failed") != "failed" for name in names)
        self._limit = min(_SUSPICIOUS, len(names - ended.keys()))
        self._held = []

    def count(self, trial: str) -> int:
        """The number of this failure of the trial, from 1."""
        self._counts[trial] += 1
        return self._counts[trial]

    def total(self, trial: str) -> int:
        """How often the trial failed so far."""
        return self._counts[trial]

    def again(self, trial: str, progress: float) -> bool:
        """Whether a trial that failed is tried again. progress: epochs that it had done."""
        further = progress > self._reached.get(trial, -1.0)
        self._reached[trial] = max(progress, self._reached.get(trial, 0.0))
        self._vain[trial] = 1 if further else self._vain[trial] + 1
        return self._vain[trial] <= self._retries

    def ended(self, end: End) -> Sequence[End]:
        """The ends to record, now that this trial ended.

        That a trial failed for good is held back until another of its stage ends well: where all
        fail, none of them has had its chance. Raises EveryTrialFails then.
        """
        if end.status == "failed" and not self._proven:
            self._held.append(end)
            if len(self._held) >= self._limit:
                raise EveryTrialFails
            return ()
        held, self._held = self._held, []
        self._proven = True
        return (*held, end)
