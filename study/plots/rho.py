"""Accuracy against rho, in the search stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from study import analysis, decide
from study.analysis import Sample
from study.plots import style
from study.plots.style import Look, Plot
from study.records import Status, Value
from study.rounds import Round
from study.searches import Near
from study.spec import Spec

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_CAPTION = (
    "Search stage: validation accuracy against rho; n: the configurations tried.{seeds} Rings: "
    "chosen. Below, thin: the range searched; crosses: diverged; thick: near the best, where "
    "accuracy stays within {tolerance:.2f} points of the chosen one{joined}; an arrow where that "
    "reaches the edge of what was tried."
)
_HOLLOW = " Hollow: stopped early, or a seed is missing."
_LOW = " Arrows at the bottom: lower than the axis shows."
_LEVEL = " Level lines: an arm without rho, mean and one standard deviation over n seeds."

_OF_INTEREST = 8  # times as far below the best as what is near it


@dataclass(frozen=True)
class _Point:
    """A configuration: its rho, the mean of its validation accuracies over n search seeds."""

    rho: float
    accuracy: float
    status: Status
    n: int
    chosen: bool


def plot(judged: Round) -> Plot | None:
    """Validation accuracy over rho of every configuration, above the range that each arm searched
    and what of it is near the best; arms without rho as a level line."""
    spec = judged.spec
    tuned = [arm for arm in spec.arms if "rho" in spec.arms[arm].search]
    points = {arm: _points(judged, arm) for arm in tuned}
    if not any(p.status != "diverged" for some in points.values() for p in some):
        return None
    look = style.looks(list(spec.arms))
    levels = {arm: _level(judged, arm) for arm in spec.arms if arm not in tuned}
    counts = {arm: len(points[arm]) for arm in tuned if points[arm]}
    counts |= {arm: level.n for arm, level in levels.items() if level is not None}
    names, n = style.with_n(counts)
    figure, (axes, ranges) = style.new(
        3.6 + 0.2 * len(tuned), 2, legend=[*names.values()], sharex=True,
        height_ratios=(3, 0.35 + 0.2 * len(tuned)),
    )  # fmt: skip
    for arm in spec.arms:
        if points.get(arm):
            alone = len(spec.arms[arm].search) == 1
            _draw(axes, points[arm], look[arm], names[arm], joined=alone)
        elif (level := levels.get(arm)) is not None:
            _draw_level(axes, level, look[arm], names[arm])
    low = _cut(axes, points, levels, judged.searches.tolerance, look)
    axes.set_ylabel("validation accuracy, %")
    axes.tick_params(axis="x", length=0)
    style.put_legend(axes)
    near = {search.arm: search.near for search in judged.searches.arms}
    _draw_ranges(spec, {arm: near[arm] for arm in tuned}, ranges)
    for row, arm in enumerate(tuned):
        crossed = [p.rho for p in points[arm] if p.status == "diverged"]
        ranges.plot(
            crossed, [row] * len(crossed), marker="x", linestyle="none", color=style.INK,
            markeredgewidth=1.6, markersize=6, zorder=5,
        )  # fmt: skip
    ranges.set_xlabel(f"rho{n}")
    some = [p for each in points.values() for p in each]
    caption = _CAPTION.format(
        seeds="" if spec.tune.search_seeds == 1 else f" Each is a mean over {_seeds(some)} seeds.",
        tolerance=judged.searches.tolerance,
        joined=", by straight lines in log rho"
        if any(n and n.between for n in near.values())
        else "",
    )
    hollow = _HOLLOW if any(p.status in ("pruned", "failed") for p in some) else ""
    caption += hollow + (_LOW if low else "") + (_LEVEL if any(levels.values()) else "")
    return Plot(figure, _rows(spec, points, levels, near), caption)


def _points(judged: Round, arm: str) -> list[_Point]:
    """The configurations of an arm, by rho."""
    ranked = decide.ranked(analysis.of_arm(judged.results, arm, "search"))
    chosen = next(a.chosen for a in judged.verdict.arms if a.arm == arm)
    points = [
        _Point(
            float(runs[0].trial.hyperparameters["rho"]),
            decide.score(runs),
            decide.status(runs),
            sum(bool(run.end.scores) for run in runs),
            dict(runs[0].trial.hyperparameters) == chosen,
        )
        for runs in ranked
    ]
    return sorted(points, key=lambda p: (p.rho, p.accuracy))


def _level(judged: Round, arm: str) -> Sample | None:
    search = analysis.of_arm(judged.results, arm, "search")
    return analysis.sample(analysis.score(r, "validation_accuracy") for r in search)


def _seeds(points: Sequence[_Point]) -> str:
    return style.n_text([p.n for p in points]).removeprefix("n = ")


def _draw(axes: Axes, points: Sequence[_Point], look: Look, name: str, *, joined: bool) -> None:
    finished = [p for p in points if p.status == "finished"]
    axes.plot(
        [p.rho for p in finished], [p.accuracy for p in finished],
        marker=look.marker, color=look.colour, linestyle=look.line if joined else "none",
        linewidth=1.3, markersize=5.5, label=name,
    )  # fmt: skip
    for p in points:
        if p.status in ("pruned", "failed"):
            axes.plot(
                [p.rho], [p.accuracy],
                marker=look.marker, color=look.colour, markerfacecolor="none", markersize=5.5,
            )  # fmt: skip
        if p.chosen and p.status != "diverged":
            axes.plot(
                [p.rho], [p.accuracy], marker="o", markersize=13, markerfacecolor="none",
                markeredgecolor=look.colour, markeredgewidth=1.8,
            )  # fmt: skip


def _draw_level(axes: Axes, level: Sample, look: Look, name: str) -> None:
    axes.axhline(level.mean, color=look.colour, linestyle=look.line, linewidth=1.3, label=name)
    if level.n > 1:
        low, high = level.mean - level.deviation, level.mean + level.deviation
        axes.axhspan(low, high, color=look.colour, alpha=0.12, linewidth=0)


def _cut(
    axes: Axes,
    points: Mapping[str, Sequence[_Point]],
    levels: Mapping[str, Sample | None],
    tolerance: float,
    look: Mapping[str, Look],
) -> bool:
    """Ends the axis below what is of interest, with an arrow for what lies lower. Returns whether
    anything does."""
    reached = [p.accuracy for some in points.values() for p in some if p.status != "diverged"]
    least = max(reached) - _OF_INTEREST * tolerance
    shown = [accuracy for accuracy in reached if accuracy >= least]
    for level in filter(None, levels.values()):
        spread = level.deviation if level.n > 1 else 0.0
        shown.append(min(level.mean, max(level.mean - spread, least)))
    top = axes.get_ylim()[1]
    bottom = min(shown) - 0.12 * (max(*reached, min(shown) + 1) - min(shown))
    arrows = False
    for arm, some in points.items():
        low = [p.rho for p in some if p.status != "diverged" and p.accuracy < bottom]
        arrows = arrows or bool(low)
        axes.plot(
            low, [bottom] * len(low), marker="v", color=look[arm].colour, linestyle="none",
            clip_on=False, markeredgewidth=0, markersize=7, zorder=4,
        )  # fmt: skip
    axes.set_ylim(bottom, top)
    return arrows


def _ends(spec: Spec, arm: str) -> list[float]:
    """The values of rho that an arm chooses from, or the ends of its range, over all methods."""
    own = spec.arms[arm].search["rho"]
    if own.choices is not None:
        return sorted(map(float, own.choices))
    spans = [method.rho or own for method in spec.arms[arm].methods]
    ends = [end for span in spans for end in (span.low, span.high) if end is not None]
    return [min(ends), max(ends)]


def _draw_ranges(spec: Spec, near: dict[str, Near | None], axes: Axes) -> None:
    """For each arm its range, points where it has choices, and what of it is near the best."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    look, positive = style.looks(list(spec.arms)), True
    for row, (arm, good) in enumerate(near.items()):
        numbers, colour = _ends(spec, arm), look[arm].colour
        positive = positive and numbers[0] > 0
        axes.plot(
            numbers, [row] * len(numbers), marker="|", markersize=8, linewidth=1, color=colour,
            linestyle="-" if spec.arms[arm].search["rho"].choices is None else "",
        )  # fmt: skip
        if good is None:
            continue
        axes.plot(
            [good.low, good.high], [row] * 2, linewidth=5, color=colour, solid_capstyle="butt"
        )
        for open_end, at, marker in (
            (good.low_open, good.low, "<"),
            (good.high_open, good.high, ">"),
        ):
            if open_end:
                axes.plot([at], [row], marker=marker, markersize=9, color=colour)
    if positive:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 3), numticks=30))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        axes.xaxis.set_minor_locator(NullLocator())
    axes.set_yticks(range(len(near)), [style.short(arm, 18) for arm in near], fontsize="small")
    axes.set_ylim(len(near) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)


def _rows(
    spec: Spec,
    points: dict[str, list[_Point]],
    levels: dict[str, Sample | None],
    near: dict[str, Near | None],
) -> list[dict[str, Value]]:
    """A row a configuration, then the range searched and the part of it near the best, from rho to
    rho_to; a row an arm without rho."""
    rows: list[dict[str, Value]] = []

    def add(arm: str, what: str, rho: Value, rho_to: Value, **more: Value) -> None:
        row: dict[str, Value] = {"arm": arm, "what": what, "rho": rho, "rho_to": rho_to}
        keys = ("validation_accuracy", "standard_deviation", "n", "chosen")
        rows.append({**row, **{key: more.get(key, "") for key in keys}})

    for arm in spec.arms:
        for p in points.get(arm, ()):
            add(
                arm, p.status, p.rho, "",
                validation_accuracy=p.accuracy, n=p.n, chosen=p.chosen,
            )  # fmt: skip
        if arm in points:
            ends = _ends(spec, arm)
            add(arm, "searched", ends[0], ends[-1])
            if (good := near[arm]) is not None:
                add(arm, "near the best", good.low, good.high)
        elif (level := levels[arm]) is not None:
            spread: Value = level.deviation if level.n > 1 else ""
            add(
                arm, "no rho", "", "",
                validation_accuracy=level.mean, standard_deviation=spread, n=level.n,
            )  # fmt: skip
    return rows
