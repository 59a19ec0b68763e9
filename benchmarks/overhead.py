"""What a study costs besides its training: its wall-clock against the same training loops alone.

    python benchmarks/overhead.py search_spaces/norm_vs_all.yaml [--repeats N] [--set KEY=VALUE ...]

Runs the study as a user does, in a temporary folder. Then trains every one of its trials again, in
the same order, in as many plain processes as the study ran trials at once, without Ray, ledger,
journal or MLflow; a trial must score the same there, or this fails. Then the study once more, and
so on: each run of the loops is compared with the mean of the studies before and after it, because
a machine changes its speed within minutes. Prints each, the median difference, where a study's
time goes, and the largest memory that all processes of a study held together (proportional set
size, so that shared pages count once).
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from study import journal, resolve, stages
from study.records import Result
from study.spec import Spec


@dataclass(frozen=True)
class Run:
    """One run of the study. Seconds: the whole command, until its first trial trains, of a worker
    without a trial between the first start and the last end, after the last end. memory: bytes."""

    wall: float
    before: float
    idle: float
    after: float
    memory: int


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("spec", type=Path)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--set", action="append", default=[])
    options = parser.parse_args()
    spec = resolve.load(options.spec, options.set)
    workers = (os.cpu_count() or 1) // spec.resources.cpu
    run, results = _study(spec, options.spec.resolve(), options.set, workers)
    runs, loops, differences = [run], list[float](), list[float]()
    for _ in range(options.repeats):
        loops.append(_alone(spec, results, workers))
        run, _ = _study(spec, options.spec.resolve(), options.set, workers)
        differences.append((runs[-1].wall + run.wall) / 2 - loops[-1])
        runs.append(run)
    _print("study, command to exit, s", [run.wall for run in runs])
    _print("  until its first trial trains, s", [run.before for run in runs])
    _print("  a worker without a trial, s", [run.idle for run in runs])
    _print("  after its last trial, s", [run.after for run in runs])
    _print(f"training loops alone, {workers} processes, s", loops)
    _print("study minus loops alone, s", differences)
    _print("memory, all processes, at most, GiB", [run.memory / 2**30 for run in runs])


def _print(title: str, values: list[float]) -> None:
    """A line with the median and, where there are several, each value in order."""
    each = "  of " + " ".join(f"{value:.1f}" for value in values) if len(values) > 1 else ""
    print(f"{title:42s}{statistics.median(values):8.1f}{each}")


def _study(
    spec: Spec, path: Path, assignments: list[str], workers: int
) -> tuple[Run, list[Result]]:
    """Runs the study in a new folder; also its trials in the order in which they started."""
    command = [sys.executable, "-m", "study.run", str(path)]
    for assignment in assignments:
        command += ["--set", assignment]
    with tempfile.TemporaryDirectory() as folder:
        begun = time.time()
        process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)  # noqa: S603
        peak, over = 0, threading.Event()

        def watch() -> None:
            nonlocal peak
            while not over.wait(2.0):
                peak = max(peak, sum(_memory(pid) for pid in _family(process.pid)))

        watcher = threading.Thread(target=watch)
        watcher.start()
        code = process.wait()
        ended = time.time()
        over.set()
        watcher.join()
        if code:
            raise SystemExit(f"the study ended with code {code}")
        contents = journal.read(Path(folder) / "studies" / spec.study / "journal.jsonl")
    results = list(contents.results)
    first = min(contents.started.values())
    last = max(result.end.time for result in results)
    busy = sum(result.end.time - contents.started[result.trial.name] for result in results)
    idle = (last - first) - busy / workers
    return Run(ended - begun, first - begun, idle, ended - last, peak), results


def _family(pid: int) -> list[int]:
    """The process and all its descendants."""
    family = [pid]
    for parent in family:
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            family += [int(child) for child in _text(task).split()]
    return family


def _memory(pid: int) -> int:
    lines = _text(Path(f"/proc/{pid}/smaps_rollup")).splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # the process has ended
        return ""


def _alone(spec: Spec, results: list[Result], workers: int) -> float:
    """Seconds of the loops, without starting the processes and loading the data."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(workers, _prepare, (stages.data_place(spec), spec.resources.cpu)) as pool:
        pool.map(_ready, range(workers), chunksize=1)
        started = time.perf_counter()
        configs = [stages.training_config(spec, result.trial) for result in results]
        scores = pool.map(_train, configs, chunksize=1)
        ended = time.perf_counter()
    for result, score in zip(results, scores, strict=True):
        if result.end.status == "finished" and score != result.end.scores["validation_accuracy"]:
            raise SystemExit(f"{result.trial.name}: {score} here, {result.end.scores} in the study")
    return ended - started


_data: tuple[Any, Any]


def _prepare(place: dict[str, Any], threads: int) -> None:
    global _data
    from trainables.loading import load_pool
    from trainables.training import deterministic

    deterministic(threads)
    _data = load_pool(place)


def _ready(_: int) -> None:
    time.sleep(1.0)  # long enough for the other processes to take theirs


def _train(fields: dict[str, Any]) -> float:
    from trainables.config import Config
    from trainables.training import Training, diverged

    training = Training(Config(**fields), *_data)
    metrics: dict[str, float] = {}
    while training.done < training.config.epochs:
        metrics = training.epoch()
        if diverged(metrics):
            break
    return metrics["validation_accuracy"]


if __name__ == "__main__":
    main()
