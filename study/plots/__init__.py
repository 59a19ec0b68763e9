"""Plots of a study as SVG text, each with its numbers: self-contained, the same bytes for the same
results. A new one is a module here with a function from Round to Plot, and a line in FIGURES."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from study.plots import best, cost, curves, differences, rho, sharpness
from study.plots.style import Drawn, Plot, as_svg, styled
from study.rounds import Round

FIGURES: Mapping[str, Callable[[Round], Plot | None]] = {
    "differences": differences.plot,
    "cost": cost.plot,
    "rho": rho.plot,
    "best": best.plot,
    "curves": curves.plot,
    "sharpness": sharpness.plot,
}
"""By the names of their files, in the order of the report; None: no results for it yet."""


def draw(judged: Round) -> dict[str, Drawn]:
    """Every plot that there are results for, by name."""
    pages = {name: drawn(name, partial(figure, judged)) for name, figure in FIGURES.items()}
    return {name: page for name, page in pages.items() if page is not None}


def drawn(name: str, figure: Callable[[], Plot | None]) -> Drawn | None:
    """What `figure` draws, in the style of all plots; name: of its file."""
    with styled(name):
        plot = figure()
        return None if plot is None else Drawn(as_svg(plot.figure), plot.rows, plot.caption)
