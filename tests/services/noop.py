"""A study on Ray whose trials train nothing: Ray Tune, the driver and the mirror are left."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.study.mirrored import METRICS
from trainables.trainable import SamTrainable

EPOCHS = 5
_WINDOW = 200  # trials


class Clock:
    """Wall-clock and this process's CPU time from the first `start` to the last `end`, seconds."""

    def __init__(self) -> None:
        self._first: tuple[float, float] | None = None
        self._last = 0.0
        self.wall = self.cpu = 0.0

    def start(self) -> None:
        """A trial starts."""
        self._first = self._first or (time.perf_counter(), time.process_time())

    def end(self) -> None:
        """A trial has ended."""
        assert self._first is not None
        self._last = time.perf_counter()
        self.wall = self._last - self._first[0]
        self.cpu = time.process_time() - self._first[1]

    def since_end(self) -> float:
        """Seconds since the last `end`."""
        return time.perf_counter() - self._last


class NoopTrainable(SamTrainable):
    """SamTrainable, its trials replaced by ones that end as fast as they are asked."""

    @staticmethod
    def _begin(config: Mapping[str, Any]) -> Any:
        [trial] = config["trials"]
        epochs = trial["training"]["epochs"]
        return _NoopRun(trial["name"], epochs, confirm=bool(config["test"]))


class UnbundledTrainable(NoopTrainable):
    """Tells each epoch by itself, as those are that take more than a second."""

    def train_buffered(self, *limits: float) -> list[dict[str, Any]]:
        """One step."""
        return [self.train()]


def told(epoch: int) -> dict[str, float]:
    """What a trial that trains nothing tells of an epoch: the metrics of one that does."""
    return {key: 80.0 + epoch + i / 10 for i, key in enumerate(METRICS)}


class _NoopRun:
    def __init__(self, name: str, epochs: int, *, confirm: bool) -> None:
        self._name = name
        self._epochs = epochs
        self._confirm = confirm
        self._done = 0

    def step(self, until: float) -> Any:
        from trainables.trial import Ending, Report

        self._done += 1
        metrics = told(self._done)
        scores = {"validation_accuracy": metrics["validation_accuracy"]}
        if self._confirm:
            scores |= {"test_accuracy": 80.0, "test_loss": 1.0}
        ending = Ending("finished", "", scores) if self._done == self._epochs else None
        return [Report(self._name, self._done, metrics, float(self._done), ending)]

    def keep(self) -> None:
        pass


def measure(
    spec: Path,
    assignments: list[str],
    folder: Path,
    workers: int,
    *,
    bundles: bool,
    mirror: bool = True,
) -> dict[str, float]:
    """Runs the command of norm_vs_all in this process, on a Ray of `workers` CPUs that it starts.
    bundles: of epochs, as a study sends short ones. mirror: whether there is one."""
    import ray

    from study import execution, journal, run, tracking_watch, tuning
    from study.tracking_process import MirrorProcess

    replaced = NoopTrainable if bundles else UnbundledTrainable
    tuning._trainable.SamTrainable = replaced  # type: ignore[attr-defined]
    clock = Clock()
    mirrors = list[float]()

    class Clocked(tuning._Callback):
        def _start(self, *arguments: Any) -> None:
            clock.start()
            super()._start(*arguments)

        def _end(self, *arguments: Any) -> None:
            super()._end(*arguments)
            clock.end()

    class Mirror(MirrorProcess):
        def stop(self, timeout: float) -> str | None:
            before = os.times()
            problem = super().stop(timeout)
            now = os.times()  # with what a child took only once it has ended
            user, system = before.children_user, before.children_system
            mirrors.append(now.children_user - user + now.children_system - system)
            return problem

    tuning._Callback = Clocked  # type: ignore[misc]
    tracking_watch.MirrorProcess = Mirror  # type: ignore[attr-defined]
    if not mirror:
        execution.mirrored = _unmirrored  # type: ignore[assignment, attr-defined]
    # As the engine does, but for the number of CPUs: it takes the Ray that is there.
    ray.init(
        "local",
        num_cpus=workers,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.CRITICAL,
    )
    arguments = [str(spec), "--out", str(folder), "--tracking-uri", f"sqlite:///{folder}/m.db"]
    for assignment in [f"workload.epochs={EPOCHS}", *assignments]:
        arguments += ["--set", assignment]
    began, cpu = time.time(), time.process_time()
    stdout, sys.stdout = sys.stdout, (folder / "said").open("w")
    code = run.main(arguments)
    sys.stdout = stdout
    cpu, ended = time.process_time() - cpu, time.time()
    contents = journal.read(folder / "norm_vs_all" / "journal.jsonl")
    times = sorted(end.time for end in contents.ends.values())
    first = min(contents.started.values())
    lines = sum(end.epochs + 1 for end in contents.ends.values())
    window = min(_WINDOW, len(times) - 1)
    return {
        "exit code": code,
        "trials that ended": len(times),
        "results": lines,
        "command, s": ended - began,
        "until the first trial, s": first - began,
        "first start to last end, s": times[-1] - first,
        "the same, driver's CPU time, s": clock.cpu,
        "after the last end, s": ended - times[-1],
        "results a second": lines / (times[-1] - first),
        f"trials a second, first {_WINDOW}": window / (times[window] - times[0]),
        f"trials a second, last {_WINDOW}": window / (times[-1] - times[-1 - window]),
        "driver's CPU time, whole command, ms a result": 1e3 * cpu / lines,
        "mirror's CPU time, s": sum(mirrors),
    }


@contextmanager
def _unmirrored(*_: object) -> Iterator[Any]:
    yield SimpleNamespace(state="", finish=lambda: None)
