"""The tables of a study: the same cells for the terminal and the HTML report, and CSV files."""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from study import analysis, certainty
from study.analysis import ArmSummary, Sample
from study.certainty import Certainty
from study.comparison import Comparison
from study.records import Result, Value
from study.sentence import signed
from study.spec import METHOD_KEYS, Spec
from study.verdict import Verdict

if TYPE_CHECKING:
    from rich.table import Table as RichTable

    from study.journal import Contents

NOTHING = "\N{EN DASH}"


@dataclass(frozen=True)
class Column:
    """A heading; number: aligned to the right."""

    heading: str
    number: bool = True


@dataclass(frozen=True)
class Table:
    """Cells as text, one or more lines each. names: what each row is about (an arm), for colour."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    names: tuple[str, ...]


MARKS: Mapping[str, str] = {
    "\N{DAGGER}": "Holm's correction decides although the wider Bonferroni interval covers 0.",
    "\N{DOUBLE DAGGER}": (
        "All differences are equal, so the t test has no spread to judge by; read the sign-flip p."
    ),
    "*": "Some runs diverged and count with chance accuracy; without them: {without}.",
    "\N{PILCROW SIGN}": "Unpaired: an arm has seeds of its own (Welch's t test).",
}


def marks(comparison: Comparison) -> str:
    """The marks that a comparison carries, each explained in MARKS."""
    carried = (
        comparison.only_by_holm,
        comparison.constant,
        bool(comparison.diverged),
        not comparison.paired,
    )
    return "".join(mark for mark, carries in zip(MARKS, carried, strict=True) if carries)


def explanations(verdict: Verdict) -> list[str]:
    """What the marks in the tables mean, for those that are there."""
    carried = "".join(map(marks, verdict.comparisons))
    without = "; ".join(
        f"{c.arm} against {c.against} {c.text} ({_difference(c)} {_interval(c)}, n = {c.n})"
        for c in verdict.without_diverged or ()
        if c.diverged
    )
    return [
        f"{mark} {text.format(without=without)}" for mark, text in MARKS.items() if mark in carried
    ]


def arms_table(spec: Spec, verdict: Verdict) -> Table:
    """What each arm chose, reached and cost, with its difference to the baseline."""
    baseline = spec.verdict.baseline
    to_baseline = {c.arm: c for c in verdict.comparisons if c.against == baseline}
    columns = (
        Column("arm", number=False),
        Column("chosen", number=False),
        Column("valid.\nacc. %"),
        Column("test\naccuracy %"),
        Column(f"difference to\n{baseline}", number=False),
        Column("grad.\nevals"),
        Column("s per\nepoch"),
        Column("% per-\nturbed"),
    )
    rows = tuple(
        (
            arm.arm,
            chosen(arm),
            _with_deviation(arm.validation),
            _with_error(arm.test),
            "baseline" if arm.arm == baseline else _cell(to_baseline[arm.arm]),
            _number(arm.gradient_evaluations, ",.0f"),
            _number(arm.seconds_per_epoch, ".3g"),
            _number(arm.perturbed_share, ".3g"),
        )
        for arm in verdict.arms
    )
    return Table("Arms", columns, rows, tuple(spec.arms))


def comparisons_table(spec: Spec, verdict: Verdict) -> Table:
    """The planned family with intervals and p-values."""
    columns = (
        Column("comparison", number=False),
        Column("difference"),
        Column(f"{100 * spec.verdict.confidence:g} %\ninterval"),
        Column("p\n(Holm)"),
        Column("sign-flip\np (floor)"),
        Column("equivalence\np (Holm)"),
        Column("verdict", number=False),
    )
    rows = tuple(
        (
            f"{c.arm}\n\N{MINUS SIGN} {c.against}",
            _difference(c),
            _interval(c),
            p_value(c.p),
            NOTHING
            if c.sign_flip is None
            else f"{p_value(c.sign_flip)}\n({p_value(c.sign_flip_floor)})",
            p_value(c.p_equivalence),
            f"{c.text}{marks(c)}",
        )
        for c in verdict.comparisons
    )
    return Table("Comparisons", columns, rows, tuple(c.arm for c in verdict.comparisons))


def certainty_table(spec: Spec, verdict: Verdict) -> Table:
    """How sure each comparison is: what stands beside the tests and decides nothing."""
    columns = (
        Column("comparison", number=False),
        Column("better on\na new pair"),
        Column("of the\npairs"),
        Column("bootstrap\ninterval"),
        Column("new seeds\nand images"),
        Column("detectable\ndifference"),
        Column(f"seeds for\n{spec.verdict.equivalence_margin:g} points"),
        Column("without one pair", number=False),
    )
    rows = tuple(
        (
            f"{c.arm}\n\N{MINUS SIGN} {c.against}",
            NOTHING if c.improvement is None else certainty.chance_text(c.improvement),
            _number(c.share_better, ".2f"),
            NOTHING if c.bootstrap is None else _ends(*c.bootstrap),
            NOTHING if c.over_images is None else _ends(c.over_images.low, c.over_images.high),
            NOTHING if c.detectable is None else _lines(certainty.range_text(c.detectable)),
            NOTHING if c.seeds is None else _lines(certainty.seeds_text(c.seeds)),
            _turning(c, judged),
        )
        for c, judged in zip(verdict.certainty, verdict.comparisons, strict=True)
    )
    return Table("How sure is this?", columns, rows, tuple(c.arm for c in verdict.comparisons))


def _turning(c: Certainty, judged: Comparison) -> str:
    if judged.word == "incomplete" or not judged.paired or judged.n < 3:
        return NOTHING
    changed = [f"{word} without seed {seed}" for seed, word in c.turning.items()]
    return "\n".join(changed) or f"always {judged.word}"


def _lines(text: str) -> str:
    """A number with its range, on a line each."""
    return text.replace(" (", "\n(")


def failures_table(spec: Spec, contents: Contents) -> Table | None:
    """Attempts that failed and trials that were given up, of each arm that has any; None where no
    arm has."""
    columns = (
        Column("arm", number=False),
        Column("failed\nattempts"),
        Column("of so many\ntrials"),
        Column("reasons", number=False),
        Column("trials\ngiven up"),
        Column("reasons", number=False),
    )
    rows, names = [], []
    for arm in spec.arms:
        trials = [name for name, trial in contents.trials.items() if trial.arm == arm]
        failed = {name: contents.failures[name] for name in trials if name in contents.failures}
        attempts = [failure.reason for each in failed.values() for failure in each]
        ends = [contents.ends[name] for name in trials if name in contents.ends]
        given_up = [end.reason for end in ends if end.status == "failed"]
        if attempts or given_up:
            counts = (str(len(attempts)), str(len(failed)), _counted(attempts))
            rows.append((arm, *counts, str(len(given_up)), _counted(given_up)))
            names.append(arm)
    return Table("Failures", columns, tuple(rows), tuple(names)) if rows else None


def _counted(reasons: Sequence[str]) -> str:
    """Each reason with how often it occurs, the most frequent first, one a line."""
    counts = sorted(Counter(reasons).items(), key=lambda item: (-item[1], item[0]))
    return "\n".join(f"{reason}: {count}" for reason, count in counts) or NOTHING


def chosen(arm: ArmSummary) -> str:
    """The chosen hyperparameters, one a line."""
    if arm.chosen is None:
        return NOTHING
    lines = [f"{key} {value_text(value)}" for key, value in arm.chosen.items()]
    return "\n".join(lines) or "nothing\nto tune"


def value_text(value: Value, digits: int = 3) -> str:
    """A value, short enough to read."""
    return f"{value:.{digits}g}" if isinstance(value, float) else str(value)


def _cell(c: Comparison) -> str:
    """A comparison in the row of its arm, with the p-value that its word rests on."""
    if c.difference is None:
        return c.text
    p = c.p_equivalence if c.word == "equivalent" else c.p
    shown = "" if p is None else f"\np {p_value(p)}"
    return f"{signed(c.difference)}\n{_interval(c)}\n{c.text}{marks(c)}{shown}"


def _difference(c: Comparison) -> str:
    return NOTHING if c.difference is None else signed(c.difference)


def _interval(c: Comparison) -> str:
    return NOTHING if c.low is None or c.high is None else _ends(c.low, c.high)


def _ends(low: float, high: float) -> str:
    return f"[{signed(low)}, {signed(high)}]"


def _with_deviation(sample: Sample | None) -> str:
    if sample is None:
        return NOTHING
    if sample.n == 1:
        return f"{sample.mean:.2f}"
    return f"{sample.mean:.2f}\nsd {sample.deviation:.2f}\nn = {sample.n}"


def _with_error(sample: Sample | None) -> str:
    if sample is None:
        return NOTHING
    error = "" if sample.n == 1 else f" ± {sample.error:.2f}"
    return f"{sample.mean:.2f}{error}\nn = {sample.n}"


def _number(value: float | None, form: str) -> str:
    return NOTHING if value is None else f"{value:{form}}"


def p_value(p: float | None) -> str:
    """A p-value for a reader; NOTHING where there is none."""
    if p is None:
        return NOTHING
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def rich_table(table: Table, width: int) -> RichTable:
    """The table for a terminal of `width` columns."""
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    rich = RichTable(
        box=box.SIMPLE_HEAD, padding=(0, int(width >= 100), 0, 0), pad_edge=False, show_edge=False
    )
    for column in table.columns:
        rich.add_column(
            Text(column.heading),
            justify="right" if column.number else "left",
            no_wrap=column.number,
            overflow="fold",
        )
    for row in table.rows:
        rich.add_row(*map(Text, row))
    return rich


def in_order(spec: Spec, results: Sequence[Result]) -> list[Result]:
    """Search, then confirm; arms in the order of the spec; by index."""
    return [
        result
        for stage in ("search", "confirm")
        for arm in spec.arms
        for result in analysis.of_arm(results, arm, stage)
    ]


def trials_rows(spec: Spec, results: Sequence[Result]) -> list[dict[str, Value]]:
    """One row a trial that ended; what it lacks is ''. No time, host or path."""
    searched = dict.fromkeys(key for arm in spec.arms.values() for key in arm.search)
    keys = [key for key in searched if key not in METHOD_KEYS]
    rows = []
    for result in in_order(spec, results):
        trial, end = result.trial, result.end
        method = spec.arms[trial.arm].method(trial.hyperparameters)
        row: dict[str, Value] = {
            "trial": trial.name,
            "arm": trial.arm,
            "variant": method.variant,
            "perturb": method.perturb,
            "stage": trial.stage,
            "index": trial.index,
            "seed": trial.seed,
        }
        row |= {key: trial.hyperparameters.get(key, "") for key in keys}
        row |= {"status": end.status, "reason": end.reason}
        for name in ("validation_accuracy", "test_accuracy", "test_loss"):
            value = analysis.score(result, name)
            row[name] = value if math.isfinite(value) else ""
        row |= {
            "epochs": end.epochs,
            "gradient_evaluations": analysis.gradient_evaluations(result),
        }
        rows.append(row)
    return rows


def timings_rows(
    spec: Spec, results: Sequence[Result], failures: Mapping[str, int]
) -> list[dict[str, Value]]:
    """When each trial that ended ran, in UTC, how long it took, and how many of its attempts
    failed, where any did. failures: by trial."""
    rows = []
    for result in in_order(spec, results):
        seconds = analysis.metric(result, "seconds_per_epoch")
        row: dict[str, Value] = {
            "trial": result.trial.name,
            "started": utc(result.started),
            "ended": utc(result.end.time),
            "seconds": round(result.end.time - result.started, 3),
            "seconds_per_epoch": statistics.median(seconds) if seconds else "",
        }
        if failures:
            row["failures"] = failures.get(result.trial.name, 0)
        rows.append(row)
    return rows


def utc(time: float) -> str:
    """Seconds since 1970 as an ISO date and time."""
    return datetime.fromtimestamp(time, UTC).isoformat(timespec="seconds")


def as_csv(rows: Sequence[Mapping[str, Value]]) -> str:
    """Rows as CSV with a heading line; floats by repr. Empty without rows."""
    file = io.StringIO()
    if rows:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return file.getvalue()
