from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from study import stats
from tests.reference import verdict as reference

NUMBERS = st.floats(-20, 20).map(lambda x: round(x, 4))
SAMPLES = st.lists(NUMBERS, min_size=3, max_size=9).filter(lambda x: np.std(x) > 1e-3)
P_VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=8)


@given(SAMPLES)
def test_paired_t_agrees_with_scipy(differences: list[float]) -> None:
    estimate = stats.paired(differences)
    other = scipy.stats.ttest_1samp(differences, 0)
    assert stats.p_difference(estimate) == pytest.approx(other.pvalue, rel=1e-6, abs=1e-12)
    low, high = stats.interval(estimate, 0.98)
    assert (low, high) == pytest.approx(tuple(other.confidence_interval(0.98)), rel=1e-7, abs=1e-9)


def test_differences_of_pairs_agree_with_scipys_related_samples() -> None:
    a, b = [91.0, 92.5, 90.2, 93.3], [90.5, 91.0, 90.6, 91.9]
    estimate = stats.paired([x - y for x, y in zip(a, b, strict=True)])
    assert stats.p_difference(estimate) == pytest.approx(scipy.stats.ttest_rel(a, b).pvalue)


@given(SAMPLES, SAMPLES)
def test_welch_agrees_with_scipy(a: list[float], b: list[float]) -> None:
    estimate = stats.welch(a, b)
    other = scipy.stats.ttest_ind(a, b, equal_var=False)
    assert stats.p_difference(estimate) == pytest.approx(other.pvalue, rel=1e-6, abs=1e-12)
    expected = tuple(other.confidence_interval(0.9))
    assert stats.interval(estimate, 0.9) == pytest.approx(expected, rel=1e-6, abs=1e-8)


@given(SAMPLES, st.floats(0.1, 30))
def test_equivalence_is_the_worse_of_two_one_sided_tests(d: list[float], margin: float) -> None:
    found = stats.p_equivalence(stats.paired(d), margin)
    assert found == pytest.approx(reference.two_one_sided_tests(d, margin), rel=1e-6, abs=1e-12)


@given(P_VALUES, st.floats(0.001, 0.5))
def test_holm_rejects_what_the_procedure_rejects(p_values: list[float], alpha: float) -> None:
    adjusted = stats.holm(p_values)
    # Multiplied or divided, p = alpha / m may round to either side.
    if all(abs(p - alpha) > 1e-12 for p in adjusted):
        rejected = [p <= alpha for p in adjusted]
        assert rejected == reference.holm_rejections(p_values, alpha)


@given(P_VALUES)
def test_holm_keeps_the_order_and_never_makes_a_p_value_smaller(p_values: list[float]) -> None:
    pairs = sorted(zip(p_values, stats.holm(p_values), strict=True))
    adjusted = [a for _, a in pairs]
    assert adjusted == sorted(adjusted)
    assert all(p <= a <= 1 for p, a in pairs)
    assert adjusted[0] == min(1, len(pairs) * pairs[0][0])


@given(st.lists(NUMBERS, min_size=1, max_size=9))
def test_sign_flip_agrees_with_enumeration(differences: list[float]) -> None:
    p, floor = stats.sign_flip(differences)
    assert p == pytest.approx(reference.sign_flip(differences))
    assert floor == 2 / 2 ** len(differences)


def test_sign_flip_reaches_its_floor_when_all_signs_agree() -> None:
    assert stats.sign_flip([0.1, 0.2, 0.3, 0.4]) == (0.125, 0.125)


def test_sign_flip_of_twenty_pairs_is_exact_and_of_more_is_close_to_the_t_test() -> None:
    differences = list(np.random.default_rng(1).normal(0.4, 1, 30))
    assert stats.sign_flip([1.0] * 20)[0] == 2**-19
    p, floor = stats.sign_flip(differences)
    assert p == pytest.approx(stats.p_difference(stats.paired(differences)), abs=0.01)
    assert floor == 1 / (2**16 + 1)
    assert stats.sign_flip(differences) == (p, floor)


@settings(deadline=None, max_examples=8)
@given(SAMPLES)
def test_improvement_is_the_share_of_new_pairs_that_the_differences_predict(
    differences: list[float],
) -> None:
    predicted, share = stats.improvement(differences)
    assert predicted == pytest.approx(reference.improvement(differences), abs=0.004)
    assert share == np.mean([0.5 if d == 0 else d > 0 for d in differences])


@pytest.mark.filterwarnings("error")
def test_improvement_without_spread_is_a_limit_and_a_tie_counts_half() -> None:
    assert stats.improvement([0.3, 0.3]) == (1, 1)
    assert stats.improvement([-0.3, -0.3]) == (0, 0)
    assert stats.improvement([0.0, 0.0, 0.0]) == (0.5, 0.5)
    assert stats.improvement([0.0, 1.0])[1] == 0.75


@pytest.mark.parametrize("n", [10, 25])
def test_the_bootstrap_interval_agrees_with_efrons_formula(n: int) -> None:
    differences = list(np.random.default_rng(n).exponential(1, n))
    found = stats.bootstrap(differences, 0.95)
    assert found == pytest.approx(reference.bca(differences, 0.95), abs=0.05)
    assert found == stats.bootstrap(differences, 0.95)


@pytest.mark.filterwarnings("error")
def test_the_bootstrap_of_pairs_without_spread_or_with_one_that_diverged_is_finite() -> None:
    assert stats.bootstrap([0.3] * 10, 0.95) == (0.3, 0.3)
    found = stats.bootstrap([-80.0, *[0.1] * 9], 0.95)
    assert found is not None
    assert -80 <= found[0] < found[1] <= 0.1


@given(st.lists(NUMBERS, min_size=3, max_size=9))
def test_leaving_one_out_is_the_estimate_of_the_others(differences: list[float]) -> None:
    for i, found in enumerate(stats.leave_one_out(differences)):
        expected = stats.paired(differences[:i] + differences[i + 1 :])
        assert found.mean == pytest.approx(expected.mean, rel=1e-12, abs=1e-15)
        assert found.error == pytest.approx(expected.error, rel=1e-12)
        assert found.freedom == expected.freedom
    assert stats.leave_one_out([1.4, 1.4, 1.4, 0.2])[3] == stats.Estimate(1.4, 0, 2)


@pytest.mark.filterwarnings("error")
def test_differences_without_spread_give_limits_and_no_nan() -> None:
    constant = stats.paired([0.3, 0.3, 0.3])
    assert stats.p_difference(constant) == 0
    assert stats.interval(constant, 0.95) == (0.3, 0.3)
    assert stats.p_equivalence(constant, 0.5) == 0
    assert stats.p_equivalence(constant, 0.2) == 1
    nothing = stats.paired([0.0, 0.0])
    assert stats.p_difference(nothing) == 1
    assert stats.p_equivalence(nothing, 0.5) == 0
    assert stats.welch([1.0, 1.0], [3.0, 3.0]) == stats.Estimate(-2, 0, 2)
