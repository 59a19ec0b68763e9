"""Time of a training step of each arm of a study, as a ratio to its first arm.

    python benchmarks/step_time.py search_spaces/norm_vs_all.yaml [--rounds 30]

Steps of all arms take turns in one process with one thread, data preparation included, so that
whatever else the machine does falls on all of them; the ratio is that of a round's steps. Prints
the median and the quartiles over rounds.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

from study import resolve, stages
from trainables import data
from trainables.config import Config
from trainables.timing import measure
from trainables.training import Training, deterministic


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("spec", type=Path)
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--rounds", type=int, default=30)
    options = parser.parse_args()
    spec = resolve.load(options.spec, options.set)
    deterministic(threads=1)
    pool, facts = data.load_pool(**stages.data_place(spec))
    arms = {
        name: Training(Config(**config), pool, facts)
        for name, config in stages.example_configs(spec).items()
    }
    ratios: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(options.rounds):
        seconds = {name: statistics.median(measure(training)) for name, training in arms.items()}
        first = next(iter(seconds.values()))
        for name, value in seconds.items():
            ratios[name].append(value / first)
    for name, values in ratios.items():
        low, middle, high = statistics.quantiles(values, n=4)
        print(f"{name:16} {middle:5.2f}  quartiles {low:.2f} to {high:.2f}, n = {len(values)}")


if __name__ == "__main__":
    main()
