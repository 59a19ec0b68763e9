"""Injects real faults into real studies and prints what held: python -m tests.faults.

Exit code: 0 all that must hold held, 1 it did not, 2 a fault that is not known.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from tests.faults import disk, drivers, inputs, networks, services, twice, workers
from tests.faults.ground import Ground
from tests.faults.outcome import Outcome, show

_WIDTH = 160  # of the table in a file

FAULTS: Mapping[str, Callable[[Ground], Outcome]] = {
    "driver": drivers.killed,
    "actor": workers.actors_killed,
    "node": workers.nodes_lost,
    "mlflow": services.mlflow_away,
    "mlflow-cost": services.mlflow_cost,
    "postgres": services.postgres_restarted,
    "disk": disk.full,
    "twice-file": twice.with_file,
    "twice-postgres": twice.with_database,
    "specs": inputs.specs,
    "folders": inputs.image_folders,
    "journals": inputs.journals,
    "ill": networks.ill_trials,
    "bug": networks.every_trial_fails,
    "flaky": networks.now_and_then,
    "signals": drivers.stopped,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs faults and prints the table; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    add = parser.add_argument
    add("faults", nargs="*", metavar="FAULT", help=f"default: all of {', '.join(FAULTS)}")
    add("--short", action="store_true", help="few rounds of each")
    add("--seed", type=int, default=0, help="of every random moment")
    add("--keep", type=Path, metavar="DIR", help="a new folder for the studies, which stay there")
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.faults if name not in FAULTS]:
        parser.error(f"no such fault: {', '.join(unknown)}; there are {', '.join(FAULTS)}")
    width = None if sys.stdout.isatty() else _WIDTH
    console = Console(highlight=False, markup=False, width=width)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what was started is cleaned up
    with _folder(options.keep) as folder:
        ground = Ground(folder, options.seed, options.short, console.print)
        outcomes = [_injected(name, ground, console) for name in options.faults or FAULTS]
    console.print(f"seed {options.seed}")
    show(outcomes, console)
    return int(any(each.problems for each in outcomes))


def _injected(name: str, ground: Ground, console: Console) -> Outcome:
    """The outcome of a fault; where the harness itself cannot go on, as a problem."""
    console.print(f"{name}: ...")
    begun = time.monotonic()
    try:
        outcome = FAULTS[name](ground)
    except (AssertionError, OSError, TimeoutError, subprocess.SubprocessError) as error:
        outcome = Outcome(name, "", problems=(f"{type(error).__name__}: {error}",))
    outcome = replace(outcome, seconds=time.monotonic() - begun)
    for problem in outcome.problems:
        console.print(f"{name}: {problem}", soft_wrap=True)
    return outcome


@contextlib.contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    if keep is None:
        with tempfile.TemporaryDirectory(prefix="faults-") as folder:
            yield Path(folder).resolve()
    else:
        keep.mkdir(parents=True)
        yield keep.resolve()


if __name__ == "__main__":
    sys.exit(main())
