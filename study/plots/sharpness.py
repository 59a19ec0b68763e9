"""Whether flatter models are the better ones: the paper's second claim."""

from __future__ import annotations

import math

from study import measures
from study.plots import style
from study.plots.style import Plot
from study.records import Value
from study.rounds import Round

_PANELS = (
    ("worst_l2_adaptive", "all", "worst case, adaptive l2, all parameters"),
    ("worst_l2_adaptive", "norm", "worst case, adaptive l2, normalization parameters"),
    ("hessian_top", "all", "largest eigenvalue of the Hessian"),
)
_CAPTION = (
    "Every confirmed model: test accuracy against its sharpness on training images, at the "
    "smallest radius that was measured. Large: the mean of an arm ({n}). \N{GREEK SMALL LETTER TAU}"
    ": Kendall's rank correlation over all models; in brackets the mean of those over the models "
    "of each arm. If flatter models were the better ones, both would be negative."
)


def plot(judged: Round) -> Plot | None:
    """Test accuracy over sharpness, a point a model."""
    runs = {
        r.trial.name: (r.trial.arm, r.trial.seed, r.end.scores["test_accuracy"])
        for r in judged.results
        if r.trial.stage == "confirm" and r.end.status == "finished"
    }
    found = [
        (f"{measure}_{part}", title, measures.by_trial(judged.measurements, measure, part))
        for measure, part, title in _PANELS
    ]
    panels = [(key, title, of) for key, title, of in found if runs.keys() & of.keys()]
    if not panels:
        return None
    look = style.looks(list(judged.spec.arms))
    there = [arm for arm in judged.spec.arms if any(arm == run[0] for run in runs.values())]
    figure, drawn = style.new(2.7 * len(panels), len(panels), legend=there, squeeze=False)
    for [axes], (_, title, of) in zip(drawn, panels, strict=True):
        inside = {}
        for arm in there:
            points = [
                (of[name], accuracy)
                for name, (its, _, accuracy) in runs.items()
                if its == arm and math.isfinite(of.get(name, math.nan))
            ]
            if not points:
                continue
            inside[arm] = points
            x, y = zip(*points, strict=True)
            its = look[arm]
            axes.plot(x, y, linestyle="none", color=its.colour, marker=its.marker, markersize=3.5)
            axes.plot(
                [sum(x) / len(x)], [sum(y) / len(y)], linestyle="none", label=arm,
                color=its.colour, marker=its.marker, markersize=9, markeredgecolor=style.PAPER,
            )  # fmt: skip
        every = [point for points in inside.values() for point in points]
        if min(x for x, _ in every) > 0:
            axes.set_xscale("log")
        within = [t for points in inside.values() if (t := _tau(points)) is not None]
        told = _told(_tau(every)) + (f" ({_told(sum(within) / len(within))})" if within else "")
        axes.set_xlabel(f"{title}; \N{GREEK SMALL LETTER TAU} = {told}")
        axes.set_ylabel("test accuracy, %")
    style.put_legend(drawn[0][0])
    counts = [sum(run[0] == arm for run in runs.values()) for arm in there]
    rows: list[dict[str, Value]] = []
    for name, (arm, seed, accuracy) in runs.items():
        row: dict[str, Value] = {"arm": arm, "seed": seed, "test_accuracy": accuracy}
        rows.append(row | {key: of.get(name, "") for key, _, of in panels})
    return Plot(figure, rows, _CAPTION.format(n=style.n_text(counts)))


def _tau(points: list[tuple[float, float]]) -> float | None:
    """Kendall's tau-b, None where it is not defined."""
    from scipy.stats import kendalltau

    if len(points) < 3:
        return None
    tau = float(kendalltau(*zip(*points, strict=True)).statistic)
    return tau if math.isfinite(tau) else None


def _told(tau: float | None) -> str:
    return "undefined" if tau is None else f"{tau:+.2f}".replace("-", style.MINUS)
