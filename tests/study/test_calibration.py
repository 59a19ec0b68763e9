"""A short version of benchmarks/calibration.py; the long one is in docs/statistics.md."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks import calibration
from benchmarks.calibration import HEAVY, NORMAL, SKEWED, TRUTHS, Truth

STUDIES = 600


def off(share: float) -> float:
    """Four standard errors of a share over STUDIES studies."""
    return 4 * math.sqrt(share * (1 - share) / STUDIES)


@pytest.mark.parametrize("truth", TRUTHS, ids=lambda truth: truth.name)
@pytest.mark.parametrize(("arms", "seeds"), [(2, 3), (4, 5)])
def test_studies_judged_together_get_the_words_that_decide_gives(
    truth: Truth, arms: int, seeds: int
) -> None:
    spec = calibration.make_spec(arms, seeds)
    runs = truth.draw(np.random.default_rng(arms), (24, arms, seeds))
    runs[8:16, 1:] += 0.5
    runs[16:20, 1:] -= 2.0
    runs[20:, 1:] = runs[20:, :1]
    runs[22:, 1:] += 0.25
    found = calibration.judge(spec, runs, 0.0)
    assert len(np.unique(found.words)) >= 3
    assert calibration.agrees(spec, runs)


def test_a_study_judged_otherwise_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = calibration.make_spec(4, 5)
    runs = NORMAL.draw(np.random.default_rng(1), (10, 4, 5))
    runs[:, 1:] += 0.45
    assert calibration.agrees(spec, runs)
    monkeypatch.setattr(calibration, "holm", lambda p: p)
    assert not calibration.agrees(spec, runs)


@pytest.mark.parametrize("seeds", calibration.SEEDS)
@pytest.mark.parametrize("arms", calibration.ARMS)
@pytest.mark.parametrize("truth", [t for t in TRUTHS if t is not SKEWED and not t.difference],
                         ids=lambda truth: truth.name)  # fmt: skip
def test_under_symmetric_noise_a_family_errs_no_more_often_than_planned(
    truth: Truth, arms: int, seeds: int
) -> None:
    cell = calibration.measure(truth, arms, seeds, STUDIES, seed=1)
    assert cell.error <= 0.05 + off(0.05)
    assert cell.small <= 0.05 + off(0.05)
    assert cell.together >= 0.95 - off(0.95)
    assert cell.coverage >= 0.95 - off(0.95)
    if truth is NORMAL:
        assert cell.error >= 0.05 - off(0.05)
        assert cell.coverage <= 0.95 + off(0.95)


def test_what_the_document_says_is_missed_is_missed() -> None:
    assert calibration.measure(SKEWED, 12, 8, STUDIES, seed=1).error > 0.2
    assert calibration.measure(TRUTHS[-1], 2, 3, STUDIES, seed=1).coverage < 0.3


@pytest.mark.parametrize("truth", [NORMAL, HEAVY], ids=lambda truth: truth.name)
def test_who_knows_the_deviation_finds_more_and_sixteen_seeds_come_close(truth: Truth) -> None:
    few, oracle_few = calibration.powers(truth, 4, 5, 1.0, STUDIES, seed=1)
    many, oracle = calibration.powers(truth, 4, 16, 1.0, STUDIES, seed=1)
    assert few < oracle_few
    assert few < many <= oracle + off(0.95)
    assert many > oracle - 0.1


def test_the_bootstrap_is_no_better_than_t_for_skewed_differences() -> None:
    bootstrap, t = calibration.bootstrap_coverage(SKEWED, 10, 150, seed=1)
    assert 0.75 < bootstrap < 0.95
    assert 0.75 < t < 0.96
