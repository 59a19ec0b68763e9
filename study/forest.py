"""An effect over studies as a forest plot, tables and rows of CSV."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from study import plots
from study.across import FEWEST_TO_TEST, Compared
from study.effects import CONFIDENCE, Measured
from study.plots import style
from study.plots.style import Drawn, Plot
from study.pooling import Pooled
from study.records import Value
from study.sentence import signed
from study.tables import NOTHING, Column, Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

POOLED = "mean over groups"
"""The name of the row below the studies."""
_ROW, _GAP, _FRAME = 0.46, 0.16, 0.75  # inches
_NAME = 28  # characters of a study's name that fit beside its numbers
_CAPTION = (
    "Square: the mean difference in one study; hollow where it cannot be pooled. Line: its "
    f"{100 * CONFIDENCE:g} % t interval over n seeds. A bracket and one colour: studies that share "
    "data and seeds, whose estimates depend on each other."
)
_POOLED = (
    " Diamond: mean over k independent groups with its interval; thin line: where a new study is "
    "expected."
)
_CUT = " An arrow: it goes on beyond the axis; the numbers above the line say how far."


def title(compared: Compared) -> str:
    """The effect as a reader would call it."""
    names = {(each.arm, each.against) for each in compared.measured}
    arm, against = next(iter(names)) if len(names) == 1 else ("", "")
    return f"{arm} \N{MINUS SIGN} {against}" if arm else compared.effect


def sentence(compared: Compared) -> str:
    """What all studies say together, or why they are not put together."""
    pooled, percent = compared.pooled, f"{100 * CONFIDENCE:g} %"
    if pooled is None:
        return f"Not pooled: {compared.refusal}."
    return (
        f"Over {pooled.k} independent groups of studies the mean of {title(compared)} is "
        f"{signed(pooled.mean)} percentage points ({percent} interval {signed(pooled.low)} to "
        f"{signed(pooled.high)}); true effects vary between studies with a standard deviation of "
        f"{pooled.tau:.2f}, and that of a new study of this kind is expected between "
        f"{signed(pooled.expected_low)} and {signed(pooled.expected_high)} ({percent} prediction "
        "interval)."
    )


def colours(compared: Compared) -> dict[str, str]:
    """One colour a group of studies that share data and seeds, by study."""
    return {
        each.study: style.COLOURS[i % len(style.COLOURS)]
        for i, group in enumerate(compared.groups)
        for each in group
    }


def draw(compared: Compared) -> Drawn:
    """The forest plot as SVG text."""
    drawn = plots.drawn("forest", lambda: plot(compared))
    assert drawn is not None
    return drawn


def plot(compared: Compared) -> Plot:
    """A row a study, groups apart, below them the pooled mean."""
    gaps = len(compared.groups) - 1 + (compared.pooled is not None)
    rows = len(compared.measured) + (compared.pooled is not None)
    figure, axes = style.new(_FRAME + _ROW * rows + _GAP * gaps)
    axes.axvline(0, color=style.MUTED, linewidth=1)
    spans = _spans(compared)
    ends = style.window(spans)
    shade, place = colours(compared), 0.0
    for group in compared.groups:
        for each in group:
            _study_row(axes, each, place, ends, shade[each.study])
            place += _ROW
        if len(group) > 1:  # a bracket: they are not independent
            axes.plot(
                [-0.025] * 2, [place - len(group) * _ROW - 0.28, place - _ROW + 0.1],
                transform=axes.get_yaxis_transform(), clip_on=False,
                color=shade[group[0].study], linewidth=2,
            )  # fmt: skip
        place += _GAP
    if compared.pooled is not None:
        axes.axhline(place - _GAP / 2 - 0.2, color=style.FAINT, linewidth=0.8)
        _pooled_row(axes, compared.pooled, place, ends)
        place += _ROW + _GAP
    axes.set_xlim(ends)
    axes.set_ylim(place - _GAP - _ROW + 0.3, -0.28)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(f"{style.short(title(compared), 40)}, percentage points of test accuracy")
    caption = _CAPTION + (_POOLED if compared.pooled else "")
    cut = any(low < ends[0] or high > ends[1] for low, high in spans)
    return Plot(figure, csv_rows(compared), caption + (_CUT if cut else ""))


def _spans(compared: Compared) -> list[tuple[float, float]]:
    spans = [
        (each.low, each.high)
        for each in compared.measured
        if each.low is not None and each.high is not None
    ]
    if (p := compared.pooled) is not None:
        spans += [(p.low, p.high), (p.expected_low, p.expected_high)]
    return spans


def _study_row(
    axes: Axes, each: Measured, place: float, ends: tuple[float, float], shade: str
) -> None:
    style.label(axes, place, style.short(each.study, _NAME), _numbers(each))
    if each.estimate is None or each.low is None or each.high is None:
        return
    style.draw_interval(axes, each.low, each.high, place, ends, color=shade, linewidth=2.6)
    if ends[0] <= each.estimate.mean <= ends[1]:
        axes.plot(
            [each.estimate.mean], [place], marker="s", markersize=6, color=shade,
            markerfacecolor=style.PAPER if each.barrier else shade,
            markeredgewidth=1.6,
        )  # fmt: skip


def _pooled_row(axes: Axes, pooled: Pooled, place: float, ends: tuple[float, float]) -> None:
    ink, half = style.INK, 0.085
    numbers = _interval(pooled.mean, pooled.low, pooled.high, f"k = {pooled.k}")
    style.label(axes, place, POOLED, numbers)
    style.draw_interval(
        axes, pooled.expected_low, pooled.expected_high, place, ends, color=ink, linewidth=1
    )
    axes.fill(
        [pooled.low, pooled.mean, pooled.high, pooled.mean],
        [place, place - half, place, place + half],
        color=ink, linewidth=0,
    )  # fmt: skip


def _numbers(each: Measured) -> str:
    n = f"n = {each.n}{_marks(each)}"
    if each.estimate is None or each.low is None or each.high is None:
        return n
    return _interval(each.estimate.mean, each.low, each.high, n)


def _interval(mean: float, low: float, high: float, n: str) -> str:
    return f"{signed(mean)} [{signed(low)}, {signed(high)}], {n}"


def _marks(each: Measured) -> str:
    return ("*" if each.diverged else "") + ("" if each.paired else "\N{PILCROW SIGN}")


def effects_table(compared: Compared) -> Table:
    """The effect in each study, and whether it counts in the pooled mean."""
    columns = (
        Column("study", number=False),
        Column("difference"),
        Column(f"{100 * CONFIDENCE:g} %\ninterval"),
        Column("n"),
        Column("group"),
        Column("can be\npooled", number=False),
    )
    rows = tuple(
        (
            each.study,
            NOTHING if each.estimate is None else signed(each.estimate.mean),
            _between(each.low, each.high),
            f"{each.n}{_marks(each)}",
            str(number),
            "no" if each.barrier else "yes",
        )
        for number, group in enumerate(compared.groups, 1)
        for each in group
    )
    return Table("Studies", columns, rows, tuple(row[0] for row in rows))


def conditions_table(compared: Compared) -> Table:
    """What the studies held fixed: what the effect may depend on."""
    keys = list(compared.measured[0].conditions)
    columns = tuple(Column(key.replace("_", "\n"), number=False) for key in ("study", *keys))
    rows = tuple(
        (each.study, *(each.conditions[key] or NOTHING for key in keys))
        for each in compared.measured
    )
    return Table("What the effect may depend on", columns, rows, tuple(row[0] for row in rows))


def described(compared: Compared) -> str:
    """Why the table of conditions is a description and no more."""
    n = len(compared.measured)
    if n == 1:
        return "One study does not tell what the effect depends on."
    few = f"with {n} of them, fewer than {FEWEST_TO_TEST}, a test would be a guess"
    many = "a test of it is a question of its own"
    return (
        "These conditions are described, not tested: studies differ in several at once, and "
        f"{few if n < FEWEST_TO_TEST else many}."
    )


def _between(low: float | None, high: float | None) -> str:
    return NOTHING if low is None or high is None else f"[{signed(low)}, {signed(high)}]"


def csv_rows(compared: Compared) -> list[dict[str, Value]]:
    """A row a study, and one of the pooled mean where there is one; what a row lacks is ''."""
    rows = [
        _csv_row(each, number) for number, group in enumerate(compared.groups, 1) for each in group
    ]
    if (p := compared.pooled) is not None:
        own: dict[str, Value] = {
            "study": POOLED, "difference": p.mean, "low": p.low, "high": p.high, "n": p.k,
            "tau": p.tau, "expected_low": p.expected_low, "expected_high": p.expected_high,
        }  # fmt: skip
        rows.append({key: own.get(key, "") for key in rows[0]})
    return rows


def _csv_row(each: Measured, number: int) -> dict[str, Value]:
    estimate = each.estimate
    return {
        "study": each.study,
        "arm": each.arm,
        "against": each.against,
        "difference": "" if estimate is None else estimate.mean,
        "low": "" if each.low is None else each.low,
        "high": "" if each.high is None else each.high,
        "standard_error": "" if estimate is None else estimate.error,
        "n": each.n,
        "test": "paired t" if each.paired else "Welch's t",
        "diverged": each.diverged,
        "group": number,
        "barrier": each.barrier,
        "data_hash": each.data_hash,
        "matched": each.matching,
        **each.conditions,
        "tau": "",
        "expected_low": "",
        "expected_high": "",
    }


def explanations(measured: Sequence[Measured]) -> list[str]:
    """What the marks mean, for those that are there."""
    marks = "".join(map(_marks, measured))
    texts = {
        "*": "Some runs diverged and count with chance accuracy, as in the verdict.",
        "\N{PILCROW SIGN}": "Unpaired: an arm has seeds of its own (Welch's t).",
    }
    return [f"{mark} {text}" for mark, text in texts.items() if mark in marks]
