"""Ray Tune asks here for trials: a thin adapter over the course of a study."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ray.tune.search import Searcher

from study.course import Course
from study.records import Trial


class CourseSearcher(Searcher):  # type: ignore[misc]
    """Hands Tune the trials of a study in the order of its course.

    configure: a trial's Tune config, which gets its name as `trial`. trials: what was handed out,
    by that name.
    """

    def __init__(self, course: Course, configure: Callable[[Trial], Mapping[str, Any]]) -> None:
        super().__init__()
        self._course = course
        self._configure = configure
        self.trials: dict[str, Trial] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Empty: Tune pickles what it is given, for a restore that is never asked for."""
        return {}

    def suggest(self, trial_id: str) -> Any:
        """The config of the next trial, None while there is none, or FINISHED."""
        trial = self._course.next()
        if isinstance(trial, str):
            return Searcher.FINISHED if trial == "done" else None
        self.trials[trial.name] = trial
        return {"trial": trial.name, **self._configure(trial)}

    def on_trial_complete(
        self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False
    ) -> None:
        """Nothing to do: the engine's callback hears of it first."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: a study resumes from ledger and journal, never from Tune's state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore, as for save."""
