"""Compares an effect over studies: python -m study.compare NAME NAME ... Reads MLflow alone, so it
works wherever its server is seen."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from study import across, effects, forest, pages, preflight, run, studies, tables, tracking_probe
from study.part import NAME
from study.pooling import FEWEST
from study.terminal import Output
from study.tracking_uri import masked, sqlite_path
from study.yamlfile import SpecError
from trainables.catalog import shown

if TYPE_CHECKING:
    from study.across import Compared

OUT = Path("comparison")
"""Where the comparison is written unless --out says otherwise."""
_TIMEOUT = "30"  # seconds for an answer: it may hold hundreds of runs


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0 compared, 2 wrong input, 130 interrupted."""
    parser = argparse.ArgumentParser(
        prog="python -m study.compare",
        description="Draw an effect over studies, and pool it where that can be done.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("names", metavar="NAME", nargs="+", help="the studies, by their names in MLflow")
    add(
        "--effect",
        metavar="ARM-ARM",
        default="sam_on-sam_all",
        help="difference of two arms, each a name or VARIANT/SUBSET (default: sam_on-sam_all)",
    )
    add(
        "--tracking-uri",
        metavar="URI",
        help="MLflow tracking store (default: $MLFLOW_TRACKING_URI, or mlflow.db here)",
    )
    add(
        "--out",
        type=Path,
        default=OUT,
        metavar="DIR",
        help="where compare.html, forest.svg and forest.csv are written (default: comparison)",
    )
    options = parser.parse_args(arguments)

    def compare() -> int:
        _check(options.names, options.effect)
        uri = preflight.tracking_store(options.tracking_uri, Path.cwd())
        compared = across.compare(_read(uri, options.names), options.effect)
        write(options.out, compared)
        _print(Output(), compared, options.out)
        return 0

    return run.guarded(compare, goes_on=False)


def write(folder: Path, compared: Compared) -> None:
    """Writes compare.html, forest.svg and forest.csv, each replaced in one step. Raises SpecError
    where the folder cannot be written."""
    drawn = forest.draw(compared)
    html = pages.render(
        "compare.html",
        title=forest.title(compared),
        sentence=forest.sentence(compared),
        pooled=compared.pooled is not None,
        figure=pages.figure(drawn.svg),
        plot=drawn,
        short=tables.value_text,
        effects=forest.effects_table(compared),
        conditions=forest.conditions_table(compared),
        described=forest.described(compared),
        explanations=forest.explanations(compared.measured),
        colours=forest.colours(compared),
        notes=compared.notes,
        confidence=effects.CONFIDENCE,
        fewest=FEWEST,
    )
    files = {
        "compare.html": html,
        "forest.svg": drawn.svg,
        "forest.csv": tables.as_csv(drawn.rows),
    }
    try:
        for name, text in files.items():
            pages.write(folder / name, text)
    except OSError as error:
        raise SpecError(f"--out {folder}: {error.strerror}; choose another folder") from None


def _check(names: Sequence[str], effect: str) -> None:
    """Raises SpecError for what no store needs to be asked about."""
    for name in names:
        if not re.fullmatch(NAME, name):
            raise SpecError(f"{shown(name)} is not the name of a study")
    if twice := [name for name in names if names.count(name) > 1]:
        raise SpecError(f"{twice[0]} is named twice")
    effects.splits(effect)


def _read(uri: str, names: Iterable[str]) -> list[studies.Study]:
    """The studies out of the store. Raises SpecError, also where the store does not answer."""
    path = sqlite_path(uri)
    if path is not None and not path.is_file():
        raise SpecError(f"--tracking-uri: {path} is not there, so it holds no studies")
    if problem := tracking_probe.problem(uri):
        raise SpecError(f"--tracking-uri: MLflow at {masked(uri)}: {problem.text}")
    from study import sync, tracking

    for key, value in {**sync.ENVIRONMENT, "MLFLOW_HTTP_REQUEST_TIMEOUT": _TIMEOUT}.items():
        os.environ.setdefault(key, value)
    try:
        client = tracking.open_store(uri)
        return [studies.read(client, name) for name in names]
    except SpecError:
        raise
    except Exception as error:  # stores raise what they like; all of it is told
        raise SpecError(f"--tracking-uri: {sync.told(error, uri)}") from None


def _print(console: Output, compared: Compared, folder: Path) -> None:
    for table in (forest.effects_table(compared), forest.conditions_table(compared)):
        console.print(tables.rich_table(table, console.width))
        console.print()
    lines = (
        *forest.explanations(compared.measured),
        forest.described(compared),
        *compared.notes,
        forest.sentence(compared),
    )
    for line in lines:
        console.print(line, soft_wrap=True)
    console.print(f"comparison: {folder / 'compare.html'}", soft_wrap=True)


if __name__ == "__main__":
    run.leave(main())
