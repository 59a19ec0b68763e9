"""The planned comparisons between arms, decided over frozen records.

Outcomes are the test accuracies of the confirm trials, in percent. Trials with the same index share
a seed and are paired, unless one of the arms has a seed_offset: then Welch's t stands in for the
paired one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from study import analysis, stats
from study.records import Result
from study.spec import Spec

Word = Literal["incomplete", "identical", "better", "worse", "equivalent", "undecided"]


@dataclass(frozen=True)
class Comparison:
    """One planned comparison of an arm against another, in percentage points of test accuracy.

    n: pairs, or the smaller arm's trials where unpaired. differences: one a pair, by seed index;
    empty where unpaired. diverged: indices of trials of either arm that diverged. difference: mean;
    low, high: its Bonferroni interval. p, p_equivalence: adjusted by Holm over the family.
    within_margin: the interval lies inside the margin. estimate: what tests and interval rest on.
    Numbers are None where there are too few trials, p-values also while the comparison is
    incomplete.
    """

    arm: str
    against: str
    paired: bool
    word: Word
    n: int
    differences: Mapping[int, float]
    diverged: tuple[int, ...]
    difference: float | None
    low: float | None
    high: float | None
    p: float | None
    p_equivalence: float | None
    sign_flip: float | None
    sign_flip_floor: float | None
    within_margin: bool
    estimate: stats.Estimate | None = None

    @property
    def text(self) -> str:
        """The word, with what qualifies it."""
        small = self.within_margin and self.word in ("better", "worse")
        return f"{self.word} by less than the margin" if small else self.word

    @property
    def only_by_holm(self) -> bool:
        """Whether Holm decides though the wider Bonferroni interval covers 0."""
        if self.low is None or self.high is None:
            return False
        return self.word in ("better", "worse") and self.low <= 0 <= self.high

    @property
    def constant(self) -> bool:
        """Whether the t test decided on differences without any spread."""
        return self.word in ("better", "worse") and self.low == self.high


def alpha(spec: Spec) -> float:
    """Error rate of the family, 1 - confidence."""
    return round(1 - spec.verdict.confidence, 12)


def compare(
    spec: Spec, results: Sequence[Result], *, drop_diverged: bool = False
) -> tuple[Comparison, ...]:
    """The planned comparisons, in order. An incomplete one still counts in the correction."""
    outcomes, diverged = _outcomes(spec, results)
    raw: list[Comparison] = []
    for arm, against in spec.pairs:
        a, b = outcomes[arm], outcomes[against]
        complete = len(a) == len(b) == spec.confirm.seeds
        gone = tuple(sorted(diverged[arm] | diverged[against]))
        if drop_diverged:
            a = {i: x for i, x in a.items() if i not in diverged[arm]}
            b = {i: x for i, x in b.items() if i not in diverged[against]}
        raw.append(replace(_measured(spec, arm, against, a, b, complete), diverged=gone))
    p = stats.holm([_or_one(c.p) for c in raw])
    q = stats.holm([_or_one(c.p_equivalence) for c in raw])
    return tuple(
        c
        if c.p is None or c.estimate is None
        else replace(c, p=p[i], p_equivalence=q[i], word=word_for(spec, c.estimate, p[i], q[i]))
        for i, c in enumerate(raw)
    )


def _outcomes(
    spec: Spec, results: Sequence[Result]
) -> tuple[dict[str, dict[int, float]], dict[str, set[int]]]:
    """Test accuracy by seed index of every arm, and the indices that diverged."""
    outcomes: dict[str, dict[int, float]] = {}
    diverged: dict[str, set[int]] = {}
    for arm in spec.arms:
        confirm = [
            r
            for r in analysis.of_arm(results, arm, "confirm")
            if r.end.status != "failed" and math.isfinite(analysis.score(r, "test_accuracy"))
        ]
        outcomes[arm] = {r.trial.index: analysis.score(r, "test_accuracy") for r in confirm}
        diverged[arm] = {r.trial.index for r in confirm if r.end.status == "diverged"}
    return outcomes, diverged


def _measured(
    spec: Spec,
    arm: str,
    against: str,
    a: Mapping[int, float],
    b: Mapping[int, float],
    complete: bool,
) -> Comparison:
    """One comparison before correction: p-values are raw, the word is still open."""
    paired = spec.arms[arm].seed_offset == spec.arms[against].seed_offset == 0
    # Far below one test image: the same count of right answers must not differ by float noise.
    both = sorted(a.keys() & b.keys()) if paired else []
    differences = {i: round(a[i] - b[i], 9) for i in both}
    n = len(both) if paired else min(len(a), len(b))
    word: Word = "undecided" if complete else "incomplete"
    comparison = Comparison(
        arm, against, paired, word, n, differences, (), None, None, None, None, None, None, None,
        within_margin=False,
    )  # fmt: skip
    if n < 2:
        return comparison
    values = list(differences.values())
    estimate = stats.paired(values) if paired else stats.welch([*a.values()], [*b.values()])
    margin = spec.verdict.equivalence_margin
    low, high = stats.interval(estimate, 1 - alpha(spec) / len(spec.pairs))
    flip, floor = stats.sign_flip(values) if paired and complete else (None, None)
    return replace(
        comparison,
        difference=estimate.mean,
        low=low,
        high=high,
        p=stats.p_difference(estimate) if complete else None,
        p_equivalence=stats.p_equivalence(estimate, margin) if complete else None,
        sign_flip=flip,
        sign_flip_floor=floor,
        within_margin=-margin < low and high < margin,
        estimate=estimate,
    )


def word_for(spec: Spec, estimate: stats.Estimate, p: float, p_equivalence: float) -> Word:
    """The word of a complete comparison: the first that applies. p-values adjusted by Holm."""
    if estimate.mean == estimate.error == 0:
        return "identical"
    if p <= alpha(spec):
        return "better" if estimate.mean > 0 else "worse"
    return "equivalent" if p_equivalence <= alpha(spec) else "undecided"


def _or_one(p: float | None) -> float:
    return 1.0 if p is None else p
