"""A study on Ray whose trials train nothing: Ray Tune, the driver and the mirror are left."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainables.trainable import SamTrainable

EPOCHS = 5
_WINDOW = 200  # trials


class NoopTrainable(SamTrainable):
    """SamTrainable, its trials replaced by ones that end as fast as they are asked."""

    @staticmethod
    def _begin(config: Mapping[str, Any]) -> Any:
        return _NoopRun(config["trial"], confirm=bool(config["test"]))


class UnbundledTrainable(NoopTrainable):
    """Tells each epoch by itself, as those are that take more than a second."""

    def train_buffered(self, *limits: float) -> list[dict[str, Any]]:
        """One step."""
        return [self.train()]


class _NoopRun:
    def __init__(self, name: str, *, confirm: bool) -> None:
        self._name = name
        self._confirm = confirm
        self._done = 0

    def step(self, until: float) -> Any:
        from trainables.trial import Ending, Report

        self._done += 1
        metrics = {"train_loss": 1.0, "validation_accuracy": 80.0 + self._done}
        scores = {"validation_accuracy": 80.0 + self._done}
        if self._confirm:
            scores |= {"test_accuracy": 80.0, "test_loss": 1.0}
        ending = Ending("finished", "", scores) if self._done == EPOCHS else None
        return Report(self._name, self._done, metrics, float(self._done), ending)

    def keep(self) -> None:
        pass


def measure(
    spec: Path, assignments: list[str], folder: Path, workers: int, *, bundles: bool
) -> dict[str, float]:
    """Runs the command of norm_vs_all in this process, on a Ray of `workers` CPUs that it starts.
    bundles: of epochs, as a study sends short ones. CPU time is that of the whole command."""
    import ray

    from study import journal, run, tuning

    replaced = NoopTrainable if bundles else UnbundledTrainable
    tuning._trainable.SamTrainable = replaced  # type: ignore[attr-defined]
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
        "after the last end, s": ended - times[-1],
        "results a second": lines / (times[-1] - first),
        f"trials a second, first {_WINDOW}": window / (times[window] - times[0]),
        f"trials a second, last {_WINDOW}": window / (times[-1] - times[-1 - window]),
        "driver's CPU time, ms a result": 1e3 * cpu / lines,
    }
