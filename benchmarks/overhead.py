"""What a study costs besides its training: its wall-clock against the same training loops alone.

    python benchmarks/overhead.py search_spaces/norm_vs_all.yaml [--set KEY=VALUE ...]

Runs the study as a user does, in a temporary folder. Then trains every one of its trials again, in
the same order, in as many plain processes as the study ran trials at once, without Ray, ledger,
journal or MLflow; a trial must score the same there, or this fails. Prints both, and the largest
memory that all processes of the study held together (proportional set size, so that shared pages
count once).
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from study import journal, resolve, stages
from study.records import Result
from study.spec import Spec


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("spec", type=Path)
    parser.add_argument("--set", action="append", default=[])
    options = parser.parse_args()
    spec = resolve.load(options.spec, options.set)
    workers = (os.cpu_count() or 1) // spec.resources.cpu
    with tempfile.TemporaryDirectory() as folder:
        begun = time.time()
        wall, peak = _study(options.spec.resolve(), options.set, Path(folder))
        contents = journal.read(Path(folder) / "studies" / spec.study / "journal.jsonl")
    first = min(contents.started.values()) - begun
    alone, loops = _alone(spec, list(contents.results), workers)
    print(f"study, command to exit            {wall:7.1f} s")
    print(f"  until its first trial trains    {first:7.1f} s")
    print(f"training loops alone, {workers} processes {loops:7.1f} s")
    print(f"  with imports and data           {alone:7.1f} s")
    print(f"study minus loops alone           {wall - loops:7.1f} s")
    print(f"memory, all processes, at most    {peak / 2**30:7.2f} GiB")


def _study(spec: Path, assignments: list[str], folder: Path) -> tuple[float, int]:
    """Wall-clock seconds of the command and the peak memory of its processes in bytes."""
    command = [sys.executable, "-m", "study.run", str(spec)]
    for assignment in assignments:
        command += ["--set", assignment]
    started = time.perf_counter()
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)  # noqa: S603
    peak, over = 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not over.wait(1.0):
            peak = max(peak, sum(_memory(pid) for pid in _family(process.pid)))

    watcher = threading.Thread(target=watch)
    watcher.start()
    code = process.wait()
    wall = time.perf_counter() - started
    over.set()
    watcher.join()
    if code:
        raise SystemExit(f"the study ended with code {code}")
    return wall, peak


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


def _alone(spec: Spec, results: list[Result], workers: int) -> tuple[float, float]:
    """Seconds with and without starting the processes."""
    begun = time.perf_counter()
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
    return time.perf_counter() - begun, ended - started


_data: tuple[Any, Any]


def _prepare(place: dict[str, Any], threads: int) -> None:
    global _data
    from trainables import data
    from trainables.training import deterministic

    deterministic(threads)
    _data = data.load_pool(**place)


def _ready(_: int) -> None:
    time.sleep(1.0)  # long enough for the other processes to take theirs


def _train(fields: dict[str, Any]) -> float:
    from trainables.training import Config, Training, diverged

    training = Training(Config(**fields), *_data)
    metrics: dict[str, float] = {}
    while training.done < training.config.epochs:
        metrics = training.epoch()
        if diverged(metrics):
            break
    return metrics["validation_accuracy"]


if __name__ == "__main__":
    main()
