from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from study import power, stats
from tests.reference import power as reference

NUMBERS = st.floats(-20, 20).map(lambda x: round(x, 4))


@pytest.mark.parametrize("freedom", [1, 2, 4.7, 7, 15, 1000])
@pytest.mark.parametrize("alpha", [0.3, 0.05, 0.05 / 12])
def test_power_agrees_with_integration_also_where_scipys_series_ends(
    freedom: float, alpha: float
) -> None:
    for effect in (0, 0.3, 1, 2.5, 5, 8, 20, 40):
        found = power.power(effect, freedom, alpha)
        assert found == pytest.approx(reference.power(effect, freedom, alpha), abs=1e-6)
    assert power.power(0, freedom, alpha) == pytest.approx(alpha)


@pytest.mark.parametrize("n", [2, 3, 5, 16])
@pytest.mark.parametrize("alpha", [0.05, 0.05 / 4])
def test_the_detectable_difference_is_found_in_four_of_five_samples(n: int, alpha: float) -> None:
    deviation = 0.7
    estimate = stats.Estimate(0.1, deviation / math.sqrt(n), n - 1)
    found = power.detectable(estimate, alpha, 0.95)
    assert found is not None
    simulated = reference.simulated_power(found.value, deviation, n, alpha)
    assert simulated == pytest.approx(0.8, abs=0.008)  # 4 standard errors of 40,000 samples


@pytest.mark.parametrize("n", [2, 5, 30])
def test_the_interval_of_the_deviation_holds_it_as_often_as_it_says(n: int) -> None:
    factors = power.spread(n - 1, 0.9)
    assert reference.deviation_coverage(factors, n) == pytest.approx(0.9, abs=0.006)


@pytest.mark.parametrize(("deviation", "margin"), [(0.4, 0.5), (1.0, 0.5), (0.3, 0.05)])
def test_the_seeds_needed_are_the_fewest_that_reach_the_power(
    deviation: float, margin: float
) -> None:
    n = 6
    estimate = stats.Estimate(0.0, deviation / math.sqrt(n), n - 1)
    found = power.seeds_needed(estimate, n, margin, 0.025, 0.95)
    low, high = power.spread(n - 1, 0.95)
    assert found is not None
    for seeds, factor in ((found.low, low), (found.value, 1.0), (found.high, high)):
        assert seeds is not None
        counted = next(
            k
            for k in range(2, power.MOST_SEEDS + 1)
            if power.power(margin * math.sqrt(k) / (factor * deviation), k - 1, 0.025)
            >= power.POWER
        )
        assert seeds == counted
    if found.value is not None and found.value < 100:
        simulated = reference.simulated_power(margin, deviation, found.value, 0.025)
        assert simulated >= 0.8 - 0.008


def test_more_seeds_than_a_study_may_have_are_not_a_number() -> None:
    found = power.seeds_needed(stats.Estimate(0.0, 5.0, 1), 2, 0.5, 0.05, 0.95)
    assert found == power.Seeds(1572, 315, None)


def test_unpaired_arms_need_the_seeds_that_textbooks_give_for_two_samples() -> None:
    welch = power.seeds_needed(stats.Estimate(0.0, math.sqrt(2 / 6), 10), 6, 1.0, 0.05, 0.95)
    assert welch is not None
    assert welch.value == 17  # effect size 1, alpha 0.05, power 0.8


def test_without_any_spread_nothing_is_said_of_power() -> None:
    assert power.detectable(stats.Estimate(0.3, 0.0, 5), 0.05, 0.95) is None
    assert power.seeds_needed(stats.Estimate(0.3, 0.0, 5), 6, 0.5, 0.05, 0.95) is None


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 60), st.floats(1e-6, 50), st.floats(1e-4, 0.45), st.floats(0.51, 0.999))
def test_ranges_hold_their_value_and_no_number_is_nan(
    n: int, deviation: float, alpha: float, confidence: float
) -> None:
    estimate = stats.Estimate(0.0, deviation / math.sqrt(n), n - 1)
    found = power.detectable(estimate, alpha, confidence)
    seeds = power.seeds_needed(estimate, n, 0.5, alpha, confidence)
    assert found is not None
    assert seeds is not None
    assert 0 < found.low < found.high < math.inf
    # Of very few pairs at a low confidence the interval of the deviation may lie above the one
    # seen: a small sample shows too little of it more often than too much.
    if n > 3 and confidence > 0.6:
        assert found.low < found.value < found.high
    least, most = seeds.low or math.inf, seeds.high or math.inf
    assert 2 <= least <= most
