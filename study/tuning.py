"""Drives ray.tune: the trials of a study in the processes that train, from first to last.

Tune runs in a thread of its own, so that those processes start while the data is still loading.
"""

from __future__ import annotations

import importlib
import os
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

# Read when ray.tune is imported and when Ray starts: no boxes and tables of its own, no loggers
# beside the journal, no state on disk that nobody resumes from, results in bundles (SamTrainable
# says how large); Ctrl-C is handled by the engine.
os.environ.update(
    RAY_AIR_NEW_OUTPUT="0",
    RAY_CHDIR_TO_TRIAL_DIR="0",
    RAY_USAGE_STATS_ENABLED="0",
    TUNE_DISABLE_AUTO_CALLBACK_LOGGERS="1",
    TUNE_DISABLE_SIGINT_HANDLER="1",
    TUNE_GLOBAL_CHECKPOINT_S="1000000",
    TUNE_RESULT_BUFFER_LENGTH="2",
)

import ray
from ray import tune
from ray.tune.experiment import Trial as TuneTrial

from study.course import Course
from study.pruning import CourseStopper
from study.records import End, Epoch, Trial
from study.searcher import CourseSearcher
from study.spec import Resources

_RETRIES = 3

# By path, because nothing of `trainables` but the catalog is known here; it imports no torch.
_trainable = importlib.import_module("trainables.trainable")


class Listener(Protocol):
    """Whoever wants to hear what trials do. Called between two results: must neither block nor
    raise."""

    def start(self, trial: Trial, at: float) -> None:
        """A trial starts, or starts again after a failure."""

    def epoch(self, epoch: Epoch) -> None:
        """A trial reported an epoch."""

    def end(self, end: End) -> None:
        """A trial ended."""

    def note(self, text: str) -> None:
        """Something that a reader of the result should know."""


class Tuning:
    """One run of Tune. resources: of a trial. at_once: trials side by side. stopping: asked between
    two events whether to stop."""

    def __init__(self, resources: Resources, at_once: int, stopping: Callable[[], bool]) -> None:
        self._resources = resources
        self._at_once = at_once
        self._searcher = CourseSearcher(resources.cpu, stopping)
        self._stopper = CourseStopper()
        self._callback = _Callback(self._searcher, stopping)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="tune", daemon=True)

    def start(self) -> None:
        """Starts the processes that train; they wait for trials."""
        self._thread.start()

    def run(
        self,
        course: Course,
        configure: Callable[[Trial], Mapping[str, Any]],
        listeners: Sequence[Listener],
    ) -> None:
        """Runs the trials that a course hands out, to its end. configure: a trial's Tune config.

        Raises KeyboardInterrupt when asked to stop, and whatever the course raised.
        """
        self._callback.begin(course, listeners)
        self._stopper.begin(course)
        self._searcher.begin(course, configure)
        self.join()
        if self._error is not None:
            raise self._error

    def join(self) -> None:
        """Waits until Tune has ended, or was never started."""
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        try:
            with tempfile.TemporaryDirectory(prefix="sam-study-") as scratch:
                self._fit(str(Path(scratch).resolve()))
        except BaseException as error:  # raised again where the study waits for it
            self._error = error

    def _fit(self, scratch: str) -> None:
        amounts = {"cpu": self._resources.cpu, "gpu": self._resources.gpu}
        tune.Tuner(
            tune.with_resources(_trainable.SamTrainable, amounts),
            tune_config=tune.TuneConfig(
                search_alg=self._searcher,
                num_samples=-1,
                max_concurrent_trials=self._at_once,
                reuse_actors=True,
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(
                name="study",
                storage_path=scratch,
                callbacks=[self._callback],
                stop=self._stopper,
                failure_config=tune.FailureConfig(max_failures=_RETRIES),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                verbose=0,
            ),
        ).fit()


class _Callback(tune.Callback):  # type: ignore[misc]
    """Translates what Tune says into the records that listeners get."""

    def __init__(self, searcher: CourseSearcher, stopping: Callable[[], bool]) -> None:
        self._searcher = searcher
        self._stopping = stopping
        self._course: Course
        self._listeners: Sequence[Listener] = ()
        self._started: set[str] = set()

    def begin(self, course: Course, listeners: Sequence[Listener]) -> None:
        """Trials of this course follow."""
        self._course, self._listeners = course, listeners

    def __getstate__(self) -> dict[str, Any]:
        """Empty, as the searcher's."""
        return {}

    def on_step_begin(self, iteration: int, trials: list[TuneTrial], **info: Any) -> None:
        # Between two events no record is half written, so this is where a study may stop.
        if self._stopping():
            raise KeyboardInterrupt

    def on_trial_start(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any
    ) -> None:
        if (name := trial.config["trial"]) is not None:
            self._start(name)

    def on_trial_result(
        self,
        iteration: int,
        trials: list[TuneTrial],
        trial: TuneTrial,
        result: dict[str, Any],
        **info: Any,
    ) -> None:
        if (name := trial.config["trial"]) is None:
            return
        report, number, now = result["report"], result["training_iteration"], time.time()
        for listener in self._listeners:
            listener.epoch(Epoch(name, number, report.metrics, now))
        if (end := report.end) is not None:
            self._end(End(name, end.status, end.reason, end.scores, number, now))
        elif result["done"]:
            scores = {"validation_accuracy": report.metrics["validation_accuracy"]}
            self._end(End(name, "pruned", f"pruned after epoch {number}", scores, number, now))

    def on_trial_error(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any
    ) -> None:
        if (name := trial.config["trial"]) is None:
            return
        number = trial.last_result.get("training_iteration", 0)
        error = _last_error(trial)
        cause = getattr(error, "cause", None) or error
        reason = type(cause).__name__
        last_line = (str(cause).strip().splitlines() or [""])[-1]
        if name not in self._started:  # it failed before its first step, so Tune never started it
            self._start(name)
        for listener in self._listeners:
            listener.note(f"{name} failed {_RETRIES + 1} times, the last time: {last_line}")
        self._end(End(name, "failed", reason, {}, number, time.time()))

    def _start(self, name: str) -> None:
        self._started.add(name)
        for listener in self._listeners:
            listener.start(self._searcher.trials[name], time.time())

    def _end(self, end: End) -> None:
        for listener in self._listeners:
            listener.end(end)
        self._course.ended(end.trial)


def _last_error(trial: TuneTrial) -> BaseException | None:
    """What a trial failed of the last time, as Tune noted it in this process's scratch folder."""
    path = trial.pickled_error_file
    if path is None or not Path(path).exists():
        return None
    error: BaseException = ray.cloudpickle.loads(Path(path).read_bytes())
    return error
