"""A Ray cluster and one study on it: connection, data, signals; ray.tune itself is in tuning."""

from __future__ import annotations

import importlib
import logging
import signal
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from types import FrameType, TracebackType
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from study import provenance, stages
from study.course import Group, Trials
from study.failures import Failures
from study.measures import Task
from study.mishaps import told
from study.records import Measured
from study.spec import Resources, Spec
from study.tuning import Listener, Tuning
from study.yamlfile import SpecError

_RETRIES = 3
_GRACE = 8.0
"""Seconds after a request to stop in which the mirror may catch up; Ray's end comes after that."""
_SIGNALS = (signal.SIGINT, signal.SIGTERM)

# By path, because nothing of `trainables` but the catalog is known here; it imports no torch.
_loading = importlib.import_module("trainables.loading")
_measuring = importlib.import_module("trainables.measuring")


class Engine:
    """A Ray cluster, local or at `address`, that runs the trials of one study.

    storage: of checkpoints and weights, as trainables.storage.open_storage takes it. keep: stay
    connected, if all went well, for the next engine of this process, which joins.

    As a context manager: connects, and shuts down what it started. Ctrl-C and SIGTERM raise
    KeyboardInterrupt at the next safe moment; a second one ends the process at once.
    """

    def __init__(
        self, spec: Spec, address: str | None, storage: str, *, keep: bool = False
    ) -> None:
        self._spec = spec
        self._address = address
        self._storage = storage
        self._keep = keep
        self._tuning: Tuning | None = None
        self._loader: Any = None
        self._pool: Any = None
        self._test: Any = None
        self._facts: Any = None
        self._versions = provenance.versions()
        self._stopped: float | None = None
        self._handlers = ExitStack()

    def __enter__(self) -> Engine:
        # Before Ray starts: an interrupt inside its own code can end in a segmentation fault.
        self._restore_later()
        try:
            self._listen()
            self._connect()
            if not self.stopping():
                self._listen()  # again, because Ray takes SIGTERM for itself
        except SystemExit as stopped:  # how Ray answers SIGTERM while it starts
            self.__exit__(SystemExit, stopped, None)
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
        # What an interrupt leaves of Tune holds its cores: another engine would wait for them.
        self._keep = self._keep and error is None
        self.close()

    def close(self) -> None:
        """Ends what was started; a second time changes nothing."""
        self.stop()
        if self._tuning is not None:
            self._tuning.join()
        if not self._keep:
            ray.shutdown()
        elif self._loader is not None:
            ray.kill(self._loader)
            self._loader = None

    def at_once(self) -> int:
        """How many groups of trials run side by side: on a cluster as many as have
        resources.max_trials, or all but one that fit there now. Raises SpecError where not even
        one fits."""
        wanted, there = self._spec.resources, self.resources()
        most = wanted.max_trials and max(1, wanted.max_trials // self._spec.engine.batched_trials)
        if self.is_shared and most is not None:
            return most  # a cluster may grow, and Ray does not say how far
        fits = fitting([node["Resources"] for node in ray.nodes() if node["Alive"]], wanted)
        if not fits:
            raise SpecError(
                f"resources: a trial asks for {wanted.amounts}, the cluster has "
                f"{there.get('CPU', 0):g} CPU and {there.get('GPU', 0):g} GPU; lower resources.cpu "
                "or resources.gpu, start the study with --address of a larger cluster, or, on one "
                "that grows by itself, give resources.max_trials"
            )
        if self.is_shared:
            return max(1, fits - 1)  # others use a cluster too: a study of theirs can begin
        return min(fits, most or fits)

    @property
    def is_shared(self) -> bool:
        """Whether other studies may use the cluster."""
        return self._address is not None

    def resources(self) -> Mapping[str, float]:
        """What the cluster has, by Ray's names: CPU, GPU."""
        there: Mapping[str, float] = ray.cluster_resources()
        return there

    def load_pool(self) -> Mapping[str, Any]:
        """Loads the images that are not test and checks every arm's model on them, while the
        processes start that will train.

        Returns facts of the data set as plain values. Raises SpecError with one line where data or
        a model cannot be used.
        """
        self._tuning = Tuning(
            self._spec.resources, self.at_once(), self._spec.stuck_after, self.stopping
        )
        self._tuning.start()
        # It takes no CPU from the trials, whose actors may hold them all.
        self._loader = (
            ray.remote(_loading.Loader)
            .options(
                num_cpus=0,
                max_restarts=_RETRIES,
                max_task_retries=_RETRIES,
                # The images must not go away with some node while this one stays.
                scheduling_strategy=NodeAffinitySchedulingStrategy(
                    ray.get_runtime_context().get_node_id(), soft=False
                ),
            )
            .remote(stages.data_place(self._spec))
        )
        configs = stages.example_configs(self._spec)
        with _data_errors():
            self._pool, facts, problem = self._loader.pool.options(num_returns=3).remote(configs)
            self._wait([self._pool, facts, problem])
            self._facts, text = ray.get([facts, problem])
        if text is not None:
            raise SpecError(text)
        return asdict(self._facts)

    def load_test(self) -> Sequence[str]:
        """Loads the test images; returns the files left out because they do not decode."""
        with _data_errors():
            self._test, undecodable = self._loader.test.options(num_returns=2).remote()
            self._wait([undecodable])
            left_out: Sequence[str] = ray.get(undecodable)
        return left_out

    def run(self, course: Trials, failures: Failures, listeners: Sequence[Listener]) -> None:
        """Runs the trials that a course hands out, to its end.

        Raises KeyboardInterrupt when asked to stop; what ended by then was told to the listeners,
        and what did not has a checkpoint. Raises EveryTrialFails.
        """
        assert self._tuning is not None
        with self._handlers:
            self._tuning.run(course, failures, self._configure, listeners)

    def measure(self, tasks: Sequence[Task]) -> Iterator[tuple[Task, tuple[Measured, ...] | str]]:
        """Measures on the weights of confirm runs, once `run` has ended: each task with what was
        found, or with one line why it could not be.

        Raises KeyboardInterrupt when asked to stop.
        """
        self._restore_later()
        with self._handlers:
            self._listen()
            if self._test is None:
                self.load_test()
            at_once, left, out = self.at_once(), deque(tasks), dict[Any, Task]()
            while left or out:
                while left and len(out) < at_once:
                    task = left.popleft()
                    out[self._measured(task)] = task
                ready, _ = ray.wait(list(out), timeout=0.2)
                if self.stopping():
                    for each in out:
                        ray.cancel(each, force=True)
                    raise KeyboardInterrupt
                for each in ready:
                    yield out.pop(each), _found(each)

    def stop(self) -> None:
        """Asks the study to stop; safe from any thread."""
        self._stopped = self._stopped or time.monotonic()

    def stopping(self) -> bool:
        """Whether the study was asked to stop; safe from any thread."""
        return self._stopped is not None

    def grace(self) -> float:
        """Seconds left to finish what must be, once the study was asked to stop."""
        since = 0.0 if self._stopped is None else time.monotonic() - self._stopped
        return max(_GRACE - since, 1.0)

    def _configure(self, group: Group) -> Mapping[str, Any]:
        """What trainables.trainable reads of the trials of a group."""
        settings = self._spec.engine
        return {
            "trials": [
                {
                    "name": trial.name,
                    "slot": settings.slot(trial.index)[1],
                    "training": stages.training_config(self._spec, trial),
                }
                for trial in group
            ],
            "slots": settings.batched_trials,
            "versions": self._versions,
            "keeping": {"storage": self._storage, **self._spec.checkpoint.model_dump()},
            "facts": self._facts,
            "pool": [self._pool],
            "test": [self._test] if group[0].stage == "confirm" else [],
        }

    def _measured(self, task: Task) -> Any:
        """The reference to what trainables.measuring finds."""
        wanted, against = self._spec.resources, task.against
        return (
            ray.remote(_measuring.measure)
            .options(num_cpus=wanted.cpu, num_gpus=min(wanted.gpu, 1), max_retries=_RETRIES)
            .remote(
                task.what,
                task.trial.name,
                stages.training_config(self._spec, task.trial),
                self._storage,
                self._pool,
                self._facts,
                self._test,
                "cuda" if wanted.gpu else "cpu",
                wanted.cpu,
                None if against is None else against.name,
                None if against is None else stages.training_config(self._spec, against),
            )
        )

    def _connect(self) -> None:
        if ray.is_initialized():  # kept by an engine before this one
            return
        try:
            ray.init(
                # "local": without it Ray would join whatever cluster it finds on this machine.
                address=self._address or "local",
                include_dashboard=False if self._address is None else None,
                log_to_driver=False,
                logging_level=logging.CRITICAL,
            )
            # Ray prints a paragraph for every process that dies; the study tells it in a line.
            ray._private.worker._worker_logs_enabled = False
        except (ConnectionError, ValueError) as error:
            if self._address is None:
                raise
            raise SpecError(f"--address {self._address}: no Ray cluster there: {error}") from None

    def _wait(self, results: Sequence[Any]) -> None:
        """Waits for results of tasks. Raises KeyboardInterrupt when asked to stop meanwhile."""
        waiting = list(results)
        while waiting:
            _, waiting = ray.wait(waiting, timeout=0.2, fetch_local=False)
            if waiting and self.stopping():
                ray.kill(self._loader)
                # Ray's shutdown prints a line about every task that has not ended by then.
                ray.wait(waiting, num_returns=len(waiting), timeout=2, fetch_local=False)
                raise KeyboardInterrupt

    def _restore_later(self) -> None:
        """Lets the handlers that signals have now come back when ours go."""
        for each in _SIGNALS:
            self._handlers.callback(signal.signal, each, signal.getsignal(each))

    def _listen(self) -> None:
        """Turns the next SIGINT or SIGTERM into a request to stop."""

        def ask(number: int, frame: FrameType | None) -> None:
            self.stop()
            self._handlers.close()

        for each in _SIGNALS:
            signal.signal(each, ask)


@contextmanager
def _data_errors() -> Iterator[None]:
    """Turns an error about the user's data, raised in the loader, into a SpecError."""
    try:
        yield
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, ValueError):
            raise SpecError(f"workload.data: {error.cause}") from None
        raise
    except ray.exceptions.ActorDiedError as error:
        if "failed to import" not in str(error):
            raise
        raise SpecError(
            "--address: the nodes of this cluster do not have this code; send it along with "
            "python -m study.submit SPEC --address http://HOST:8265, or install it there"
        ) from None


def _found(result: Any) -> tuple[Measured, ...] | str:
    """What a task measured, or one line why it could not."""
    try:
        return tuple(Measured(**vars(row)) for row in ray.get(result))
    except ray.exceptions.RayError as error:
        return told(error)


def fitting(nodes: Sequence[Mapping[str, float]], wanted: Resources) -> int:
    """How many trials fit nodes with these resources, by Ray's names, side by side. The workers of
    one may sit on several nodes; none shares its part of a GPU between two GPUs."""
    share = min(wanted.gpu, 1.0)
    processes = 0
    for node in nodes:
        fits = int(node.get("CPU", 0) // wanted.cpu)
        if share:
            # The parts of a GPU as Ray counts them, in steps of 1/10,000.
            fits = min(fits, int(node.get("GPU", 0)) * (10_000 // max(1, round(share * 10_000))))
        processes += fits
    return processes // wanted.workers
