"""What a result costs the driver, with MLflow and without: ours, and Ray Tune with its callback.

    python -m benchmarks.driver_time [--rounds 3] [--trials 100] [--json FILE]

100 trials of 10 epochs that train nothing and tell what a trial of ours tells, two at once. Each
contestant runs in a process of its own with a Ray of its own, in turns, so that whatever else the
machine does falls on all of them. A ratio is that of two runs of one round; told are medians over
rounds with 95 % bootstrap intervals.

Ours is the command `study.run` on norm_vs_all, ledger, journal and display included. `bundled` as
it runs: epochs shorter than a second travel together. `one by one`: a message each, as epochs above
a second do, and as Ray Tune sends them always. Without MLflow: the process that writes to it is not
started. A store that cannot be reached would not do: the process would still import MLflow and try
again and again, on the same cores.

Ray Tune is as its documentation has it: a class trainable, OptunaSearch, actors that are reused,
the loggers that are on by default, and MLflowLoggerCallback on SQLite.

Wall-clock and CPU time of the driver count from the first start of a trial to the last end. What
comes after that, until everything is in MLflow, is told beside it, and what the process took that
writes to MLflow; Ray's callback works in the driver, so all of its work is in the driver's.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measured import apart, load, told
from benchmarks.scaling import SPEC, sizes

EPOCHS = 10
_WORKERS = 2

Figures = tuple[float, float, float, float]
"""Those of a Run, but for the load."""


@dataclass(frozen=True)
class Run:
    """Milliseconds a result, of wall-clock and of the driver's CPU time; after: seconds from the
    last end until all is written; mirror: CPU time a result of the process that writes to MLflow,
    where it is not the driver; load: of the machine before."""

    wall: float
    cpu: float
    after: float
    mirror: float
    load: float


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    runs: dict[str, list[Run]] = {name: [] for name in CONTESTANTS}
    for number in range(options.rounds):
        for name, measure in CONTESTANTS.items():
            with tempfile.TemporaryDirectory() as folder:
                before = load()
                figures = apart(_quietly, measure, Path(folder), options.trials)
                runs[name].append(Run(*figures, before))
            print(f"round {number + 1}, {name}: {runs[name][-1]}", file=sys.stderr, flush=True)
        ratios = {name: _ratios(runs[f"{name}, MLflow"], runs[name]) for name in PAIRS}
        if options.json:  # after each round: they are long
            plain = {name: [asdict(run) for run in each] for name, each in runs.items()}
            options.json.write_text(json.dumps({"runs": plain, "ratios": ratios}, indent=1) + "\n")
    _show(runs, ratios)


def _ratios(dear: Sequence[Run], cheap: Sequence[Run]) -> dict[str, list[float]]:
    """With MLflow over without, by round."""
    pairs = list(zip(dear, cheap, strict=True))
    return {
        "wall": [a.wall / b.wall for a, b in pairs],
        "cpu": [a.cpu / b.cpu for a, b in pairs],
    }


def _show(
    runs: Mapping[str, Sequence[Run]], ratios: Mapping[str, Mapping[str, Sequence[float]]]
) -> None:
    n = len(next(iter(runs.values())))
    print(
        f"{'ms a result':24}{'wall (95 %)':26}{'CPU (95 %)':26}{'mirror, CPU':>12}{'after, s':>10}"
    )
    for name, each in runs.items():
        wall, cpu = told([run.wall for run in each]), told([run.cpu for run in each])
        mirror = np.median([run.mirror for run in each])
        after = np.median([run.after for run in each])
        print(f"{name:24}{wall:26}{cpu:26}{mirror:12.2f}{after:10.1f}")
    print(f"\n{'with MLflow / without':24}{'wall (95 %)':26}{'CPU (95 %)':26}")
    for name, of in ratios.items():
        print(f"{name:24}{told(of['wall']):26}{told(of['cpu']):26}")
    loads = [run.load for each in runs.values() for run in each]
    print(f"n = {n} rounds; {os.cpu_count()} cores, load {min(loads):.0f} to {max(loads):.0f}")


def _quietly(measure: Callable[[Path, int], Figures], folder: Path, trials: int) -> Figures:
    """What `measure` returns; what it and its libraries print goes to a file."""
    with (folder / "said").open("w") as file:
        for each in (1, 2):
            os.dup2(file.fileno(), each)
    return measure(folder, trials)


def _ours(folder: Path, trials: int, *, bundles: bool, mirror: bool) -> Figures:
    from tests.services import noop  # Ray is imported where it is used: in a process of its own

    assignments = [*sizes(trials), f"workload.epochs={EPOCHS}"]
    found = noop.measure(SPEC, assignments, folder, _WORKERS, bundles=bundles, mirror=mirror)
    results = found["trials that ended"] * EPOCHS
    return (
        1e3 * found["first start to last end, s"] / results,
        1e3 * found["the same, driver's CPU time, s"] / results,
        found["after the last end, s"],
        1e3 * found["mirror's CPU time, s"] / results,
    )


def _bundled(folder: Path, trials: int) -> Figures:
    return _ours(folder, trials, bundles=True, mirror=False)


def _bundled_mlflow(folder: Path, trials: int) -> Figures:
    return _ours(folder, trials, bundles=True, mirror=True)


def _one_by_one(folder: Path, trials: int) -> Figures:
    return _ours(folder, trials, bundles=False, mirror=False)


def _one_by_one_mlflow(folder: Path, trials: int) -> Figures:
    return _ours(folder, trials, bundles=False, mirror=True)


def _tune(folder: Path, trials: int) -> Figures:
    return _on_tune(folder, trials, [])


def _tune_mlflow(folder: Path, trials: int) -> Figures:
    from ray.air.integrations.mlflow import MLflowLoggerCallback

    uri = f"sqlite:///{folder}/mlflow.db"
    return _on_tune(folder, trials, [MLflowLoggerCallback(uri, experiment_name="noop")])


def _on_tune(folder: Path, trials: int, callbacks: Sequence[Any]) -> Figures:
    import ray
    from ray import tune
    from ray.tune.search.optuna import OptunaSearch

    from tests.services.noop import Clock, told

    clock = Clock()

    class Noop(tune.Trainable):  # type: ignore[misc]
        def setup(self, config: Mapping[str, Any]) -> None:
            self._done = 0

        def reset_config(self, new_config: Mapping[str, Any]) -> bool:
            self._done = 0
            return True

        def step(self) -> dict[str, Any]:
            self._done += 1
            return {**told(self._done), "done": self._done == EPOCHS}

    class Watch(tune.Callback):  # type: ignore[misc]
        def on_trial_start(self, *arguments: Any, **info: Any) -> None:
            clock.start()

        def on_trial_complete(self, *arguments: Any, **info: Any) -> None:
            clock.end()

    ray.init("local", num_cpus=_WORKERS, include_dashboard=False)
    # First, so that it hears of a start before any other work on it; the end of the last trial is
    # the only one whose work by the others is not counted.
    results = tune.Tuner(
        tune.with_resources(Noop, {"cpu": 1}),
        param_space={"rho": tune.loguniform(0.02, 1.0), "lr": tune.loguniform(0.01, 1.0)},
        tune_config=tune.TuneConfig(
            search_alg=OptunaSearch(seed=0),
            metric="validation_accuracy",
            mode="max",
            num_samples=trials,
            max_concurrent_trials=_WORKERS,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name="noop",
            storage_path=str(folder),
            callbacks=[Watch(), *callbacks],
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            verbose=0,
        ),
    ).fit()
    after = clock.since_end()
    epochs = sum(result.metrics["training_iteration"] for result in results)
    if epochs != trials * EPOCHS:
        sys.exit(f"{epochs} epochs of {trials} trials")
    return 1e3 * clock.wall / epochs, 1e3 * clock.cpu / epochs, after, 0.0


CONTESTANTS: dict[str, Callable[[Path, int], Figures]] = {
    "bundled": _bundled,
    "bundled, MLflow": _bundled_mlflow,
    "one by one": _one_by_one,
    "one by one, MLflow": _one_by_one_mlflow,
    "Ray Tune": _tune,
    "Ray Tune, MLflow": _tune_mlflow,
}
PAIRS = [name for name in CONTESTANTS if f"{name}, MLflow" in CONTESTANTS]


if __name__ == "__main__":
    main()
