"""What all plots look like: readable in colour and without, on a light, a dark and a printed page,
and as narrow as a phone."""

from __future__ import annotations

import io
import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from study.records import Value
from study.spec import Spec

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, FAINT, PAPER = "#1f2933", "#66727f", "#e3e7eb", "#fefefe"
"""Text, secondary text, grid and background; the report swaps them for its own in dark mode."""

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8a6d3b", "#7a7f87")
"""Okabe and Ito's palette, told apart with any colour vision; yellow and black, which vanish on a
light or a dark page, replaced."""

MINUS = "\N{MINUS SIGN}"
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")
_LINES = ("-", "--", "-.", ":")
_WIDTH = 4.6  # inches: letters keep their size on a phone
_LETTERS = 56  # of a legend fit beside each other
_LEGEND_ROW = 0.2  # inches
_FAR = 6  # times as far from the middle as most is too far to be drawn

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
    "legend.handlelength": 2.4,
    "figure.facecolor": "none",
    "lines.solid_capstyle": "round",
}


@dataclass(frozen=True)
class Plot:
    """A figure, the numbers that it draws, and what it says below it: also n, and what an interval
    is."""

    figure: Figure
    rows: Sequence[dict[str, Value]]
    caption: str


@dataclass(frozen=True)
class Drawn:
    """A plot as SVG text."""

    svg: str
    rows: Sequence[dict[str, Value]]
    caption: str


@dataclass(frozen=True)
class Look:
    """How an arm is drawn, in every plot alike: told apart by each of the three."""

    colour: str
    marker: str
    line: str


def looks(names: Sequence[str]) -> dict[str, Look]:
    """One look a name, by their order."""
    # Past the end of the palette colours repeat; markers and lines are then out of step with them
    # and with each other.
    return {
        name: Look(
            COLOURS[i % len(COLOURS)],
            _MARKERS[(i + i // len(COLOURS)) % len(_MARKERS)],
            _LINES[(i + 2 * (i // len(COLOURS))) % len(_LINES)],
        )
        for i, name in enumerate(names)
    }


def colours(spec: Spec) -> dict[str, str]:
    """One colour an arm, the same in every plot and table."""
    return {arm: look.colour for arm, look in looks(list(spec.arms)).items()}


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


def new(
    height: float, rows: int = 1, legend: Sequence[str] = (), **grid: Any
) -> tuple[Figure, Any]:
    """A figure and its axes, one below the other. height: inches, without the legend."""
    from matplotlib.figure import Figure

    height += _LEGEND_ROW * -(-len(legend) // _columns(legend)) if legend else 0
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    return figure, figure.subplots(rows, 1, **grid)


def put_legend(axes: Axes) -> None:
    """One legend above the figure."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    handles, labels = axes.get_legend_handles_labels()
    if labels:
        figure.legend(
            handles, labels, loc="outside upper left", ncols=_columns(labels), columnspacing=1.2
        )


def _columns(labels: Sequence[str]) -> int:
    return max(1, min(len(labels), _LETTERS // (max(map(len, labels)) + 7)))


def with_n(counts: Mapping[str, int]) -> tuple[dict[str, str], str]:
    """What a legend calls each arm, and what an axis says of n: n of each where it differs."""
    if len(set(counts.values())) == 1:
        return {name: name for name in counts}, f" (n = {next(iter(counts.values()))} an arm)"
    return {name: f"{name} (n = {n})" for name, n in counts.items()}, ""


def short(text: str, most: int) -> str:
    """The text, cut where it is longer."""
    return text if len(text) <= most else f"{text[: most - 1]}\N{HORIZONTAL ELLIPSIS}"


def n_text(counts: Sequence[int]) -> str:
    """As 'n = 8', or 'n = 3 to 8' where they differ."""
    low, high = min(counts), max(counts)
    return f"n = {low}" if low == high else f"n = {low} to {high}"


def label(axes: Axes, place: float, left: str, right: str, colour: str = INK) -> None:
    """Text above the row at `place` of a plot whose y axis points down, in inches."""
    for x, text, side in ((0.0, left, "left"), (1.0, right, "right")):
        axes.text(
            x, place - 0.12, text, ha=side, va="bottom", color=colour,
            transform=axes.get_yaxis_transform(),
            bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 1.5},
        )  # fmt: skip


def window(
    spans: Sequence[tuple[float, float]], middle: float = 0.0, floor: float = 0.0
) -> tuple[float, float]:
    """The ends of an axis that shows every span (low, high) but those that reach _FAR times as far
    from the middle as the usual one: beside them the others could not be read. floor: of what is
    usual."""
    reaches = [max(abs(low - middle), abs(high - middle)) for low, high in spans]
    usual = statistics.median_low([reach for reach in reaches if reach > 0] or [1.0])
    most = _FAR * max(usual, floor)
    kept = [
        end for span, reach in zip(spans, reaches, strict=True) if reach <= most for end in span
    ]
    low, high = min([*kept, middle]), max([*kept, middle])
    edge = 0.06 * (high - low) or 0.5
    return low - edge, high + edge


def draw_interval(
    axes: Axes,
    low: float,
    high: float,
    place: float,
    ends: tuple[float, float],
    *,
    upright: bool = False,
    **line: Any,
) -> None:
    """A line from low to high, cut off at the ends of the axis with an arrow."""

    def draw(along: list[float], **more: Any) -> None:
        across = [place] * len(along)
        axes.plot(*((across, along) if upright else (along, across)), **more)

    draw([min(max(end, ends[0]), ends[1]) for end in (low, high)], **line)
    for cut, at, marker in (
        (low < ends[0], ends[0], "v" if upright else "<"),
        (high > ends[1], ends[1], "^" if upright else ">"),
    ):
        if cut:
            draw(
                [at], marker=marker, markersize=7, color=line["color"], clip_on=False,
                markeredgecolor=PAPER, markeredgewidth=0.5, zorder=4,
            )  # fmt: skip
