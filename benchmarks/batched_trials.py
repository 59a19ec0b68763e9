"""Would several trials of an arm, trained as one, be faster than one after another?

    python -m benchmarks.batched_trials [--trials 1 2 4 8] [--rounds 30] [--threads 1] [--json FILE]

Trials of an arm share the network and differ in initialisation, batches, rho, lr and weight decay.
A step of each of N trials is taken (i) one after another, (ii) by torch.func.vmap over stacked
parameters, (iii) with the channels of all trials side by side in one network of N groups. Batch
normalization has no running statistics in any of them. Before the clock starts, the first two steps
must give the losses and gradients of (i) to rounding, in float64.

All take turns in one process. On one CPU thread the clock is the CPU time of the process, which
other work on the machine changes least; else it is the wall's. A ratio is that of two turns of one
round; told are medians over rounds with 95 % bootstrap intervals. Runs on a GPU where there is one.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from scipy.stats import bootstrap
from torch import Tensor

from benchmarks.batched_contestants import CONTESTANTS, FIRST, Bench, Setting, Trials

Clock: TypeAlias = Callable[[], float]
_WARM, _STEPS = 3, 2
"""Turns before the clock starts; steps of each trial in a turn."""
_TOLERANCE = 1e-9
"""Largest relative difference to (i) that is rounding, in float64."""

SETTINGS = (
    Setting("norm_vs_all: resnet8 width 16, digits 8x8", 16, 1, 8),
    Setting("resnet8 width 8, 32x32", 8, 3, 32),
)


@dataclass(frozen=True)
class Row:
    """milliseconds: a step of one trial, median; ratio, low, high: of a turn's time to that of (i);
    least: of the shortest turn to the shortest of (i), on which other work told least."""

    setting: str
    method: str
    trials: int
    contestant: str
    milliseconds: float
    ratio: float
    low: float
    high: float
    least: float
    n: int


_METHODS = {"SGD": False, "SAM-ON": True}


def contestants(
    setting: Setting, trials: int, device: str, dtype: torch.dtype
) -> dict[str, Trials]:
    """Each with N trials of its own, which are the same for all."""
    return {n: make(Bench(setting, trials, device, dtype)) for n, make in CONTESTANTS.items()}


def check(setting: Setting, trials: int, device: str) -> float:
    """The largest difference of losses and gradients to (i), relative to the largest number of
    their tensor, over two steps of each method in float64. Ends the program where it is not
    rounding."""
    worst = 0.0
    for method, ascent in _METHODS.items():
        training = contestants(setting, trials, device, torch.float64)
        for _ in range(2):  # the second depends on the update of the first
            right: dict[str, Tensor] = {}
            for name, each in training.items():
                losses = torch.cat([step(ascent) for step in each.steps])
                found = {"losses": losses, **each.gradients()}
                right = right or found
                off = max(
                    float((found[key] - value).abs().max() / value.abs().max())
                    for key, value in right.items()
                )
                if not off < _TOLERANCE:
                    sys.exit(f"{name}, {method}, {trials} trials: off by {off:.1e}")
                worst = max(worst, off)
    return worst


def timed(setting: Setting, trials: int, rounds: int, device: str, clock: Clock) -> list[Row]:
    """Every contestant and method on N trials."""
    rows = []
    for method, ascent in _METHODS.items():
        training = contestants(setting, trials, device, torch.float32)
        seconds: dict[str, list[float]] = {name: [] for name in training}
        for _ in range(_WARM + rounds):
            for name, each in training.items():
                begun = clock()
                for step in each.steps:
                    for _ in range(_STEPS):
                        step(ascent)
                seconds[name].append((clock() - begun) / (_STEPS * trials))
        times = {name: np.array(values[_WARM:]) for name, values in seconds.items()}
        first = times[FIRST]
        for name, own in times.items():
            ratios = own / first
            interval = bootstrap((ratios,), np.median, method="percentile", rng=0)
            low, high = map(float, interval.confidence_interval)
            middle, ratio = 1000 * float(np.median(own)), float(np.median(ratios))
            least = float(own.min() / first.min())
            rows.append(
                Row(setting.name, method, trials, name, middle, ratio, low, high, least, rounds)
            )
    return rows


def clock_of(device: str, threads: int) -> tuple[str, Clock]:
    """Seconds so far, and what they are."""
    if device == "cuda":

        def waited() -> float:
            torch.cuda.synchronize()
            return time.perf_counter()

        return "wall clock", waited
    return ("CPU time", time.process_time) if threads == 1 else ("wall clock", time.perf_counter)


def show(rows: list[Row]) -> None:
    """Prints the table of a setting."""
    print(f"\n{rows[0].setting}")
    print(f"{'N':>9}  {'':26}{'ms a trial':>12}  {'/ (i) (95 %)':24}{'least':>6}")
    for row in rows:
        ratio = f"{row.ratio:.3f} ({row.low:.3f} to {row.high:.3f})"
        print(
            f"{row.method:6}{row.trials:3}  {row.contestant:26}{row.milliseconds:12.2f}  "
            f"{ratio:24}{row.least:6.3f}"
        )
    print(f"n = {rows[0].n} rounds of {_STEPS} steps; load {os.getloadavg()[0]:.1f}", flush=True)


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--trials", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(options.threads)
    name, clock = clock_of(device, options.threads)
    print(f"torch {torch.__version__}, {device}, {options.threads} threads, {name}")
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs")
    worst = max(check(each, max(options.trials), device) for each in SETTINGS)
    print(f"losses and gradients agree, float64: largest relative difference {worst:.1e}")
    rows: list[Row] = []
    for each in SETTINGS:
        of_one = [
            row
            for trials in options.trials
            for row in timed(each, trials, options.rounds, device, clock)
        ]
        show(of_one)
        rows += of_one
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
