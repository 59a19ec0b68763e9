"""Ray Tune asks here whether a trial should stop: a thin adapter over the course of a study."""

from __future__ import annotations

import time
from typing import Any

from ray import tune

from study.course import Trials
from study.records import Epoch


class CourseStopper(tune.Stopper):  # type: ignore[misc]
    """Stops a trial after an epoch where the pruner of its arm says so. stopped: those it did."""

    def __init__(self) -> None:
        self._course: Trials | None = None
        self.stopped: set[str] = set()

    def begin(self, course: Trials) -> None:
        """Trials of this course follow."""
        self._course = course

    def __getstate__(self) -> dict[str, Any]:
        """Empty, as the searcher's."""
        return {}

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Whether the process that reports `result` has no trial left to go on with."""
        reports = result.get("reports", ())
        for report in reports:
            over = report.epoch is None or report.end or report.trial in self.stopped
            if self._course is None or over:
                continue
            epoch = Epoch(report.trial, report.epoch, report.metrics, time.time())
            if self._course.stops(epoch):
                self.stopped.add(report.trial)
        return bool(reports) and self.stopped.issuperset(result["left"])

    def stop_all(self) -> bool:
        """Never: a study ends when its course does."""
        return False
