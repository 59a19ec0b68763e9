from __future__ import annotations

import math
import statistics

import pytest

from study import analysis
from study.analysis import ArmSummary
from study.records import Trial
from study.spec import Spec
from tests.study.synthetic import hill, make_contents, make_spec


def summary(spec: Spec, arm: str, upto: int | None = None) -> ArmSummary:
    results = make_contents(spec, upto=upto).results
    return next(s for s in analysis.summarize(spec, results) if s.arm == arm)


def at(arm: str, index: int) -> float:
    """rho of a search trial: all arms draw the same positions of their ranges."""
    results = make_contents(make_spec()).results
    return float(analysis.of_arm(results, arm, "search")[index].trial.hyperparameters["rho"])


def test_a_sample_ignores_what_is_not_finite_and_has_no_deviation_of_one_number() -> None:
    three = analysis.sample([1.0, math.nan, 2.0, 6.0])
    assert three == analysis.Sample(3.0, statistics.stdev([1, 2, 6]), 3)
    assert three.error == statistics.stdev([1, 2, 6]) / math.sqrt(3)
    assert math.isnan(analysis.sample([4.0]).deviation)  # type: ignore[union-attr]
    assert analysis.sample([math.nan]) is None


def test_an_arm_with_nothing_to_tune_reports_mean_and_deviation_and_never_the_maximum() -> None:
    spec = make_spec()
    results = make_contents(spec).results
    scores = [
        r.end.scores["validation_accuracy"] for r in analysis.of_arm(results, "sgd", "search")
    ]
    found = summary(spec, "sgd")
    assert found.chosen == {}
    assert found.validation == analysis.Sample(statistics.mean(scores), statistics.stdev(scores), 4)
    assert statistics.mean(scores) < max(scores)


def test_a_tuned_arm_reports_the_search_trial_that_was_chosen() -> None:
    spec = make_spec()
    results = make_contents(spec).results
    search = analysis.of_arm(results, "sam_on", "search")
    best = max(search, key=lambda r: r.end.scores["validation_accuracy"])
    found = summary(spec, "sam_on")
    assert found.chosen == best.trial.hyperparameters
    assert found.validation is not None
    assert (found.validation.mean, found.validation.n) == (
        best.end.scores["validation_accuracy"],
        1,
    )


def test_cost_share_and_test_accuracy_come_from_the_confirm_trials() -> None:
    found = summary(make_spec(), "sam_on")
    assert found.gradient_evaluations == 3 * 10 * 2
    assert found.seconds_per_epoch == 0.9
    assert found.perturbed_share == 0.6
    assert found.test is not None
    assert found.test.n == 6
    assert found.test.mean == pytest.approx(93.7, abs=0.5)


def test_before_the_confirm_stage_nothing_is_chosen() -> None:
    found = summary(make_spec(), "sam_on", upto=12)
    assert (found.chosen, found.validation, found.test) == (None, None, None)
    assert (found.gradient_evaluations, found.seconds_per_epoch) == (None, None)
    assert found.perturbed_share == 0.6
    assert summary(make_spec(), "sam_on", upto=0).perturbed_share is None


def test_diverged_and_failed_trials_are_counted_per_stage_and_named() -> None:
    spec = make_spec()

    def truth(trial: Trial) -> float:
        lost = trial.name in ("tiny/sam_on/search/1", "tiny/sam_on/confirm/0")
        return math.nan if lost else hill(trial)

    contents = make_contents(
        spec, truth, failed=["tiny/sgd/confirm/1", "tiny/sgd/confirm/2", "tiny/sam_on/search/3"]
    )
    arms = analysis.summarize(spec, contents.results)
    sgd, _, sam_on = arms
    assert (sgd.failed, sgd.diverged) == ({"search": 0, "confirm": 2}, {"search": 0, "confirm": 0})
    assert sam_on.failed["search"] == sam_on.diverged["search"] == sam_on.diverged["confirm"] == 1
    assert sam_on.gradient_evaluations == 60, "a run cut short must not make the arm look cheap"
    texts = analysis.warnings(spec, arms)
    assert "sgd: 2 confirm trials failed." in texts
    assert "sam_on: 1 search trial diverged." in texts
    assert "sam_on: 1 confirm trial diverged, counted with chance accuracy." in texts


def edges(spec: Spec, peak: float) -> tuple[str, ...]:
    """The edge warnings of sam_on when accuracy peaks at this rho."""

    def truth(trial: Trial) -> float:
        rho = trial.hyperparameters.get("rho")
        return 90.0 if rho is None else 90 - math.log(float(rho) / peak) ** 2

    results = make_contents(spec, truth, noise=0).results
    return analysis.summarize(spec, results)[-1].at_edge


def test_a_best_value_at_either_end_of_what_was_tried_is_told() -> None:
    (low,), (high,) = edges(make_spec(), 0.1), edges(make_spec(), 5.0)
    assert "lies at the low edge of what was tried (range 0.1 to 5); lower values" in low
    assert "lies at the high edge of what was tried (range 0.1 to 5); higher values" in high
    inner = sorted(at("sam_on", i) for i in range(4))[1]
    assert edges(make_spec(), inner) == ()


def test_configurations_that_one_seed_cannot_tell_from_the_chosen_one_are_counted() -> None:
    def told(spec: Spec, scores: list[float]) -> tuple[int, list[str]]:
        def truth(trial: Trial) -> float:
            if trial.arm != "sam_on":
                return 80.0 - 10 * trial.index
            return scores[trial.index]

        arms = analysis.summarize(spec, make_contents(spec, truth, noise=0).results)
        texts = [t for t in analysis.warnings(spec, arms) if t.startswith("One search seed")]
        return arms[-1].rivals, texts

    # 300 images, 90 %: the standard error of a difference is 100 sqrt(2 x 0.9 x 0.1 / 300) = 2.45.
    spec = make_spec("tune.trials_per_arm=4", "confirm.seeds=4")
    rivals, [text] = told(spec, [90.0, 87.6, 87.5, 89.9])
    assert rivals == 2
    assert text == (
        "One search seed with 300 validation images cannot tell what it chose from other "
        "configurations within a standard error (sam_on 2): another seed may choose another, and a "
        "word of the verdict may change; tune.search_seeds runs each on several."
    )
    assert told(spec, [90.0, 80.0, 70.0, 60.0]) == (0, [])
    # On four seeds each, as many images again: 1.22.
    several = spec.model_copy(update={"tune": spec.tune.model_copy(update={"search_seeds": 4})})
    assert told(several, [90.0, 88.9, 88.7, 89.9]) == (2, [])


def test_choices_have_edges_too_unless_there_are_only_two() -> None:
    three = make_spec(
        "arms.sam_on.search={rho: {choices: [0.1, 0.5, 2.0]}}", "arms.sam_on.trials=8"
    )
    assert "3 choices" in edges(three, 2.0)[0]
    assert edges(three, 0.5) == ()
    two = make_spec("arms.sam_on.search={rho: {choices: [0.1, 0.5]}}", "arms.sam_on.trials=8")
    assert edges(two, 0.5) == ()


def test_unit_positions_follow_the_scale_of_the_range() -> None:
    span = make_spec().arms["sam_on"].search["rho"]
    assert analysis.unit(span, 0.1) == 0
    assert analysis.unit(span, math.sqrt(0.1 * 5)) == pytest.approx(0.5)
    assert analysis.unit(span.model_copy(update={"log": False}), 2.55) == pytest.approx(0.5)


def test_a_borrowed_range_is_named() -> None:
    spec = make_spec()
    arm = spec.arms["sam_on"]
    span = arm.search["rho"].model_copy(update={"borrowed": True})
    arms = {**spec.arms, "sam_on": arm.model_copy(update={"search": {"rho": span}})}
    texts = analysis.warnings(spec.model_copy(update={"arms": arms}), ())
    assert texts == [
        "sam_on: the suggested range of rho for sam on norm is borrowed from the subset norm."
    ]


def test_approximate_arms_are_named_with_what_makes_them_so() -> None:
    spec = make_spec(
        "arms.quarter={variant: fsam, perturb: norm, ascent_precision: bfloat16, every: 5}",
        "arms.own={variant: sam, ascent: previous, search: {every: {choices: [1, 2]}}}",
        "arms.few={variant: asam, perturb: norm, ascent: 'fraction:0.25'}",
        "arms.momentum={variant: msam, search: {rho: {low: 1, high: 2}}}",
    )
    results = make_contents(spec).results
    summaries = analysis.summarize(spec, results)
    chosen = next(arm.chosen for arm in summaries if arm.arm == "own")
    assert chosen is not None
    own = {1: "", 2: ", perturbed in one of 2 steps"}[int(chosen["every"])]
    texts = analysis.remarks(spec, summaries, results)
    assert [text for text in texts if text.startswith("Approximate")] == [
        "Approximate: quarter (ascent in bfloat16, perturbed in one of 5 steps), own (ascent along "
        f"the gradient of the step before{own}), few (ascent on 0.25 of the batch). Other arms "
        "compute what their formula says."
    ]
    exact = make_spec()
    texts = analysis.remarks(exact, (), make_contents(exact).results)
    assert not [text for text in texts if "pproximate" in text]
