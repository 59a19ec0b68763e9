"""Differences between arms, seed by seed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from study.comparison import Comparison
from study.plots import style
from study.plots.style import Look, Plot
from study.records import Value
from study.rounds import Round
from study.sentence import signed

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_ROW, _FRAME = 1.0, 0.6  # inches
_CAPTION = (
    "Difference of every pair of runs that share a seed (small; {n} pairs), their mean (diamond) "
    "and its t interval, which holds for all {family} comparisons together with {percent:g} % "
    "confidence. The band is the margin: differences inside it would not matter."
)
_CROSSED = " Crosses: a run of the pair diverged, and counts with chance accuracy."
_CUT = " Arrows: it goes on beyond the axis."


def plot(judged: Round) -> Plot | None:
    """A row a comparison: each pair, the mean, its interval, and the margin around 0."""
    spec, comparisons = judged.spec, judged.verdict.comparisons
    if all(c.difference is None for c in comparisons):
        return None
    margin, look = spec.verdict.equivalence_margin, style.looks(list(spec.arms))
    figure, axes = style.new(_FRAME + _ROW * len(comparisons))
    ends = style.window([(-margin, margin), *_spans(comparisons)], floor=margin)
    axes.axvspan(-margin, margin, color=style.MUTED, alpha=0.14, linewidth=0)
    axes.axvline(0, color=style.MUTED, linewidth=1)
    cut = False
    for row, c in enumerate(comparisons):
        cut |= _draw(axes, c, _ROW * row, ends, look[c.arm])
    axes.set_xlim(ends)
    axes.set_ylim(_ROW * len(comparisons) - 0.5, -0.5)
    axes.set_yticks([])
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(f"difference in test accuracy, points (band: margin ±{margin:g})")
    caption = _CAPTION.format(
        n=style.n_text([c.n for c in comparisons]),
        family=len(comparisons),
        percent=100 * spec.verdict.confidence,
    )
    crossed = _CROSSED if any(c.diverged and c.differences for c in comparisons) else ""
    return Plot(figure, _rows(comparisons), caption + crossed + (_CUT if cut else ""))


def _spans(comparisons: Sequence[Comparison]) -> list[tuple[float, float]]:
    """Intervals, and the pairs whose runs went well."""
    spans = [(c.low, c.high) for c in comparisons if c.low is not None and c.high is not None]
    for c in comparisons:
        pairs = [d for i, d in c.differences.items() if i not in c.diverged]
        spans += [(min(pairs), max(pairs))] if pairs else []
    return spans


def _draw(axes: Axes, c: Comparison, place: float, ends: tuple[float, float], look: Look) -> bool:
    """Returns whether something lies beyond the ends of the axis."""
    name = style.short(f"{c.arm} {style.MINUS} {c.against}", 36)
    style.label(axes, place - 0.17, name, "")
    style.label(axes, place + 0.02, _numbers(c), c.text, colour=style.MUTED)
    beyond = []
    for i, difference in c.differences.items():
        height = place + 0.08 + 0.05 * ((i % 3) - 1)
        if ends[0] <= difference <= ends[1]:
            axes.scatter(
                [difference], [height], color=look.colour, s=20, alpha=0.7, linewidths=1.2,
                marker="x" if i in c.diverged else look.marker,
            )  # fmt: skip
        else:
            beyond.append(difference)
    _beyond(axes, beyond, place + 0.08, ends, look.colour)
    cut = bool(beyond)
    if c.difference is not None and c.low is not None and c.high is not None:
        low = place + 0.28
        style.draw_interval(axes, c.low, c.high, low, ends, color=look.colour, linewidth=2.4)
        cut |= c.low < ends[0] or c.high > ends[1]
        if ends[0] <= c.difference <= ends[1]:
            axes.plot(
                [c.difference], [low],
                marker="D", color=look.colour, markeredgecolor=style.PAPER, markersize=7.5,
            )  # fmt: skip
    return cut


def _beyond(
    axes: Axes, pairs: Sequence[float], place: float, ends: tuple[float, float], colour: str
) -> None:
    """An arrow at each end of the axis beyond which pairs lie, and the farthest of them."""
    for side, sign, end in (("left", -1, ends[0]), ("right", 1, ends[1])):
        far = [d for d in pairs if sign * (d - end) > 0]
        if not far:
            continue
        style.draw_interval(axes, far[0], far[0], place, ends, color=colour, linewidth=0)
        more = f"{len(far)} pairs to " if len(far) > 1 else ""
        axes.annotate(
            f"{more}{signed(max(far, key=abs))}", (end, place), xytext=(-9 * sign, 0),
            textcoords="offset points", ha=side, va="center", fontsize="small", color=style.MUTED,
        )  # fmt: skip


def _numbers(c: Comparison) -> str:
    if c.difference is None or c.low is None or c.high is None:
        return f"n = {c.n}"
    return f"{signed(c.difference)} [{signed(c.low)}, {signed(c.high)}], n = {c.n}"


def _rows(comparisons: Sequence[Comparison]) -> list[dict[str, Value]]:
    """A row a pair, by seed index, and one a mean."""
    rows: list[dict[str, Value]] = []
    for c in comparisons:
        both: dict[str, Value] = {"arm": c.arm, "against": c.against}
        rows += [
            {
                **both, "what": "pair", "index": i, "difference": d, "low": "", "high": "", "n": 1,
                "diverged": i in c.diverged,
            }
            for i, d in c.differences.items()
        ]  # fmt: skip
        if c.difference is not None and c.low is not None and c.high is not None:
            rows.append(
                {
                    **both, "what": "mean", "index": "", "difference": c.difference, "low": c.low,
                    "high": c.high, "n": c.n, "diverged": bool(c.diverged),
                }
            )  # fmt: skip
    return rows
