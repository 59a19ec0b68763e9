"""The one module that drives Ray: the cluster, the data on it, and ray.tune for its trials."""

from __future__ import annotations

import importlib
import logging
import os
import signal
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Protocol

# Read by Ray when it is imported: no boxes and tables of its own, no loggers beside the journal,
# no state on disk that nobody resumes from, and Ctrl-C is handled here.
os.environ.update(
    RAY_AIR_NEW_OUTPUT="0",
    RAY_CHDIR_TO_TRIAL_DIR="0",
    RAY_USAGE_STATS_ENABLED="0",
    TUNE_DISABLE_AUTO_CALLBACK_LOGGERS="1",
    TUNE_DISABLE_SIGINT_HANDLER="1",
    TUNE_GLOBAL_CHECKPOINT_S="1000000",
)

import ray
from ray import tune
from ray.tune.experiment import Trial as TuneTrial

from study import stages
from study.course import Course
from study.records import End, Epoch, Trial
from study.searcher import CourseSearcher
from study.spec import Resources, Spec
from study.yamlfile import SpecError

_RETRIES = 3
_SIGNALS = (signal.SIGINT, signal.SIGTERM)

# By path, because nothing of `trainables` but the catalog is known here; they import no torch.
_trainable = importlib.import_module("trainables.trainable")
_loading = importlib.import_module("trainables.loading")


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


class Engine:
    """A Ray cluster, local or at `address`, that runs the trials of one study.

    As a context manager: connects, and shuts down what it started. Ctrl-C and SIGTERM raise
    KeyboardInterrupt at the next safe moment; a second one ends the process at once.
    """

    def __init__(self, spec: Spec, address: str | None) -> None:
        self._spec = spec
        self._address = address
        self._pool: Any = None
        self._test: Any = None
        self._facts: Any = None
        self._stop = False
        self._handlers = ExitStack()

    def __enter__(self) -> Engine:
        # Before Ray starts: an interrupt inside its own code can end in a segmentation fault.
        for each in _SIGNALS:
            self._handlers.callback(signal.signal, each, signal.getsignal(each))
        try:
            self._listen()
            self._connect()
            if not self._stop:
                self._listen()  # again, because Ray takes SIGTERM for itself
        except SystemExit:  # how Ray answers SIGTERM while it starts
            self.__exit__(None, None, None)
            raise KeyboardInterrupt from None
        except BaseException:
            self._handlers.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._handlers.close()
        ray.shutdown()

    def at_once(self) -> int:
        """How many trials the cluster holds side by side. Raises SpecError where not even one."""
        wanted, there = self._spec.resources, ray.cluster_resources()
        fits = int(there.get("CPU", 0) // wanted.cpu)
        if wanted.gpu:
            fits = min(fits, int(there.get("GPU", 0) / wanted.gpu))
        if not fits:
            raise SpecError(
                f"resources: a trial asks for {_amounts(wanted)}, the cluster has "
                f"{there.get('CPU', 0):g} CPU and {there.get('GPU', 0):g} GPU; lower resources.cpu "
                "or resources.gpu, or start the study with --address of a larger cluster"
            )
        return min(fits, wanted.max_trials or fits)

    def load_pool(self) -> Mapping[str, Any]:
        """Loads the images that are not test and checks every arm's model on them.

        Returns facts of the data set as plain values. Raises SpecError with one line where data or
        a model cannot be used.
        """
        place = stages.data_place(self._spec)
        load = _task(_loading.load_pool, returns=3)
        configs = {name: stages.example_config(self._spec, name) for name in self._spec.arms}
        with _data_errors():
            self._pool, facts, problem = load.remote(place, configs)
            self._wait([self._pool, facts, problem])
            self._facts, text = ray.get([facts, problem])
        if text is not None:
            raise SpecError(text)
        return asdict(self._facts)

    def load_test(self) -> Sequence[str]:
        """Loads the test images; returns the files left out because they do not decode."""
        load = _task(_loading.load_test, returns=2)
        with _data_errors():
            self._test, undecodable = load.remote(stages.data_place(self._spec))
            self._wait([undecodable])
            left_out: Sequence[str] = ray.get(undecodable)
        return left_out

    def run(self, course: Course, listeners: Sequence[Listener]) -> None:
        """Runs the trials that a course hands out, to its end.

        Raises KeyboardInterrupt when asked to stop; what ended by then was told to the listeners.
        """
        resources = self._spec.resources
        searcher = CourseSearcher(course, self._tune_config)
        load = {"pool": self._pool, "facts": self._facts}
        with_data = tune.with_parameters(_trainable.SamTrainable, load=load)
        amounts = {"cpu": resources.cpu, "gpu": resources.gpu}
        with tempfile.TemporaryDirectory(prefix="sam-study-") as scratch, self._handlers:
            tune.Tuner(
                tune.with_resources(with_data, amounts),
                tune_config=tune.TuneConfig(
                    search_alg=searcher,
                    num_samples=-1,
                    max_concurrent_trials=self.at_once(),
                    reuse_actors=True,
                    trial_dirname_creator=lambda trial: trial.trial_id,
                ),
                run_config=tune.RunConfig(
                    name="study",
                    storage_path=str(Path(scratch).resolve()),
                    callbacks=[_Callback(self, course, searcher, listeners)],
                    failure_config=tune.FailureConfig(max_failures=_RETRIES),
                    checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                    verbose=0,
                ),
            ).fit()

    def stop(self) -> None:
        """Asks the study to stop; safe from any thread."""
        self._stop = True

    @property
    def stopping(self) -> bool:
        """Whether the study was asked to stop."""
        return self._stop

    def _tune_config(self, trial: Trial) -> Mapping[str, Any]:
        return {
            "training": stages.training_config(self._spec, trial),
            "threads": self._spec.resources.cpu,
            # In a list, because Tune takes a bare reference for something to fill in.
            "test": [self._test] if trial.stage == "confirm" else None,
        }

    def _connect(self) -> None:
        try:
            ray.init(
                # "local": without it Ray would join whatever cluster it finds on this machine.
                address=self._address or "local",
                include_dashboard=False if self._address is None else None,
                log_to_driver=False,
                logging_level=logging.CRITICAL,
            )
        except (ConnectionError, ValueError) as error:
            if self._address is None:
                raise
            raise SpecError(f"--address {self._address}: no Ray cluster there: {error}") from None

    def _wait(self, results: Sequence[Any]) -> None:
        """Waits for results of tasks. Raises KeyboardInterrupt when asked to stop meanwhile."""
        waiting = list(results)
        while waiting:
            _, waiting = ray.wait(waiting, timeout=0.2, fetch_local=False)
            if waiting and self._stop:
                for result in waiting:
                    ray.cancel(result, force=True)
                # Ray's shutdown prints a line about every task that has not ended by then.
                ray.wait(waiting, num_returns=len(waiting), timeout=2, fetch_local=False)
                raise KeyboardInterrupt

    def _listen(self) -> None:
        """Turns the next SIGINT or SIGTERM into a request to stop."""

        def ask(number: int, frame: FrameType | None) -> None:
            self.stop()
            self._handlers.close()

        for each in _SIGNALS:
            signal.signal(each, ask)


class _Callback(tune.Callback):  # type: ignore[misc]
    """Translates what Tune says into the records that listeners get."""

    def __init__(
        self,
        engine: Engine,
        course: Course,
        searcher: CourseSearcher,
        listeners: Sequence[Listener],
    ) -> None:
        self._engine = engine
        self._course = course
        self._searcher = searcher
        self._started: set[str] = set()
        self._listeners = listeners

    def __getstate__(self) -> dict[str, Any]:
        """Empty, as the searcher's."""
        return {}

    def on_step_begin(self, iteration: int, trials: list[TuneTrial], **info: Any) -> None:
        # Between two events no record is half written, so this is where a study may stop.
        if self._engine.stopping:
            raise KeyboardInterrupt

    def on_trial_start(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any
    ) -> None:
        self._start(trial.config["trial"])

    def on_trial_result(
        self,
        iteration: int,
        trials: list[TuneTrial],
        trial: TuneTrial,
        result: dict[str, Any],
        **info: Any,
    ) -> None:
        name, now, number = trial.config["trial"], time.time(), result["training_iteration"]
        for listener in self._listeners:
            listener.epoch(Epoch(name, number, result["metrics"], now))
        if (end := result.get("end")) is not None:
            self._end(End(name, end["status"], end["reason"], end["scores"], number, now))

    def on_trial_error(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any
    ) -> None:
        name, number = trial.config["trial"], trial.last_result.get("training_iteration", 0)
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


def _task(function: Any, returns: int) -> Any:
    """A retriable Ray task; it takes no CPU from the trials, whose actors may hold them all."""
    return ray.remote(function).options(num_returns=returns, max_retries=_RETRIES, num_cpus=0)


@contextmanager
def _data_errors() -> Iterator[None]:
    """Turns an error about the user's data, raised in a Ray task, into a SpecError."""
    try:
        yield
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, ValueError):
            raise SpecError(f"workload.data: {error.cause}") from None
        raise


def _amounts(resources: Resources) -> str:
    return f"{resources.cpu} CPU" + (f" and {resources.gpu:g} GPU" if resources.gpu else "")
