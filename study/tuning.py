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
from dataclasses import dataclass
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

from study.course import Group, Trials
from study.failures import EveryTrialFails, Failures
from study.mishaps import Mishap, mishap
from study.pruning import CourseStopper
from study.records import Correct, End, Epoch, Failure, Trial
from study.searcher import CourseSearcher
from study.spec import Resources

_KEEPING = 5.0
"""Seconds that trials have to write checkpoints when the study is asked to stop."""

# By path, because nothing of `trainables` but the catalog is known here; it imports no torch.
_trainable = importlib.import_module("trainables.trainable")


class Listener(Protocol):
    """Whoever wants to hear what trials do. Called between two results: must neither block nor
    raise."""

    def start(self, trial: Trial, at: float) -> None:
        """A trial starts, or starts again after a failure."""

    def epoch(self, epoch: Epoch) -> None:
        """A trial reported an epoch."""

    def failure(self, failure: Failure) -> None:
        """An attempt at a trial failed; it starts again, or is about to end as failed."""

    def resumed(self, trial: str, progress: float) -> None:
        """A trial goes on from a checkpoint. progress: epochs that were done there."""

    def end(self, end: End) -> None:
        """A trial ended."""

    def note(self, text: str) -> None:
        """Something that a reader of the result should know."""


class Tuning:
    """One run of Tune. resources: of a trial. at_once: trials side by side. stuck_after: seconds
    without a sign of life, after which a process is ended. stopping: asked between two events
    whether to stop."""

    def __init__(
        self,
        resources: Resources,
        at_once: int,
        stuck_after: float,
        stopping: Callable[[], bool],
    ) -> None:
        self._resources = resources
        self._at_once = at_once
        self._searcher = CourseSearcher(resources.cpu, stopping)
        self._stopper = CourseStopper()
        self._callback = _Callback(self._searcher, self._stopper, stuck_after, stopping)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="tune", daemon=True)

    def start(self) -> None:
        """Starts the processes that train; they wait for trials."""
        self._thread.start()

    def run(
        self,
        course: Trials,
        failures: Failures,
        configure: Callable[[Group], Mapping[str, Any]],
        listeners: Sequence[Listener],
    ) -> None:
        """Runs the trials that a course hands out, to its end. configure: their Tune config.

        Raises KeyboardInterrupt when asked to stop, EveryTrialFails, and whatever the course
        raised.
        """
        self._callback.begin(course, failures, listeners)
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
            # Tune raises one of its own in place of what a callback raises.
            self._error = self._callback.broken or error
        finally:
            self._searcher.close()

    def _fit(self, scratch: str) -> None:
        tune.Tuner(
            tune.with_resources(_trainable.SamTrainable, _bundles(self._resources)),
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
                # A trial that fails is handed out again by the course.
                failure_config=tune.FailureConfig(max_failures=0),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                verbose=0,
            ),
        ).fit()


def _bundles(resources: Resources) -> tune.PlacementGroupFactory:
    """What Tune reserves for a trial: a bundle for its process, or one for each of its workers and
    nothing for the process that leads them."""
    workers = resources.workers
    each = {"CPU": resources.cpu, "GPU": resources.gpu / workers}
    return tune.PlacementGroupFactory([each] if workers == 1 else [{}, *[each] * workers])


@dataclass
class _Attempt:
    """A process with its trials, those that have not ended, by name. tune: what Tune calls a trial;
    alive: when it last gave a sign of life, by the monotonic clock."""

    trials: dict[str, Trial]
    tune: TuneTrial
    alive: float
    stuck: bool = False


class _Callback(tune.Callback):  # type: ignore[misc]
    """Translates what Tune says into the records that listeners get. broken: why it stopped."""

    def __init__(
        self,
        searcher: CourseSearcher,
        stopper: CourseStopper,
        stuck_after: float,
        stopping: Callable[[], bool],
    ) -> None:
        self._searcher = searcher
        self._stopper = stopper
        self._stuck_after = stuck_after
        self._stopping = stopping
        self._course: Trials
        self._failures: Failures
        self._listeners: Sequence[Listener] = ()
        self._attempts: dict[str, _Attempt] = {}
        self._epochs: dict[str, int] = {}
        self._progress: dict[str, float] = {}
        self.broken: EveryTrialFails | None = None

    def begin(self, course: Trials, failures: Failures, listeners: Sequence[Listener]) -> None:
        """Trials of this course follow."""
        self._course, self._failures, self._listeners = course, failures, listeners

    def __getstate__(self) -> dict[str, Any]:
        """Empty, as the searcher's."""
        return {}

    def on_step_begin(self, iteration: int, trials: list[TuneTrial], **info: Any) -> None:
        # Between two events no record is half written, so this is where a study may stop.
        # `trials` are all that there ever were.
        if self._stopping():
            self._keep()
            raise KeyboardInterrupt
        now = time.monotonic()
        for attempt in self._attempts.values():
            if now - attempt.alive > self._stuck_after:
                attempt.alive, attempt.stuck = now, True
                ray.kill(attempt.tune.temporary_state.ray_actor)

    def on_trial_start(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any
    ) -> None:
        if trial.config["trials"]:
            self._start(trial)

    def on_trial_result(
        self,
        iteration: int,
        trials: list[TuneTrial],
        trial: TuneTrial,
        result: dict[str, Any],
        **info: Any,
    ) -> None:
        if not result["reports"]:
            return
        attempt = self._attempts[trial.trial_id]
        attempt.alive = time.monotonic()
        for report in result["reports"]:
            if report.trial in attempt.trials:  # not of one that was just told to stop
                self._report(attempt, report)
        if result["done"]:
            del self._attempts[trial.trial_id]

    def _report(self, attempt: _Attempt, report: Any) -> None:
        """Takes what a trial reported: a trainables.trial.Report."""
        name, now = report.trial, time.time()
        self._progress[name] = report.progress
        for listener in self._listeners:
            if report.resumed is not None:
                listener.resumed(name, report.resumed)
            for text in report.notes:
                listener.note(text)
        if report.epoch is None:
            return
        self._epochs[name] = report.epoch
        for listener in self._listeners:
            listener.epoch(Epoch(name, report.epoch, report.metrics, now))
        if (end := report.end) is not None:
            right = end.correct and Correct(end.correct.images, end.correct.bits)
            del attempt.trials[name]
            self._end(End(name, end.status, end.reason, end.scores, report.epoch, now, right))
        elif name in self._stopper.stopped:
            del attempt.trials[name]
            if attempt.trials:  # else Tune stops the process itself
                attempt.tune.temporary_state.ray_actor.drop.remote(name)
            scores = {"validation_accuracy": report.metrics["validation_accuracy"]}
            reason = f"pruned after epoch {report.epoch}"
            self._end(End(name, "pruned", reason, scores, report.epoch, now))

    def on_trial_error(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any
    ) -> None:
        if not trial.config["trials"]:
            return
        if trial.trial_id not in self._attempts:  # it failed before Tune started it
            self._start(trial)
        attempt = self._attempts.pop(trial.trial_id)
        if attempt.stuck:
            seconds = f"{self._stuck_after:g} s"
            what = Mishap("stuck", f"no sign of life for {seconds}", "")
        else:
            what = mishap(trial)
        # All of them failed, whoever it was of: those that may try it again do so together.
        going_on = tuple(t for t in attempt.trials.values() if self._goes_on(t.name, what))
        if going_on:
            self._course.again(going_on)
        for each in attempt.trials.values():
            if each not in going_on:
                self._give_up(each.name, what)

    def _goes_on(self, name: str, what: Mishap) -> bool:
        """Tells of a failed attempt at a trial; whether there is to be another."""
        epochs = self._epochs.get(name, 0)
        failure = Failure(name, self._failures.count(name), what.reason, epochs, time.time())
        for listener in self._listeners:
            listener.failure(failure)
        return self._failures.again(name, self._progress.get(name, 0.0))

    def _give_up(self, name: str, what: Mishap) -> None:
        number, epochs, now = self._failures.total(name), self._epochs.get(name, 0), time.time()
        for listener in self._listeners:
            listener.note(f"{name} failed {number} times, the last time: {what.text}")
        try:
            self._end(End(name, "failed", what.reason, {}, epochs, now))
        except EveryTrialFails:
            told = what.trace or what.text
            self.broken = EveryTrialFails(
                f"the first trials of this stage all fail; the last did so:\n{told}\n"
                "None of them was recorded"
            )
            raise self.broken from None

    def _start(self, tune_trial: TuneTrial) -> None:
        names = [each["name"] for each in tune_trial.config["trials"]]
        trials = {name: self._searcher.trials[name] for name in names}
        self._attempts[tune_trial.trial_id] = _Attempt(trials, tune_trial, time.monotonic())
        for trial in trials.values():
            for listener in self._listeners:
                listener.start(trial, time.time())

    def _end(self, end: End) -> None:
        for each in self._failures.ended(end):
            for listener in self._listeners:
                listener.end(each)
        self._course.ended(end.trial)

    def _keep(self) -> None:
        """Lets the running trials write checkpoints, for a few seconds."""
        actors = [attempt.tune.temporary_state.ray_actor for attempt in self._attempts.values()]
        waiting = [actor.keep.remote() for actor in actors]
        if waiting:
            ray.wait(waiting, num_returns=len(waiting), timeout=_KEEPING, fetch_local=False)
