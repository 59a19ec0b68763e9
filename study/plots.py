"""Plots of a study as SVG text: self-contained, the same bytes for the same results."""

from __future__ import annotations

import io
import math
import re
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from study import analysis
from study.comparison import Comparison
from study.records import Result
from study.spec import Spec
from study.verdict import Verdict

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, FAINT, PAPER = "#1f2933", "#66727f", "#e3e7eb", "#fefefe"
"""Text, secondary text, grid and background; the report swaps them for its own in dark mode."""

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8a6d3b", "#7a7f87")
"""Okabe and Ito's palette, told apart with any colour vision; yellow and black, which vanish on a
light or a dark page, replaced."""

_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.size": 9.5,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "figure.facecolor": "none",
    "lines.solid_capstyle": "round",
}


def colours(spec: Spec) -> dict[str, str]:
    """One colour an arm, the same in every plot and table."""
    return {arm: COLOURS[i % len(COLOURS)] for i, arm in enumerate(spec.arms)}


def _markers(spec: Spec) -> dict[str, str]:
    # Past the end of the palette colours repeat; the markers are then out of step with them.
    return {
        arm: _MARKERS[(i + i // len(_MARKERS)) % len(_MARKERS)] for i, arm in enumerate(spec.arms)
    }


def draw(spec: Spec, verdict: Verdict, results: Sequence[Result]) -> dict[str, str]:
    """Every plot that there are results for, by name: differences, rho, curves."""
    pages: dict[str, Callable[[], Figure | None]] = {
        "differences": lambda: _differences(spec, verdict.comparisons),
        "rho": lambda: _rho(spec, results),
        "curves": lambda: _curves(spec, results),
    }
    drawn = {}
    for name, page in pages.items():
        with styled(name):
            figure = page()
            if figure is not None:
                drawn[name] = as_svg(figure)
    return drawn


@contextmanager
def styled(salt: str) -> Iterator[None]:
    """Figures made and written inside look like every other; salt: the name of this one."""
    import matplotlib

    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": salt}):
        yield


def as_svg(figure: Figure) -> str:
    """The figure as an SVG element. Ids that nothing refers to go: plots share one page."""
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    return re.sub(r' id="[A-Za-z0-9.]+_\d+"', "", text)


def _figure(height: float, rows: int = 1, columns: int = 1, **grid: Any) -> tuple[Figure, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.2, height), layout="constrained")
    return figure, figure.subplots(rows, columns, **grid)


def _differences(spec: Spec, comparisons: Sequence[Comparison]) -> Figure | None:
    """A row a comparison: each pair, the mean, its interval, and the margin around 0."""
    if all(c.difference is None for c in comparisons):
        return None
    colour, marker = colours(spec), _markers(spec)
    figure, axes = _figure(1.0 + 0.62 * len(comparisons))
    margin = spec.verdict.equivalence_margin
    axes.axvspan(-margin, margin, color=MUTED, alpha=0.14, linewidth=0)
    axes.axvline(0, color=MUTED, linewidth=1)
    for row, c in enumerate(comparisons):
        pairs = [(i, d) for i, d in c.differences.items() if i not in c.diverged]
        crossed = [(i, d) for i, d in c.differences.items() if i in c.diverged]
        for some, shape in ((pairs, marker[c.arm]), (crossed, "x")):
            axes.scatter(
                [d for _, d in some],
                [row + 0.2 + 0.07 * ((i % 3) - 1) for i, _ in some],
                color=colour[c.arm], marker=shape, s=22, alpha=0.65, linewidths=1.2,
            )  # fmt: skip
        if c.difference is not None and c.low is not None and c.high is not None:
            axes.plot([c.low, c.high], [row - 0.14] * 2, color=colour[c.arm], linewidth=2.6)
            axes.plot(
                [c.difference], [row - 0.14],
                marker="D", color=colour[c.arm], markeredgecolor=PAPER, markersize=8,
            )  # fmt: skip
        axes.annotate(
            c.text, (1.01, row), xycoords=("axes fraction", "data"), va="center", color=INK
        )
    axes.set_yticks(
        range(len(comparisons)), [f"{c.arm} \N{MINUS SIGN} {c.against}" for c in comparisons]
    )
    axes.set_ylim(len(comparisons) - 0.5, -0.6)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(f"difference in test accuracy, percentage points (band: margin ±{margin:g})")
    return figure


def _rho(spec: Spec, results: Sequence[Result]) -> Figure | None:
    """Validation accuracy over rho for every search trial, above the range that each arm drew
    from; arms without rho as a line."""
    tuned = [arm for arm in spec.arms if "rho" in spec.arms[arm].search]
    search = {arm: analysis.of_arm(results, arm, "search") for arm in spec.arms}
    if not any(_points(search[arm], "finished") for arm in tuned):
        return None
    colour, marker = colours(spec), _markers(spec)
    figure, (axes, ranges) = _figure(
        4.6 + 0.2 * len(tuned), 2, sharex=True, height_ratios=(3.7, 0.35 + 0.2 * len(tuned))
    )
    chosen = {arm.arm: arm.chosen for arm in analysis.summarize(spec, results)}
    crossed = []
    for arm in spec.arms:
        if arm not in tuned:
            level = analysis.sample(analysis.score(r, "validation_accuracy") for r in search[arm])
            if level:
                axes.axhline(level.mean, color=colour[arm], linestyle="--", label=arm)
                _band_across(axes, level, colour[arm])
            continue
        crossed += [(x, colour[arm]) for x, _ in _points(search[arm], "diverged")]
        points = _points(search[arm], "finished")
        if not points:
            continue
        alone = len(spec.arms[arm].search) == 1
        axes.plot(
            [x for x, _ in points], [y for _, y in points],
            marker=marker[arm], color=colour[arm], linewidth=1.2 if alone else 0,
            markersize=5.5, label=arm,
        )  # fmt: skip
        best = (chosen[arm] or {}).get("rho")
        for x, y in points:
            if x == best:
                axes.plot(
                    [x], [y], marker="o", markersize=13, markerfacecolor="none",
                    markeredgecolor=colour[arm], markeredgewidth=1.8,
                )  # fmt: skip
    bottom = axes.get_ylim()[0]
    for x, shade in crossed:
        axes.plot([x], [bottom], marker="x", color=shade, clip_on=False, markeredgewidth=2)
    axes.set_ylim(bottom=bottom)
    axes.set_ylabel("validation accuracy, %")
    axes.tick_params(axis="x", length=0)
    _legend(axes)
    _draw_ranges(spec, tuned, ranges)
    return figure


def _points(search: Sequence[Result], status: str) -> list[tuple[float, float]]:
    """(rho, validation accuracy) of the trials that ended so, by rho."""
    return sorted(
        (float(r.trial.hyperparameters["rho"]), analysis.score(r, "validation_accuracy"))
        for r in search
        if r.end.status == status and "rho" in r.trial.hyperparameters
    )


def _band_across(axes: Axes, level: analysis.Sample, shade: str) -> None:
    if level.n > 1:
        low, high = level.mean - level.deviation, level.mean + level.deviation
        axes.axhspan(low, high, color=shade, alpha=0.12, linewidth=0)


def _draw_ranges(spec: Spec, tuned: Sequence[str], axes: Axes) -> None:
    """A bar from the low to the high end of each arm's range; points where it has choices."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    colour, positive = colours(spec), True
    for row, arm in enumerate(tuned):
        own = spec.arms[arm].search["rho"]
        spans = [method.rho or own for method in spec.arms[arm].methods]
        ends = [end for span in spans for end in (span.low, span.high) if end is not None]
        numbers = sorted(map(float, own.choices or ends))
        positive = positive and min(numbers) > 0
        line = "-" if own.choices is None else ""
        axes.plot(
            numbers, [row] * len(numbers), linestyle=line, marker="|", markersize=8,
            linewidth=4, color=colour[arm], alpha=0.75, solid_capstyle="butt",
        )  # fmt: skip
    if positive:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=30))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        axes.xaxis.set_minor_locator(NullLocator())
    axes.set_yticks(range(len(tuned)), tuned)
    axes.set_ylim(len(tuned) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("rho (bars: the range that was searched)")


def _curves(spec: Spec, results: Sequence[Result]) -> Figure | None:
    """Validation accuracy and train loss over the epochs of the confirm stage: the mean over seeds
    and a band of one standard deviation."""
    confirm = {arm: analysis.of_arm(results, arm, "confirm") for arm in spec.arms}
    if not any(result.epochs for trials in confirm.values() for result in trials):
        return None
    figure, panels = _figure(3.4, columns=2)
    for axes, name, label in zip(
        panels,
        ("validation_accuracy", "train_loss"),
        ("validation accuracy, %", "train loss"),
        strict=True,
    ):
        for arm, trials in confirm.items():
            _curve(axes, trials, name, arm, colours(spec)[arm])
        axes.set_xlabel("epoch")
        axes.set_ylabel(label)
    _legend(panels[0])
    return figure


def _curve(axes: Axes, trials: Sequence[Result], name: str, arm: str, shade: str) -> None:
    by_epoch: dict[int, list[float]] = {}
    for result in trials:
        for epoch in result.epochs:
            value = epoch.metrics.get(name, math.nan)
            if math.isfinite(value):
                by_epoch.setdefault(epoch.epoch, []).append(value)
    epochs = sorted(by_epoch)
    means = [statistics.mean(by_epoch[e]) for e in epochs]
    spreads = [statistics.pstdev(by_epoch[e]) for e in epochs]
    axes.plot(epochs, means, color=shade, linewidth=1.8, label=arm)
    axes.fill_between(
        epochs,
        [mean - spread for mean, spread in zip(means, spreads, strict=True)],
        [mean + spread for mean, spread in zip(means, spreads, strict=True)],
        color=shade, alpha=0.15, linewidth=0,
    )  # fmt: skip


def _legend(axes: Axes) -> None:
    """One legend above the figure."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=min(5, len(labels)))
