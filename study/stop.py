"""Asks a study to stop, wherever it runs: python -m study.stop NAME. The same command that started
it goes on from its checkpoints."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console

from study import cluster, places, run, stopping
from study.home import Home
from study.terminal import Output
from study.tracking_uri import is_masked
from study.yamlfile import SpecError

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

_PATIENCE = 180.0
"""Seconds that a study may take to end: it may still be loading its data, and then waits for
checkpoints and for MLflow."""
_LOOK = 0.5


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0 it does not run any more, 1 it still does, 2 wrong input, 130 interrupted."""
    parser = argparse.ArgumentParser(
        prog="python -m study.stop",
        description="Let a running study write checkpoints and end; the same command resumes it.",
        allow_abbrev=False,
    )
    parser.add_argument("name", metavar="NAME", help="the study")
    places.add_out(parser)
    places.add_ledger(parser)
    places.add_head(parser)
    options = parser.parse_args(arguments)

    def stop() -> int:
        if options.address:
            return cluster.forward("study.stop", arguments, options.address, options.out)
        return _stop(options, Output())

    return run.guarded(stop, goes_on=False)


def _stop(options: argparse.Namespace, console: Console) -> int:
    name = options.name
    home = Home.named(options.out, name)
    if not home.is_driven():
        home.begun()
        console.print(f"{name} does not run")
        return 0
    storage: BaseStorage | None = None
    until = time.monotonic() + _PATIENCE
    while time.monotonic() < until:
        storage = storage or _ledger(home, options.ledger)
        if storage is not None:
            # Again and again: a study that starts just now withdraws what it finds.
            stopping.request(storage, name)
        if not home.is_driven():
            console.print(f"{name} has stopped; the command that started it goes on from here")
            return 0
        time.sleep(_LOOK)
    console.print(f"{name} still runs after {_PATIENCE:.0f} s; it may wait for a server")
    return 1


def _ledger(home: Home, url: str | None) -> BaseStorage | None:
    """The ledger of a study that runs, None where it is not there yet. Raises SpecError."""
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    if url is None and (contents := home.contents()) is not None:
        url = contents.header.get("ledger")
    if url is None:
        # Opened as it is, not mended: another process writes to it.
        there = home.ledger.exists()
        return JournalStorage(JournalFileBackend(str(home.ledger))) if there else None
    if is_masked(url):
        raise SpecError(f"{home.journal}: keeps no passwords; give --ledger again ({url})")
    from study.ledger_store import open_url

    return open_url(url)


if __name__ == "__main__":
    run.leave(main())
