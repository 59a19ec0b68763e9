"""Pooling against slow and obvious references: a grid of the likelihood, formulas written out."""

from __future__ import annotations

import math
import statistics
from itertools import pairwise
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal, t

from study import pooling
from study.stats import Estimate

MEANS = [2.9, 0.4, 1.7, 3.6, -0.3]
ERRORS = [0.6, 0.5, 0.9, 0.7, 0.4]
VARIANCES = [error**2 for error in ERRORS]

numbers = st.floats(-20, 20).map(lambda x: round(x, 3))
errors = st.floats(0.05, 5).map(lambda x: round(x, 3))
studies = st.lists(st.tuples(numbers, errors), min_size=3, max_size=8)


def estimates(means: list[float], errors: list[float]) -> list[Estimate]:
    return [Estimate(m, e, 7) for m, e in zip(means, errors, strict=True)]


def contrast_likelihood(means: list[float], variances: list[float], between: float) -> float:
    """The restricted likelihood by its definition: the density of k - 1 contrasts of the means,
    which do not depend on the mean effect."""
    k = len(means)
    contrasts = np.eye(k)[1:] - np.eye(k)[:-1]
    covariance = contrasts @ np.diag(np.array(variances) + between) @ contrasts.T
    return float(multivariate_normal(np.zeros(k - 1), covariance).logpdf(contrasts @ means))


def test_the_restricted_likelihood_is_the_density_of_contrasts() -> None:
    taus = [0.0, 0.1, 0.7, 2.0, 9.0]
    ours = [pooling.restricted_likelihood(MEANS, VARIANCES, tau) for tau in taus]
    theirs = [contrast_likelihood(MEANS, VARIANCES, tau) for tau in taus]
    for (a, b), (c, d) in zip(pairwise(ours), pairwise(theirs), strict=True):
        assert a - b == pytest.approx(c - d, abs=1e-9)


def test_reml_is_the_top_of_a_fine_grid() -> None:
    grid = np.linspace(0, 8, 1601)
    best = max(grid, key=lambda tau: contrast_likelihood(MEANS, VARIANCES, float(tau)))
    assert best > 0.5
    assert pooling.reml(MEANS, VARIANCES) == pytest.approx(best, abs=5e-3)


@given(studies)
@settings(max_examples=40, deadline=None)
def test_nothing_on_a_grid_is_more_likely_than_reml(drawn: list[tuple[float, float]]) -> None:
    means, variances = [m for m, _ in drawn], [e**2 for _, e in drawn]
    found = pooling.reml(means, variances)
    top = pooling.restricted_likelihood(means, variances, found)
    for tau in [0, *np.geomspace(1e-6, 1e4, 300)]:
        assert pooling.restricted_likelihood(means, variances, float(tau)) <= top + 1e-6


def test_equal_variances_have_a_closed_form() -> None:
    """With the same variance v in all, REML is max(0, s^2 - v), s^2 the sample variance."""
    assert pooling.reml(MEANS, [0.25] * 5) == pytest.approx(statistics.variance(MEANS) - 0.25)
    assert pooling.reml(MEANS, [9.0] * 5) == 0


def test_hartung_and_knapp_written_out() -> None:
    pooled = pooling.pool(estimates(MEANS, ERRORS))
    tau2 = pooled.tau**2
    w = [1 / (v + tau2) for v in VARIANCES]
    mean = sum(wi * y for wi, y in zip(w, MEANS, strict=True)) / sum(w)
    q = sum(wi * (y - mean) ** 2 for wi, y in zip(w, MEANS, strict=True)) / 4
    error = math.sqrt(max(1, q) / sum(w))
    quantile = float(t.ppf(0.975, 4))
    assert pooled.mean == pytest.approx(mean)
    assert (pooled.low, pooled.high) == pytest.approx(
        (mean - quantile * error, mean + quantile * error)
    )
    wide = float(t.ppf(0.975, 3)) * math.sqrt(tau2 + error**2)
    assert (pooled.expected_low, pooled.expected_high) == pytest.approx((mean - wide, mean + wide))


def test_the_variance_is_never_made_smaller() -> None:
    """Means that agree far better than their errors: the factor of Hartung and Knapp is 1."""
    pooled = pooling.pool(estimates([1.0, 1.01, 0.99], [2.0, 2.0, 2.0]))
    half = float(t.ppf(0.975, 2)) * 2 / math.sqrt(3)
    assert pooled.tau == 0
    assert (pooled.low, pooled.high) == pytest.approx((1 - half, 1 + half))


def test_the_interval_is_longer_where_means_vary_more_than_the_weights_say() -> None:
    means, errs = [0.0, 3.0, 0.1], [0.1, 2.0, 0.1]
    pooled = pooling.pool(estimates(means, errs))
    w = [1 / (e**2 + pooled.tau**2) for e in errs]
    q = sum(wi * (y - pooled.mean) ** 2 for wi, y in zip(w, means, strict=True)) / 2
    assert q > 1
    half = float(t.ppf(0.975, 2)) * math.sqrt(q / sum(w))
    assert pooled.high - pooled.mean == pytest.approx(half)


def test_the_trials_of_the_bcg_vaccine() -> None:
    """13 log risk ratios of Colditz et al. 1994. Source of the result: the manual of metafor."""
    ill = [4, 6, 3, 62, 33, 180, 8, 505, 29, 17, 186, 5, 27]
    well = [119, 300, 228, 13536, 5036, 1361, 2537, 87886, 7470, 1699, 50448, 2493, 16886]
    ill_without = [11, 29, 11, 248, 47, 372, 10, 499, 45, 65, 141, 3, 29]
    well_without = [128, 274, 209, 12619, 5761, 1079, 619, 87892, 7232, 1600, 27197, 2338, 17825]
    table = list(zip(ill, well, ill_without, well_without, strict=True))
    means = [math.log(a / (a + b) / (c / (c + d))) for a, b, c, d in table]
    errs = [math.sqrt(1 / a - 1 / (a + b) + 1 / c - 1 / (c + d)) for a, b, c, d in table]
    pooled = pooling.pool(estimates(means, errs))
    assert round(pooled.tau**2, 4) == 0.3132
    assert round(pooled.mean, 4) == -0.7145


@pytest.mark.parametrize("k", [3, 4, 9])
def test_identical_studies_have_no_heterogeneity(k: int) -> None:
    pooled = pooling.pool([Estimate(1.5, 0.6, 7)] * k)
    assert pooled.tau == 0
    assert pooled.mean == pytest.approx(1.5)
    assert pooled.high - 1.5 == pytest.approx(float(t.ppf(0.975, k - 1)) * 0.6 / math.sqrt(k))


@given(studies, st.randoms(use_true_random=False))
@settings(max_examples=25, deadline=None)
def test_the_order_of_studies_does_not_matter(
    drawn: list[tuple[float, float]], random: Random
) -> None:
    mixed = random.sample(drawn, len(drawn))
    a, b = (pooling.pool([Estimate(m, e, 7) for m, e in some]) for some in (drawn, mixed))
    assert numbers_of(b) == pytest.approx(numbers_of(a), abs=1e-5)


@given(studies, st.sampled_from([0.01, 3.0, 100.0]), numbers)
@settings(max_examples=25, deadline=None)
def test_another_unit_and_another_zero_change_nothing_else(
    drawn: list[tuple[float, float]], scale: float, shift: float
) -> None:
    plain = pooling.pool([Estimate(m, e, 7) for m, e in drawn])
    moved = pooling.pool([Estimate(scale * m + shift, scale * e, 7) for m, e in drawn])
    places = [scale * x + shift for x in numbers_of(plain)[1:]]
    assert moved.tau == pytest.approx(scale * plain.tau, abs=1e-3 * scale)
    assert numbers_of(moved)[1:] == pytest.approx(places, abs=1e-3 * scale)


def numbers_of(p: pooling.Pooled) -> list[float]:
    return [p.tau, p.mean, p.low, p.high, p.expected_low, p.expected_high]


def test_opposite_signs_give_the_mirror_image() -> None:
    plain = pooling.pool(estimates(MEANS, ERRORS))
    other = pooling.pool(estimates([-m for m in MEANS], ERRORS))
    assert (other.low, other.high) == pytest.approx((-plain.high, -plain.low))


def test_intervals_hold_in_about_as_many_of_simulated_reviews_as_they_say() -> None:
    """Of 400 reviews of 6 studies with a true mean of 1 and a deviation of 1 between studies."""
    generator = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        errs = generator.uniform(0.2, 1.0, 6)
        means = generator.normal(1, np.sqrt(1 + errs**2))
        pooled = pooling.pool(estimates(list(means), list(errs)))
        held += pooled.low <= 1 <= pooled.high
    assert 0.92 <= held / 400 <= 0.985


def test_fewer_than_three_are_refused() -> None:
    with pytest.raises(ValueError, match="2 estimates; pooling needs at least 3"):
        pooling.pool([Estimate(1.0, 0.5, 7)] * 2)


def test_one_of_a_group_is_the_mean_with_the_largest_error() -> None:
    group = [Estimate(1.0, 0.5, 7), Estimate(2.0, 0.9, 3)]
    assert pooling.merged(group) == Estimate(1.5, 0.9, 3)
    assert pooling.merged(group[:1]) == group[0]
