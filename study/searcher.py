"""Ray Tune asks here for trials: a thin adapter over the course of a study."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

from ray.tune.search import Searcher

from study.course import Group, Trials, Waiting
from study.records import Trial

_PATIENCE = 30.0
"""Seconds for which a process that trains is kept while there is no trial for it. A new one takes
some seconds; on a shared cluster, what it holds may be wanted by another study."""

_MOMENT = 1.0
"""Seconds for which the course is waited for; it mostly takes a few milliseconds."""


class CourseSearcher(Searcher):  # type: ignore[misc]
    """Hands Tune the trials of a study in the order of its course, a group as one of Tune's.

    While the course has none, because the data is still loading or a stage is about to end, it
    hands out trials that only wait: Tune ends an actor that it has no trial for. threads: of a
    process that trains. stopping: whether the study was asked to stop. trials: what was handed
    out, by name. It waits a moment for the course, not longer: a ledger may be away for minutes,
    while other trials report.
    """

    def __init__(self, threads: int, stopping: Callable[[], bool]) -> None:
        super().__init__()
        self._threads = threads
        self._stopping = stopping
        self._course: Trials | None = None
        self._configure: Callable[[Group], Mapping[str, Any]]
        self._last = time.monotonic()
        self._asking = ThreadPoolExecutor(1, "course")
        self._asked: Future[Group | Waiting] | None = None
        self.trials: dict[str, Trial] = {}

    def begin(self, course: Trials, configure: Callable[[Group], Mapping[str, Any]]) -> None:
        """Trials of this course follow. configure: what trainables.trainable reads of them."""
        self._configure = configure
        self._course = course  # last, because Tune asks from its own thread

    def __getstate__(self) -> dict[str, Any]:
        """Empty: Tune pickles what it is given, for a restore that is never asked for."""
        return {}

    def suggest(self, trial_id: str) -> Any:
        """The config of the next trials, of a process that only waits, None, or FINISHED.

        Raises KeyboardInterrupt when asked to stop: without any trial Tune does nothing but ask
        here, for minutes.
        """
        if self._stopping():
            raise KeyboardInterrupt
        group = self._next(self._course) if self._course is not None else "wait"
        if group == "done":
            return Searcher.FINISHED
        if group == "wait":
            if time.monotonic() - self._last > _PATIENCE:
                return None
            return {"trials": [], "threads": self._threads}
        self._last = time.monotonic()
        self.trials |= {trial.name: trial for trial in group}
        return {"threads": self._threads, **self._configure(group)}

    def _next(self, course: Trials) -> Group | Waiting:
        moment = 0.0
        if self._asked is None:
            self._asked, moment = self._asking.submit(course.next), _MOMENT
        if not wait([self._asked], moment).done:
            return "wait"
        asked, self._asked = self._asked, None
        return asked.result()

    def close(self) -> None:
        """No trial is asked for any more; waits until the course is at rest."""
        self._asking.shutdown()

    def on_trial_complete(
        self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False
    ) -> None:
        """Nothing to do: the tuning's callback hears of it first."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: a study resumes from ledger and journal, never from Tune's state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore, as for save."""
