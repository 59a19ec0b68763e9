"""Learning curves of the confirm stage."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from study import analysis
from study.analysis import Sample
from study.plots import style
from study.plots.style import Plot
from study.records import Result, Value
from study.rounds import Round

_METRICS = {"validation_accuracy": "validation accuracy, %", "train_loss": "train loss"}
_CAPTION = (
    "Confirm stage, the chosen configurations: mean over seeds ({n}), with a band of one "
    "standard deviation. Runs that did not reach the end are left out."
)
_MARKS = 7  # markers a line

Curve = Mapping[int, Sample]
"""Mean and deviation over seeds by epoch."""


def plot(judged: Round) -> Plot | None:
    """Validation accuracy and train loss over the epochs: the mean over seeds and a band of one
    standard deviation."""
    confirm = {
        arm: [
            run
            for run in analysis.of_arm(judged.results, arm, "confirm")
            if run.end.status == "finished"
        ]
        for arm in judged.spec.arms
    }
    curves = {arm: {name: _curve(runs, name) for name in _METRICS} for arm, runs in confirm.items()}
    curves = {arm: each for arm, each in curves.items() if any(each.values())}
    if not curves:
        return None
    look = style.looks(list(judged.spec.arms))
    figure, panels = style.new(4.4, len(_METRICS), legend=list(curves), sharex=True)
    for axes, (name, title) in zip(panels, _METRICS.items(), strict=True):
        for i, (arm, each) in enumerate(curves.items()):
            curve = each[name]
            every = max(1, len(curve) // _MARKS)
            means = [sample.mean for sample in curve.values()]
            # of one seed there is no deviation, and no band
            spreads = [s.deviation if s.n > 1 else 0 for s in curve.values()]
            axes.plot(
                list(curve), means, color=look[arm].colour, linestyle=look[arm].line,
                marker=look[arm].marker, markersize=4.5, linewidth=1.5,
                markevery=(i * every // len(curves), every), label=arm,
            )  # fmt: skip
            axes.fill_between(
                list(curve),
                [mean - spread for mean, spread in zip(means, spreads, strict=True)],
                [mean + spread for mean, spread in zip(means, spreads, strict=True)],
                color=look[arm].colour, alpha=0.13, linewidth=0,
            )  # fmt: skip
        axes.set_ylabel(title)
    panels[-1].set_xlabel("epoch")
    style.put_legend(panels[0])
    counts = [len(confirm[arm]) for arm in curves]
    return Plot(figure, _rows(curves), _CAPTION.format(n=style.n_text(counts)))


def _curve(runs: Sequence[Result], name: str) -> Curve:
    by_epoch: dict[int, list[float]] = {}
    for run in runs:
        for epoch in run.epochs:
            by_epoch.setdefault(epoch.epoch, []).append(epoch.metrics.get(name, math.nan))
    samples = {epoch: analysis.sample(by_epoch[epoch]) for epoch in sorted(by_epoch)}
    return {epoch: sample for epoch, sample in samples.items() if sample is not None}


def _rows(curves: Mapping[str, Mapping[str, Curve]]) -> list[dict[str, Value]]:
    """A row an arm and epoch."""
    rows: list[dict[str, Value]] = []
    for arm, each in curves.items():
        for epoch in sorted({epoch for curve in each.values() for epoch in curve}):
            row: dict[str, Value] = {"arm": arm, "epoch": epoch}
            for name, curve in each.items():
                sample = curve.get(epoch)
                row[name] = "" if sample is None else sample.mean
                row[f"{name}_deviation"] = (
                    "" if sample is None or sample.n == 1 else sample.deviation
                )
                row[f"{name}_n"] = 0 if sample is None else sample.n
            rows.append(row)
    return rows
