"""The numbers beside a plot are those that it draws; n, intervals and outliers are told."""

from __future__ import annotations

import csv
import io
import math
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from study import plots, stats, tables
from study.plots import FIGURES, cost, style
from study.plots.style import Plot
from study.records import Measured, Measurement, Result, Trial
from study.rounds import Round, judge
from tests.study.synthetic import hill, make_contents, make_spec

SPEC = make_spec()
ARMS = list(SPEC.arms)


def judged(truth: Any = hill, *assignments: str, **more: Any) -> Round:
    spec = make_spec(*assignments)
    contents = make_contents(spec, truth, **more)
    [planned] = judge([spec], replace(contents, measurements=measured(contents.results)))
    return planned


def measured(results: Sequence[Result]) -> tuple[Measurement, ...]:
    """The larger the seed the flatter, in every arm; sam_on is the sharpest."""
    return tuple(
        Measurement(
            r.trial.name,
            "sharpness",
            None,
            tuple(
                Measured("worst_l2_adaptive", "all", at, at * sharpness(r.trial))
                for at in (0.5, 0.25)
            ),
            1.0,
        )
        for r in results
        if r.trial.stage == "confirm" and r.end.status == "finished"
    )


def sharpness(trial: Trial) -> float:
    return (2.0 if trial.arm == "sam_on" else 1.0) + (100_010 - trial.seed) / 100


def crossed(trial: Trial) -> float:
    """sam_on diverges in one run of the confirm stage, and at large rho in the search."""
    lost = trial.name == "tiny/sam_on/confirm/2"
    far = trial.stage == "search" and float(trial.hyperparameters.get("rho", 0)) > 1.5
    return math.nan if lost or far else hill(trial)


def plot(name: str, of: Round) -> Plot:
    with style.styled(name):
        drawn = FIGURES[name](of)
    assert drawn is not None
    return drawn


def rows(plot: Plot, **where: Any) -> list[Mapping[str, Any]]:
    return [row for row in plot.rows if all(row[key] == value for key, value in where.items())]


def lines(plot: Plot, label: str, panel: int = 0) -> list[tuple[float, float]]:
    """The points of the line with this label."""
    axes = plot.figure.axes[panel]
    [line] = [line for line in axes.get_lines() if line.get_label() == label]
    return [(float(x), float(y)) for x, y in np.asarray(line.get_xydata())]


def test_every_figure_has_numbers_a_caption_with_n_and_the_same_bytes_again() -> None:
    first, again = plots.draw(judged(crossed)), plots.draw(judged(crossed))
    assert list(first) == list(FIGURES)
    assert first == again
    for name, each in first.items():
        read = list(csv.DictReader(io.StringIO(tables.as_csv(each.rows))))
        assert len(read) == len(each.rows) > 0, name
        assert {row["arm"] for row in read} <= set(ARMS), name
        assert re.search(r"n = \d|\bn: ", each.caption), name
        told = "".join(each.rows[0])
        assert ("seconds" in told) == (name == "cost"), name


@pytest.mark.parametrize("upto", [0, 3, 9, 13])
@pytest.mark.filterwarnings("error")
def test_what_is_not_there_yet_is_not_drawn(upto: int) -> None:
    early = judged(upto=upto)
    known = {0: set(), 3: set(), 9: {"rho", "best"}, 13: set(FIGURES) - {"differences"}}
    assert set(plots.draw(early)) == known[upto]


def test_differences_are_those_of_the_verdict() -> None:
    of = judged()
    drawn = plot("differences", of)
    for c in of.verdict.comparisons:
        pairs = rows(drawn, arm=c.arm, against=c.against, what="pair")
        assert {row["index"]: row["difference"] for row in pairs} == c.differences
        [mean] = rows(drawn, arm=c.arm, against=c.against, what="mean")
        assert (mean["difference"], mean["low"], mean["high"], mean["n"]) == (
            c.difference, c.low, c.high, 6,
        )  # fmt: skip


def test_a_diverged_pair_does_not_stretch_the_axis_but_is_told() -> None:
    of = judged(crossed)
    drawn = plots.draw(of)["differences"]
    low, high = plot("differences", of).figure.axes[0].get_xlim()
    assert -6 < low < high < 6
    c = of.verdict.comparisons[1]
    assert c.low is not None
    assert c.low < -40
    for text in (f"{c.differences[2]:+.2f}", f"[{c.low:+.2f}"):
        assert text.replace("-", "\N{MINUS SIGN}") in drawn.svg
    assert "beyond the axis" in drawn.caption
    assert "beyond the axis" not in plot("differences", judged()).caption


def test_the_points_over_rho_are_the_trials_and_the_bar_is_what_is_near() -> None:
    of = judged(crossed)
    drawn = plot("rho", of)
    finished = rows(drawn, arm="sam_on", what="finished")
    assert [(r["rho"], r["validation_accuracy"]) for r in finished] == lines(drawn, "sam_on")
    near = of.searches.arms[-1].near
    assert near is not None
    [bar] = rows(drawn, arm="sam_on", what="near the best")
    assert (bar["rho"], bar["rho_to"]) == (near.low, near.high)
    assert [near.low, near.high] in [
        np.asarray(x.get_xdata()).tolist() for x in drawn.figure.axes[1].get_lines()
    ]
    assert [r["chosen"] for r in drawn.rows if r["arm"] == "sam_on"].count(True) == 1
    assert len(rows(drawn, arm="sam_on", what="diverged")) == 1
    [level] = rows(drawn, what="no rho")
    assert (level["arm"], level["n"]) == ("sgd", 4)


def test_curves_are_means_over_the_runs_that_reached_the_end() -> None:
    of = judged(crossed)
    drawn = plot("curves", of)
    runs = [
        r
        for r in of.results
        if (r.trial.arm, r.trial.stage, r.end.status) == ("sam_on", "confirm", "finished")
    ]
    assert len(runs) == 5
    for row in rows(drawn, arm="sam_on"):
        values = [r.epochs[row["epoch"] - 1].metrics["train_loss"] for r in runs]
        assert row["train_loss"] == pytest.approx(statistics.mean(values))
        assert row["train_loss_deviation"] == pytest.approx(statistics.stdev(values))
        assert row["train_loss_n"] == 5
    points = [(row["epoch"], row["validation_accuracy"]) for row in rows(drawn, arm="sam_on")]
    assert points == lines(drawn, "sam_on")
    assert "n = 5 to 6" in drawn.caption


def test_the_best_of_k_is_that_of_the_search() -> None:
    of = judged()
    drawn = plot("best", of)
    for search in of.searches.arms[1:]:
        points = [(r["trials"], r["validation_accuracy"]) for r in rows(drawn, arm=search.arm)]
        assert points == lines(drawn, search.arm) == [*enumerate(search.best, 1)]
    assert "approximate" in drawn.caption
    assert rows(drawn, arm="sgd") == []


def test_cost_is_that_of_a_training_run_and_the_interval_that_of_the_mean() -> None:
    of = judged(hill, "workload.budget={match: gradient_evaluations, of: sgd}")
    drawn = plot("cost", of)
    sgd, sam_all, sam_on = drawn.rows
    assert (sgd["seconds"], sam_on["seconds"]) == (0.5 * 3, 0.9 * 2)  # 3 epochs, and 1.5 rounded
    for row, arm in zip(drawn.rows, of.verdict.arms, strict=True):
        assert arm.test is not None
        estimate = stats.Estimate(arm.test.mean, arm.test.error, 5)
        assert (row["low"], row["high"]) == stats.interval(estimate, 0.95)
        assert (row["test_accuracy"], row["n"]) == (arm.test.mean, 6)
        assert row["gradient_evaluations"] == arm.gradient_evaluations
    fronts = [row["front_seconds"] for row in (sgd, sam_all, sam_on)]
    assert fronts == [True, False, True]


def test_the_front_holds_what_nothing_beats() -> None:
    points = [(1, 90), (2, 95), (2, 94), (3, 95), (4, 96), (4, 96), (5, 80)]
    assert cost.front(points) == [True, True, False, False, True, True, False]
    assert cost.front([(1.0, 90.0)]) == [True]


def test_markers_are_apart_in_order_and_moved_no_further_than_that_takes() -> None:
    step = 0.035 * 100
    assert cost.apart([100, 50, 50, 60]) == pytest.approx([100, 50 - step / 2, 50 + step / 2, 60])
    chain = cost.apart([100, 93, 95, 97, 20])  # 2 apart where 3.5 are needed
    assert chain[-1] == 20
    assert np.diff(sorted(chain[:-1])) == pytest.approx([step] * 3)
    assert np.mean(chain[:-1]) == pytest.approx(np.mean([100, 93, 95, 97]))
    crowd = cost.apart([100] * 10)
    assert crowd == sorted(crowd)
    assert crowd[-1] - crowd[0] == pytest.approx(9 * step / 2)


def test_means_below_the_axis_of_costs_stand_on_lines_of_their_own() -> None:
    more = ("arms.a={variant: sam}", "arms.b={variant: sam}")
    drawn = plot("cost", judged(lambda t: {"a": 40.0, "b": 30.0}.get(t.arm, hill(t)), *more))
    for axes in drawn.figure.axes:
        low, high = axes.get_ylim()
        told = [text for text in axes.texts if text.get_text()]
        assert [text.get_text().split()[1] for text in told] == ["a", "b"]
        ends = [low + text.get_position()[1] * (high - low) for text in told]
        assert (
            ends[0]
            < ends[1]
            < min(float(row["low"]) for row in drawn.rows if row["arm"] not in ("a", "b"))
        )


def test_an_axis_leaves_out_only_what_would_hide_the_rest() -> None:
    assert style.window([(-1, 1), (-2, 2)]) == pytest.approx((-2.24, 2.24))
    assert style.window([(-1, 1), (0, 2), (-60, 20)]) == pytest.approx((-1.18, 2.18))
    assert style.window([(-60, 20)]) == pytest.approx((-64.8, 24.8))
    assert style.window([(89, 91), (90, 92), (20, 80)], middle=90) == pytest.approx((88.82, 92.18))
    assert style.window([(0, 0), (0, 0)]) == (-0.5, 0.5)
    assert style.window([(0, 0.01), (0, 1)], floor=0.5) == pytest.approx((-0.06, 1.06))


def test_arms_differ_without_colour_too() -> None:
    looks = style.looks([str(i) for i in range(16)])
    assert len({(look.marker, look.line) for look in looks.values()}) == 16
    assert len({(look.colour, look.marker) for look in looks.values()}) == 16


def test_sharpness_is_drawn_at_the_smallest_radius_with_rank_correlations() -> None:
    of = judged()
    drawn = plot("sharpness", of)
    for row in drawn.rows:
        [r] = [r for r in of.results if r.trial.stage == "confirm"
               and (r.trial.arm, r.trial.seed) == (row["arm"], row["seed"])]  # fmt: skip
        assert row["test_accuracy"] == r.end.scores["test_accuracy"]
        assert row["worst_l2_adaptive_all"] == 0.25 * sharpness(r.trial)
    [axes] = drawn.figure.axes
    every = [(float(r["worst_l2_adaptive_all"]), float(r["test_accuracy"])) for r in drawn.rows]
    within = [kendall([p for p, row in zip(every, drawn.rows, strict=True) if row["arm"] == arm])
              for arm in ARMS]  # fmt: skip
    told = f"{kendall(every):+.2f} ({statistics.fmean(within):+.2f})".replace("-", style.MINUS)
    assert axes.get_xlabel().endswith(f"= {told}")


def kendall(points: Sequence[tuple[float, float]]) -> float:
    """Concordant less discordant pairs, over the root of the pairs not tied in either."""
    signs = [
        (np.sign(x - u), np.sign(y - v)) for i, (x, y) in enumerate(points) for u, v in points[:i]
    ]
    untied = [sum(a != 0 for a, _ in signs), sum(b != 0 for _, b in signs)]
    return float(sum(a * b for a, b in signs) / math.sqrt(untied[0] * untied[1]))
