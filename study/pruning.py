"""Ray Tune asks here whether a trial should stop: a thin adapter over the course of a study."""

from __future__ import annotations

import time
from typing import Any

from ray import tune

from study.course import Trials
from study.records import Epoch


class CourseStopper(tune.Stopper):  # type: ignore[misc]
    """Stops a trial after an epoch where the pruner of its arm says so."""

    def __init__(self) -> None:
        self._course: Trials | None = None

    def begin(self, course: Trials) -> None:
        """Trials of this course follow."""
        self._course = course

    def __getstate__(self) -> dict[str, Any]:
        """Empty, as the searcher's."""
        return {}

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Whether the trial that reports `result` should stop."""
        report = result.get("report")
        if self._course is None or report is None or report.epoch is None or report.end:
            return False
        epoch = Epoch(report.trial, report.epoch, report.metrics, time.time())
        return self._course.stops(epoch)

    def stop_all(self) -> bool:
        """Never: a study ends when its course does."""
        return False
