"""What accuracy costs."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

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
_STEP = 0.035  # of the axis: a marker is as wide
_BESIDE = 5  # so many side by side; more of them closer, or they would seem to differ in cost
_LINE = 0.09  # of the height: a line of text


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
    low, high = style.window(
        [(p.low, p.high) for p in points], middle=statistics.median(p.mean for p in points)
    )
    below = [p.arm for p in points if p.low < low]
    ends = low - _LINE * len(below) * (high - low), high
    fronts: dict[str, list[bool]] = {}
    for [axes], key in zip(panels, shown, strict=True):
        known = [p for p in points if key in p.costs]
        fronts[key] = front([(p.costs[key], p.mean) for p in known])
        _draw(axes, key, known, fronts[key], ends, look)
        _tell(axes, [p for p in known if p.arm in below])
    style.put_legend(panels[0][0])
    cut = below or any(p.high > high for p in points)
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
    places = apart([p.costs[key] for p in points])
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
        marker: dict[str, Any] = {
            "linestyle": "none", "color": colour, "marker": look[p.arm].marker, "markersize": 7,
            "markeredgewidth": 1.6,
        }  # fmt: skip
        # Filled in the legend, which speaks of both panels.
        axes.plot([], [], label=p.arm, markerfacecolor=colour, **marker)
        if ends[0] <= p.mean <= ends[1]:
            face = colour if filled else style.PAPER
            axes.plot([place], [p.mean], markerfacecolor=face, **marker)
    axes.set_xlim(0, 1.08 * max(places))
    axes.set_ylim(ends)
    axes.set_xlabel(_COSTS[key])
    axes.set_ylabel("test accuracy, %")


def _tell(axes: Axes, points: Sequence[_Point]) -> None:
    """The means of arms that reach below the axis, a line each in the corner left free for them."""
    for line, p in enumerate(points):
        axes.text(
            0.015, (line + 0.5) * _LINE / (1 + _LINE * len(points)),
            f"\N{DOWNWARDS ARROW} {style.short(p.arm, 20)} {p.mean:.2f}",
            transform=axes.transAxes, va="center", fontsize="small", color=style.MUTED,
        )  # fmt: skip


def apart(costs: Sequence[float]) -> list[float]:
    """Where on the axis each is drawn: as near to its cost as lets all be _STEP apart."""
    from scipy.optimize import isotonic_regression

    order = np.argsort(costs, kind="stable")
    count, step = np.arange(len(costs)), _STEP * max(costs)
    fit = isotonic_regression(np.asarray(costs)[order] - count * step)
    if (most := np.diff(fit.blocks).max()) > _BESIDE:
        step *= _BESIDE / most
        fit = isotonic_regression(np.asarray(costs)[order] - count * step)
    places = np.empty(len(costs))
    places[order] = fit.x + count * step
    return [float(place) for place in places]


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
