"""Writes the report of a study from its journal alone: python -m study.report NAME [--out studies].

The folder gets report.html (one file, no network), verdict.json, trials.csv, timings.csv, where
something was measured measures.csv, and plots/NAME.svg with NAME.csv, its numbers. Works at any
time; what is missing is shown as missing.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from study import (
    algorithms,
    analysis,
    certainty,
    cluster,
    extension,
    measures,
    pages,
    places,
    plots,
    published,
    seen,
    tables,
    terminal,
)
from study.comparison import alpha
from study.home import Home, plain_yaml
from study.journal import Contents
from study.journal_lines import Line
from study.plots import style
from study.power import POWER
from study.rounds import Round, judge
from study.spec import Spec
from study.verdict import Verdict, plan_hash
from study.yamlfile import SpecError

if TYPE_CHECKING:
    from rich.console import Console


def write(folder: Path, rounds: Sequence[Spec], contents: Contents) -> list[Round]:
    """Writes the report into `folder`, each file replaced in one step; returns what it tells."""
    judged = judge(rounds, contents)
    last, results = judged[-1], contents.results
    spec, drawn = last.spec, plots.draw(last)
    plain = judged[0].verdict.plain()
    if judged[1:]:
        plain["after_looking"] = [each.verdict.plain() for each in judged[1:]]
    files = {
        "verdict.json": json.dumps(plain, sort_keys=True, indent=2, allow_nan=False),
        "trials.csv": tables.as_csv(tables.trials_rows(spec, results)),
        "timings.csv": tables.as_csv(tables.timings_rows(spec, results, contents.failed_attempts)),
        **{f"plots/{name}.svg": each.svg for name, each in drawn.items()},
        **{f"plots/{name}.csv": tables.as_csv(each.rows) for name, each in drawn.items()},
        "report.html": _html(judged, contents, drawn),
    }
    if contents.measurements:
        files["measures.csv"] = tables.as_csv(measures.rows(spec, results, contents.measurements))
    for name, text in files.items():
        pages.write(folder / name, text)
    return judged


def print_result(console: Console, judged: Sequence[Round], contents: Contents) -> None:
    """Prints the tables of the last round, what their marks mean, the warnings, and last the
    sentences, the planned one first."""
    from rich.text import Text

    last = judged[-1]
    for table in _tables(last):
        console.print(tables.rich_table(table, console.width))
        console.print()
    for text in tables.explanations(last.verdict):
        console.print(Text(text))
    for text in warnings(judged, contents):
        console.print(Text(f"warning: {text}", style="yellow"))
    for text in notes(last, contents):
        console.print(Text(f"note: {text}"))
    for text in sentences(judged):
        console.print(Text(text, style="bold"))


def sentences(judged: Sequence[Round]) -> list[str]:
    """What each round found, the planned one first; an extension says what it is."""
    planned, *extended = judged
    if not extended:
        return [planned.verdict.sentence]
    return [
        f"As planned: {planned.verdict.sentence}",
        *(
            f"After looking, with {_budget(each.spec)}: {each.verdict.sentence}"
            for each in extended
        ),
    ]


def _budget(spec: Spec) -> str:
    seeds, trials = f"{spec.confirm.seeds} confirm seeds", spec.tune.trials_per_arm
    return seeds if trials is None else f"{trials} search trials an arm and {seeds}"


def _tables(each: Round) -> list[tables.Table]:
    beside = published.table(each.spec, each.verdict, each.results)
    return [
        tables.arms_table(each.spec, each.verdict),
        tables.comparisons_table(each.spec, each.verdict),
        *([] if beside is None else [beside]),
    ]


def warnings(judged: Sequence[Round], contents: Contents) -> list[str]:
    """What a reader should be wary of."""
    last = judged[-1]
    texts = [*algorithms.doubts(last.spec), *analysis.warnings(last.spec, last.verdict.arms)]
    texts += certainty.warnings(last.verdict)
    planned = contents.header.get("plan")
    if planned is not None and planned != plan_hash(judged[0].spec):
        texts.insert(0, "The analysis is not the one planned before the first trial.")
    if contents.damaged and contents.damage not in contents.notes:
        texts.append(f"{contents.damage}.")
    if extension.is_lost([each.spec for each in judged], contents):
        texts.append("An extension is missing here: its own line of the journal is damaged.")
    return texts


def notes(each: Round, contents: Contents) -> list[str]:
    """What the comparison rests on, then what happened on the way."""
    return [
        *analysis.remarks(each.spec, each.verdict.arms, each.results),
        *certainty.notes(each.spec, each.verdict),
        *published.notes(each.spec),
        *contents.notes,
    ]


def _html(judged: Sequence[Round], contents: Contents, drawn: Mapping[str, style.Drawn]) -> str:
    figures = [(name, pages.figure(each.svg), each) for name, each in drawn.items()]
    planned, last = judged[0], judged[-1]
    header = contents.header
    ended = [end.time for end in contents.ends.values()]
    return pages.render(
        "report.html",
        verdict=planned.verdict,
        sentences=sentences(judged),
        colours=style.colours(planned.spec),
        rounds=[
            (
                f"After looking, with {_budget(each.spec)}" if number else "",
                _tables(each),
                tables.certainty_table(each.spec, each.verdict),
                seen.table(each.spec, each.searches),
                seen.note(each.spec, each.searches),
            )
            for number, each in enumerate(judged)
        ],
        alpha=alpha(planned.spec),
        power=POWER,
        bootstrap_from=certainty.BOOTSTRAP_FROM,
        explanations=tables.explanations(last.verdict),
        failures=tables.failures_table(planned.spec, contents),
        figures=figures,
        measures=measures.summary(last.spec, last.results, last.measurements),
        trials=tables.trials_rows(planned.spec, contents.results),
        short=tables.value_text,
        warnings=warnings(judged, contents),
        notes=notes(last, contents),
        spec=planned.spec,
        yaml=plain_yaml(planned.spec.model_dump()),
        facts=_facts(header, ended, planned.verdict),
    )


def _facts(header: Line, ended: Sequence[float], verdict: Verdict) -> dict[str, Any]:
    """Where the numbers come from: when, which code, which versions."""
    versions = header.get("versions") or {}
    facts = {
        "started": tables.utc(header["time"]) if "time" in header else None,
        "last trial ended": tables.utc(max(ended)) if ended else None,
        "commit": header.get("commit"),
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "spec hash": verdict.spec_hash,
        "plan hash": verdict.plan_hash,
        "data hash": (header.get("data") or {}).get("hash"),
    }
    return {name: fact for name, fact in facts.items() if fact}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Returns 0, 1 without a verdict from complete pairs, or 2 for wrong input."""

    parser = argparse.ArgumentParser(
        prog="python -m study.report",
        description="Rebuild the report of a study from its journal and print its tables.",
    )
    parser.add_argument("name", metavar="NAME", help="the study")
    places.add_out(parser)
    places.add_head(parser)
    options = parser.parse_args(arguments)
    try:
        if options.address:
            return cluster.forward("study.report", arguments, options.address, options.out)
        home = Home.named(options.out, options.name)
        rounds, contents = home.rounds()
    except SpecError as error:
        print(error, file=sys.stderr)
        return 2
    judged = write(home.folder, rounds, contents)
    terminal.prepare()
    console = terminal.Output()
    print_result(console, judged, contents)
    console.print(f"report: {home.report}", soft_wrap=True)
    return 0 if judged[-1].verdict.complete else 1


if __name__ == "__main__":
    sys.exit(main())
