"""What accuracy costs."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from study import stages, stats
from study.analysis import ArmSummary
from study.plots import style
from study.plots.style import Look, Plot
from study.records import Value
from study.rounds import Round
from study.spec import Spec

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COSTS: dict[str, str] = {
    "gradient_evaluations": "gradient evaluations of a training run",
    "seconds": "seconds of a training run (median s per epoch × epochs)",
}
_CAPTION = (
    "Confirm stage: mean test accuracy ({n} runs an arm) with its {percent:g} % t interval, "
    "against what one training run costs. Filled, joined by a line: the Pareto front of the means, "
    "arms that no other one beats at the same cost or less. Intervals are of means, not of "
    "differences between arms, which share seeds. Arms of nearly equal cost are drawn side by side."
)
_CUT = " An arrow, with the mean: it lies, or its interval goes on, beyond the axis."
_STEP = 0.035  # of the axis: costs closer than this are drawn side by side
_BESIDE = 5  # so many so far apart; more of them closer, or they would seem to differ in cost


@dataclass(frozen=True)
class _Point:
    """Test accuracy of an arm and what a training run costs, by the keys of _COSTS."""

    arm: str
    mean: float
    low: float
    high: float
    n: int
    costs: dict[str, float]


def plot(judged: Round) -> Plot | None:
    """Mean test accuracy with its interval over gradient evaluations and over seconds."""
    points = [p for arm in judged.verdict.arms if (p := _point(judged.spec, arm)) is not None]
    if not points:
        return None
    look = style.looks(list(judged.spec.arms))
    shown = [key for key in _COSTS if any(p.costs.get(key) for p in points)]
    if not shown:
        return None
    figure, panels = style.new(
        2.6 * len(shown), len(shown), legend=[p.arm for p in points], squeeze=False
    )
    ends = style.window(
        [(p.low, p.high) for p in points], middle=statistics.median(p.mean for p in points)
    )
    fronts: dict[str, list[bool]] = {}
    for [axes], key in zip(panels, shown, strict=True):
        known = [p for p in points if key in p.costs]
        fronts[key] = front([(p.costs[key], p.mean) for p in known])
        _draw(axes, key, known, fronts[key], ends, look)
    style.put_legend(panels[0][0])
    cut = any(p.low < ends[0] or p.high > ends[1] for p in points)
    caption = _CAPTION.format(
        n=style.n_text([p.n for p in points]), percent=100 * judged.spec.verdict.confidence
    )
    return Plot(figure, _rows(points, fronts), caption + (_CUT if cut else ""))


def front(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Of each (cost, accuracy) whether no other one costs no more and is no worse, and is better in
    one of both."""
    return [
        not any(c <= cost and a >= accuracy and (c, a) != (cost, accuracy) for c, a in points)
        for cost, accuracy in points
    ]


def _point(spec: Spec, arm: ArmSummary) -> _Point | None:
    if arm.test is None:
        return None
    low = high = arm.test.mean
    if arm.test.n > 1:
        estimate = stats.Estimate(arm.test.mean, arm.test.error, arm.test.n - 1)
        low, high = stats.interval(estimate, spec.verdict.confidence)
    costs = {}
    if arm.gradient_evaluations is not None:
        costs["gradient_evaluations"] = arm.gradient_evaluations
    if arm.seconds_per_epoch is not None:
        method = spec.arms[arm.arm].method(arm.chosen or {})
        costs["seconds"] = arm.seconds_per_epoch * stages.epochs(spec, arm.arm, method)
    return _Point(arm.arm, arm.test.mean, low, high, arm.test.n, costs)


def _draw(
    axes: Axes,
    key: str,
    points: Sequence[_Point],
    on_front: Sequence[bool],
    ends: tuple[float, float],
    look: Mapping[str, Look],
) -> None:
    places = _places([p.costs[key] for p in points])
    best = sorted(
        (place, p.mean) for place, p, best in zip(places, points, on_front, strict=True) if best
    )
    axes.plot(
        [place for place, _ in best], [mean for _, mean in best],
        color=style.INK, linewidth=1, linestyle=":", zorder=1,
    )  # fmt: skip
    for place, p, filled in zip(places, points, on_front, strict=True):
        colour = look[p.arm].colour
        style.draw_interval(
            axes, p.low, p.high, place, ends, upright=True, color=colour, linewidth=1.8
        )
        inside = ends[0] <= p.mean <= ends[1]
        axes.plot(
            [place] if inside else [], [p.mean] if inside else [],
            linestyle="none", label=p.arm, color=colour, marker=look[p.arm].marker, markersize=7,
            markerfacecolor=colour if filled else style.PAPER, markeredgewidth=1.6,
        )  # fmt: skip
        if p.low < ends[0]:
            right = place > max(places) / 2
            axes.annotate(
                f"{style.short(p.arm, 20)} {p.mean:.2f}", (place, ends[0]),
                xytext=(-7 if right else 7, 3), textcoords="offset points",
                ha="right" if right else "left", fontsize="small", color=style.MUTED,
            )  # fmt: skip
    axes.set_xlim(0, 1.08 * max(places))
    axes.set_ylim(ends)
    axes.set_xlabel(_COSTS[key])
    axes.set_ylabel("test accuracy, %")


def _places(costs: Sequence[float]) -> list[float]:
    """Where on the axis each is drawn: its cost, moved aside where another one is as close as
    _STEP."""
    step, places = _STEP * max(costs), list(costs)
    order = sorted(range(len(costs)), key=lambda i: costs[i])
    group: list[int] = []
    for i, after in zip(order, [*order[1:], None], strict=True):
        group.append(i)
        if after is None or costs[after] - costs[i] >= step:
            apart = step * min(1, _BESIDE / len(group))
            for k, member in enumerate(group):
                places[member] += apart * (k - (len(group) - 1) / 2)
            group = []
    return places


def _rows(points: Sequence[_Point], fronts: Mapping[str, list[bool]]) -> list[dict[str, Value]]:
    """A row an arm."""
    rows: list[dict[str, Value]] = []
    for p in points:
        row: dict[str, Value] = {"arm": p.arm}
        row |= {key: p.costs.get(key, "") for key in fronts}
        row |= {"test_accuracy": p.mean, "low": p.low, "high": p.high, "n": p.n}
        rows.append(row)
    for key, on_front in fronts.items():
        known = [row for row in rows if row[key] != ""]
        for row in rows:
            row[f"front_{key}"] = False
        for row, best in zip(known, on_front, strict=True):
            row[f"front_{key}"] = best
    return rows
