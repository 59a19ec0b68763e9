"""A study against the script that it replaces: wall-clock of the same workload and trials.

    python -m benchmarks.against_hand_written [--repeats 3] [--set KEY=VALUE ...] [--json FILE]

Runs `study.run search_spaces/norm_vs_all.yaml` and benchmarks/hand_written.py in turns, each in a
temporary folder of its own, and counts from the command to its exit: start-up, training, MLflow and
report included. A ratio is that of two neighbours; told are medians with 95 % bootstrap intervals.
Both must have run as many trials, or this fails; epochs are told, because a trial of the study that
diverges ends there. --set makes it smaller, with the keys that the script knows too.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measured import load, told
from benchmarks.scaling import SPEC
from study import journal, resolve
from study.spec import Spec
from study.yamlfile import SpecError

SCRIPT = Path(__file__).with_name("hand_written.py")
_KNOWN = {
    "workload.epochs": "--epochs",
    "workload.data.train_size": "--train-size",
    "tune.trials_per_arm": "--trials",
    "confirm.seeds": "--seeds",
}
"""Keys of the study and the options of the script that say the same."""


@dataclass(frozen=True)
class Run:
    """seconds: from the command to its exit. accuracy: mean on test images, by arm. load: of the
    machine before."""

    seconds: float
    trials: int
    epochs: int
    accuracy: dict[str, float]
    load: float


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    for each in options.set:
        if each.partition("=")[0] not in _KNOWN:
            sys.exit(f"--set {each}: the script knows only {', '.join(_KNOWN)}")
    try:
        spec = resolve.load(SPEC, options.set)
    except SpecError as error:
        sys.exit(str(error))
    studies, scripts = list[Run](), list[Run]()
    for number in range(options.repeats):
        for runs, measure in ((studies, _study), (scripts, _script)):
            with tempfile.TemporaryDirectory() as folder:
                runs.append(measure(spec, options.set, Path(folder)))
            print(f"repeat {number + 1}: {runs[-1]}", file=sys.stderr, flush=True)
        if studies[-1].trials != scripts[-1].trials:
            sys.exit(f"{studies[-1].trials} trials against {scripts[-1].trials}")
    ratios = [a.seconds / b.seconds for a, b in zip(studies, scripts, strict=True)]
    _show(studies, scripts, ratios)
    if options.json:
        plain: dict[str, Any] = {"study": [asdict(run) for run in studies], "ratios": ratios}
        plain["hand-written"] = [asdict(run) for run in scripts]
        options.json.write_text(json.dumps(plain, indent=1) + "\n")


def _show(studies: list[Run], scripts: list[Run], ratios: list[float]) -> None:
    arms = list(studies[0].accuracy)
    print(f"{'':14}{'seconds (95 %)':28}{'trials':>7}{'epochs':>8}  test % of " + ", ".join(arms))
    for name, runs in (("study.run", studies), ("hand-written", scripts)):
        seconds = told([run.seconds for run in runs], 1)
        accuracy = ", ".join(f"{runs[-1].accuracy[arm]:.2f}" for arm in arms)
        print(f"{name:14}{seconds:28}{runs[-1].trials:7}{runs[-1].epochs:8}  {accuracy}")
    loads = [run.load for run in (*studies, *scripts)]
    print(f"study / hand-written: {told(ratios)}, n = {len(ratios)} pairs")
    print(f"{os.cpu_count()} cores, load {min(loads):.0f} to {max(loads):.0f}")


def _study(spec: Spec, assignments: list[str], folder: Path) -> Run:
    command = [sys.executable, "-m", "study.run", str(SPEC)]
    for each in assignments:
        command += ["--set", each]
    before = load()
    seconds = _timed(command, folder)
    contents = journal.read(folder / "studies" / spec.study / "journal.jsonl")
    ends = contents.ends.values()
    accuracy = {
        arm: float(
            np.mean(
                [
                    result.end.scores["test_accuracy"]
                    for result in contents.results
                    if result.trial.arm == arm and result.trial.stage == "confirm"
                ]
            )
        )
        for arm in spec.arms
    }
    return Run(seconds, len(ends), sum(end.epochs for end in ends), accuracy, before)


def _script(spec: Spec, assignments: list[str], folder: Path) -> Run:
    command = [sys.executable, str(SCRIPT), "--out", str(folder)]
    for each in assignments:
        key, _, value = each.partition("=")
        command += [_KNOWN[key], value]
    before = load()
    seconds = _timed(command, folder)
    summary = json.loads((folder / "results.json").read_text())
    accuracy = {arm: float(np.mean(of)) for arm, of in summary["test_accuracy"].items()}
    return Run(seconds, summary["trials"], summary["epochs"], accuracy, before)


def _timed(command: list[str], folder: Path) -> float:
    """Seconds of a command; its output is shown only if it fails."""
    with (folder / "said").open("w+b") as said:
        begun = time.perf_counter()
        code = subprocess.run(command, cwd=folder, stdout=said, stderr=said, check=False).returncode  # noqa: S603
        seconds = time.perf_counter() - begun
        if code:
            said.seek(0)
            sys.exit(f"{said.read().decode(errors='replace')}\n{command} ended with {code}")
    return seconds


if __name__ == "__main__":
    main()
