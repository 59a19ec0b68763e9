"""Shows how far studies are: python -m study.status [NAME]. Reads journals, changes nothing."""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from study import cluster, places, run
from study.home import Home
from study.part import NAME
from study.progress import best_told, duration
from study.standing import Standing, standing
from study.terminal import Output

_PAUSE = 5.0  # seconds between two looks with --watch


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0, or 2 where there is no such study, 130 interrupted."""
    parser = argparse.ArgumentParser(
        prog="python -m study.status",
        description="Show how far a study is, or all of a folder.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("name", metavar="NAME", nargs="?", help="the study (default: all of them)")
    add("--watch", action="store_true", help="again every few seconds, until all are at rest")
    add("--json", action="store_true", help="as JSON, a list with an object a study")
    places.add_out(parser)
    places.add_head(parser)
    options = parser.parse_args(arguments)

    def show() -> int:
        if options.address:
            return cluster.forward("study.status", arguments, options.address, options.out)
        console = Output()
        while True:
            found = list(_standings(options.out, options.name))
            _print(console, found, options)
            if not (options.watch and any(each.state == "running" for each in found)):
                return 0
            time.sleep(_PAUSE)

    return run.guarded(show, goes_on=False)


def _standings(out: Path, name: str | None) -> Iterator[Standing]:
    """Of one study, or of all that lie in `out`. Raises SpecError where it is not there."""
    if name is not None:
        yield _standing(out, name)
        return
    there = out.expanduser().glob("*/journal.jsonl")
    for each in sorted(path.parent.name for path in there):
        if re.fullmatch(NAME, each):
            yield _standing(out, each)


def _standing(out: Path, name: str) -> Standing:
    home = Home.named(out, name)
    alive = home.is_driven()  # before the journal: what ends meanwhile is told as done
    rounds, contents = home.rounds()
    return standing(rounds, contents, alive=alive)


def _print(console: Console, found: Sequence[Standing], options: argparse.Namespace) -> None:
    if options.json:
        print(json.dumps([asdict(each) for each in found], allow_nan=False), flush=True)
        return
    if not found:
        console.print(f"{options.out}: no studies", soft_wrap=True)
    for each in found:
        console.print(Text(_head(each)), soft_wrap=True)
        if options.name is not None or each.state == "running":
            console.print(_table(each))
        if each.sentence:
            console.print(Text(f"  {each.sentence}"), soft_wrap=True)


def _head(each: Standing) -> str:
    """A study in a line."""
    done = sum(sum(arm.done.values()) for arm in each.arms.values())
    planned = sum(sum(arm.planned.values()) for arm in each.arms.values())
    running = sum(arm.running for arm in each.arms.values())
    failed = sum(arm.failed for arm in each.arms.values())
    stage = "" if each.state == "done" else f", {each.stage} stage"
    parts = [f"{each.study}: {each.state}{stage}, {done}/{planned} trials done"]
    if each.state == "running":
        parts.append(f"{running} running")
    if failed:
        parts.append(f"{failed} failed")
    if each.seconds_left is not None:
        parts.append(f"about {duration(each.seconds_left)} left")
    parts.append(_spent(each))
    return ", ".join(parts)


def _spent(each: Standing) -> str:
    hours = each.gpu_hours or each.training_hours
    spent = f"{hours:.2f} {'GPU' if each.gpu_hours else 'trial'} hours of training"
    return spent if each.cost is None else f"{spent}, cost {each.cost:.2f}"


def _table(each: Standing) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    titles = ("  arm", "search", "confirm", "running", "failed", "best so far", "with")
    for title in titles:
        table.add_column(title, justify="left" if title in ("  arm", "with") else "right")
    for name, arm in each.arms.items():
        row: list[Any] = [Text(f"  {name}")]
        row += [f"{arm.done[stage]}/{arm.planned[stage]}" for stage in ("search", "confirm")]
        table.add_row(*row, str(arm.running), str(arm.failed), *best_told(arm.best))
    return table


if __name__ == "__main__":
    run.leave(main())
