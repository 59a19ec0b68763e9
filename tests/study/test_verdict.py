from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from study.comparison import Comparison, compare
from study.records import Status
from study.spec import Spec
from study.verdict import decide, plan_hash
from tests.study.synthetic import confirm_results, make_contents, make_spec

PAIR = make_spec("arms.sgd={variant: sam, perturb: no_norm}", "verdict.also=[]")
SHAPE = [0.1, -0.1, 0.05, -0.05, 0.02, -0.02]


def only(differences: Sequence[float | Status], spec: Spec = PAIR) -> Comparison:
    """The comparison of sam_on with sam_all, whose runs all reach 90 %, sgd being clearly worse."""
    runs = [d if isinstance(d, str) else 90 + d for d in differences]
    accuracies: dict[str, Sequence[float | Status]] = {
        "sgd": [80.0 + x for x in SHAPE], "sam_all": [90.0] * 6, "sam_on": runs,
    }  # fmt: skip
    found = compare(spec, confirm_results(spec, accuracies))
    return next(c for c in found if (c.arm, c.against) == ("sam_on", "sam_all"))


def shifted(by: float) -> list[float]:
    return [x + by for x in SHAPE]


@pytest.mark.parametrize(
    ("differences", "text"),
    [
        ([0.0] * 6, "identical"),
        (shifted(2), "better"),
        (shifted(-2), "worse"),
        (shifted(0.2), "better by less than the margin"),
        (shifted(-0.2), "worse by less than the margin"),
        (shifted(0.0), "equivalent"),
        ([3.0, -2.0, 1.0, -1.5, 2.0, -1.0], "undecided"),
        ([2.0, 2.0, 2.0, 2.0, 2.0, "failed"], "incomplete"),
        ([2.0] * 5, "incomplete"),
        ([], "incomplete"),
    ],
)
def test_the_first_word_that_applies_is_taken(differences: list[float | Status], text: str) -> None:
    assert only(differences).text == text


@pytest.mark.filterwarnings("error")
def test_equal_differences_decide_and_are_marked_as_without_spread() -> None:
    comparison = only([1.4] * 6)
    assert (comparison.word, comparison.low, comparison.high) == ("better", 1.4, 1.4)
    assert comparison.constant
    assert comparison.sign_flip == comparison.sign_flip_floor == 2 / 2**6


def test_float_noise_below_a_test_image_does_not_make_arms_differ() -> None:
    assert only([1e-13, 0.0, -1e-13, 0.0, 0.0, 0.0]).word == "identical"


def test_table_intervals_are_bonferroni_over_the_family() -> None:
    differences = [0.8, 0.1, 1.4, 0.3, 0.9, 0.4]
    comparison = only(differences)
    expected = scipy.stats.ttest_1samp(differences, 0).confidence_interval(1 - 0.05 / 2)
    assert (comparison.low, comparison.high) == pytest.approx(tuple(expected))


def test_an_incomplete_comparison_still_counts_in_the_correction() -> None:
    spec = make_spec()
    arms = {"sgd": [90.0 + x for x in SHAPE], "sam_all": [90.0] * 6, "sam_on": [90.5, 91.5] * 3}
    alone = scipy.stats.ttest_rel(arms["sam_on"], arms["sam_all"]).pvalue
    arms["sgd"] = arms["sgd"][:5]
    by_name = {(c.arm, c.against): c for c in compare(spec, confirm_results(spec, arms))}
    assert by_name["sam_on", "sam_all"].p == pytest.approx(3 * alone)
    assert by_name["sgd", "sam_all"].word == by_name["sam_on", "sgd"].word == "incomplete"
    assert by_name["sgd", "sam_all"].p is None
    assert by_name["sgd", "sam_all"].n == 5


def test_holm_may_decide_though_the_bonferroni_interval_covers_zero() -> None:
    differences = [0.9, 0.1, 1.5, 0.0, 1.2, 0.9]
    raw = scipy.stats.ttest_1samp(differences, 0).pvalue
    assert 0.05 / 2 < raw < 0.05
    comparison = only([d * 3 for d in differences])
    assert comparison.word == "better"
    assert comparison.only_by_holm


def test_an_arm_with_a_seed_offset_is_compared_by_welch_and_says_so() -> None:
    spec = make_spec("arms.sam_on.seed_offset=1000")
    arms = {"sgd": [88.0] * 6, "sam_all": [90.0, 91, 90, 91, 90, 91], "sam_on": [94.0, 93] * 3}
    by_name = {(c.arm, c.against): c for c in compare(spec, confirm_results(spec, arms))}
    welch = by_name["sam_on", "sam_all"]
    raw = scipy.stats.ttest_ind(arms["sam_on"], arms["sam_all"], equal_var=False)
    low, high = raw.confidence_interval(1 - 0.05 / 3)
    assert (welch.paired, welch.sign_flip, welch.differences) == (False, None, {})
    assert (welch.low, welch.high) == pytest.approx((low, high))
    assert by_name["sgd", "sam_all"].paired
    assert "unpaired" in decide(spec, confirm_results(spec, arms)).sentence


def test_diverged_runs_count_and_the_verdict_is_also_given_without_them() -> None:
    arms: dict[str, list[float | Status]] = {
        "sgd": [80.0 + x for x in SHAPE],
        "sam_all": [90.0] * 6,
        "sam_on": ["diverged", *[92.0 + x for x in SHAPE[1:]]],
    }
    verdict = decide(PAIR, confirm_results(PAIR, arms))
    assert verdict.complete
    with_it = verdict.comparisons[-1]
    assert (with_it.word, with_it.n, with_it.diverged) == ("undecided", 6, (0,))
    assert with_it.difference == pytest.approx((-80 + 5 * 2 + sum(SHAPE[1:])) / 6)
    assert verdict.without_diverged is not None
    without = verdict.without_diverged[-1]
    assert (without.word, without.n) == ("better", 5)
    assert verdict.plain()["without_diverged"][-1]["word"] == "better"


def test_an_arm_that_always_diverged_leaves_nothing_to_compare_without_it() -> None:
    comparison = only(["diverged"] * 6)
    assert (comparison.word, comparison.difference) == ("worse", -80)
    arms: dict[str, list[float | Status]] = {
        "sgd": [80.0] * 6, "sam_all": [90.0] * 6, "sam_on": ["diverged"] * 6,
    }  # fmt: skip
    without = decide(PAIR, confirm_results(PAIR, arms)).without_diverged
    assert without is not None
    assert (without[-1].word, without[-1].p, without[-1].n) == ("undecided", None, 0)


def test_without_diverged_runs_nothing_is_said_without_them() -> None:
    verdict = decide(PAIR, confirm_results(PAIR, {"sgd": [80.0] * 6, "sam_all": [90.0] * 6}))
    assert verdict.without_diverged is None
    assert "without_diverged" not in verdict.plain()


DIFFERENCES = st.lists(st.floats(-5, 5).map(lambda x: round(x, 3)), min_size=6, max_size=6)
MIRRORED = {"better": "worse", "worse": "better"}


@settings(deadline=None)
@given(DIFFERENCES)
def test_swapping_the_arms_mirrors_the_comparison(differences: list[float]) -> None:
    swapped = make_spec(
        "arms.sgd={variant: sam, perturb: no_norm}", "verdict.also=[]", "verdict.baseline=sam_on"
    )
    runs = {"sam_all": [90.0] * 6, "sam_on": [90.0 + d for d in differences]}
    # sgd never ends, so that its comparisons weigh the same on either side.
    (_, one), (_, other) = (
        compare(PAIR, confirm_results(PAIR, runs)),
        compare(swapped, confirm_results(swapped, runs)),
    )
    assert (one.arm, one.against) == (other.against, other.arm)
    assert other.word == MIRRORED.get(one.word, one.word)
    assert one.difference is not None
    assert other.difference == pytest.approx(-one.difference)
    assert (other.low, other.high) == pytest.approx((-(one.high or 0), -(one.low or 0)))
    assert (other.p, other.p_equivalence) == (one.p, one.p_equivalence)
    assert (other.sign_flip, other.within_margin) == (one.sign_flip, one.within_margin)


@settings(deadline=None)
@given(DIFFERENCES, st.floats(0.01, 3), st.floats(0.01, 3))
def test_a_wider_margin_never_takes_equivalence_away(
    differences: list[float], first: float, second: float
) -> None:
    narrow, wide = (
        only(differences, make_spec("verdict.also=[]", f"verdict.equivalence_margin={margin}"))
        for margin in sorted((first, second))
    )
    assert (wide.p_equivalence or 0) <= (narrow.p_equivalence or 0)
    assert wide.within_margin or not narrow.within_margin
    if narrow.word == "equivalent":
        assert wide.word == "equivalent"
    if narrow.word != wide.word:
        assert (narrow.word, wide.word) == ("undecided", "equivalent")


def test_under_the_null_the_family_errs_about_as_often_as_planned() -> None:
    # Differences share the baseline's noise, as those of a study do. The exact rate for three
    # correlated comparisons lies a little below alpha = 0.05; 1,000 studies know it to +-0.02.
    spec, generator = make_spec("verdict.confidence=0.95"), np.random.default_rng(5)
    wrong = 0
    for _ in range(1000):
        runs = {arm: list(90 + generator.normal(0, 0.3, 6)) for arm in spec.arms}
        words = [c.word for c in compare(spec, confirm_results(spec, runs))]
        wrong += "better" in words or "worse" in words
    assert 0.02 <= wrong / 1000 <= 0.07


def test_arms_that_differ_by_the_margin_are_seldom_called_equivalent() -> None:
    spec, generator = make_spec("verdict.equivalence_margin=0.5"), np.random.default_rng(6)
    wrong = 0
    for _ in range(1000):
        noise = {arm: generator.normal(0, 0.05, 6) for arm in spec.arms}
        means = {"sgd": 89.5, "sam_all": 90.0, "sam_on": 90.5}
        runs = {arm: list(means[arm] + noise[arm]) for arm in spec.arms}
        found = compare(spec, confirm_results(spec, runs))
        wrong += any(c.p_equivalence is not None and c.p_equivalence <= 0.05 for c in found)
    assert wrong / 1000 <= 0.07


def test_the_sentence_puts_what_was_decided_first_and_says_what_it_rests_on() -> None:
    spec = make_spec()
    arms = {
        "sgd": [90.0 + d for d in (3.0, -2.0, 1.0, -1.5, 2.0, -1.0)],
        "sam_all": [90.0] * 6,
        "sam_on": [92.0 + x for x in SHAPE],
    }
    sentence = decide(spec, confirm_results(spec, arms)).sentence
    assert sentence.startswith(
        "sam_on tests better than sam_all by 2.00 percentage points "
        "(95 % simultaneous interval +1.90 to +2.10); "
    )
    assert "sgd and sam_all can neither be told apart nor called equivalent" in sentence
    assert sentence.endswith(
        "for the configurations that this search chose, on this test set, "
        "with lr and weight decay fixed for all arms."
    )


@pytest.mark.parametrize(
    ("assignments", "end"),
    [
        (["search.lr={low: 0.01, high: 1.0, log: true}"], "with weight decay fixed for all arms."),
        (
            ["search.lr={low: 0.01, high: 1.0, log: true}", "search.weight_decay={choices: [0.0]}"],
            "on this test set.",
        ),
        (
            ["arms.sam_on.search={lr: {low: 0.01, high: 1.0, log: true}}"],
            "with lr fixed for sgd, sam_all and weight decay fixed for all arms.",
        ),
    ],
)
def test_the_sentence_does_not_call_fixed_what_was_tuned(assignments: list[str], end: str) -> None:
    assert decide(make_spec(*assignments), []).sentence.endswith(end)


def test_before_the_confirm_stage_nothing_is_concluded() -> None:
    verdict = decide(make_spec(), [])
    assert not verdict.complete
    assert verdict.sentence.startswith("Nothing can be concluded where pairs are missing: sgd")
    assert "a verdict would hold for" in verdict.sentence


def test_runs_beyond_the_planned_seeds_do_not_count() -> None:
    assert only([*shifted(2), -50.0]).n == 6


def test_the_order_of_the_records_does_not_matter() -> None:
    spec = make_spec()
    results = make_contents(spec).results
    assert decide(spec, results[::-1]).plain() == decide(spec, results).plain()


def test_plain_is_json_without_nan_time_or_path() -> None:
    spec = make_spec()
    plain = decide(spec, make_contents(spec).results).plain()
    text = json.dumps(plain, sort_keys=True, allow_nan=False)
    assert plain["complete"] is True
    assert plain["spec_hash"] == spec.hash
    assert set(plain["arms"]) == set(spec.arms)
    assert plain["arms"]["sam_on"]["hyperparameters"].keys() == {"rho"}
    assert "seconds" not in text
    assert "2023" not in text


def test_the_plan_hash_covers_what_decides_the_analysis_and_nothing_else() -> None:
    plan = plan_hash(make_spec())
    assert len(plan) == 64
    assert plan_hash(make_spec("question=other", "workload.epochs=9")) == plan
    for change in (
        "confirm.seeds=7",
        "tune.seed=1",
        "verdict.confidence=0.9",
        "verdict.equivalence_margin=1",
        "verdict.also=[]",
        "verdict.baseline=sgd",
        "arms.sgd.seed_offset=5",
    ):
        extra = ["verdict.also=[]"] if change.endswith("=sgd") else []
        assert plan_hash(make_spec(change, *extra)) != plan, change
