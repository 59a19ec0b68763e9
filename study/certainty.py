"""How sure the word of a comparison is: what stands beside the planned tests, and never decides.

Differences in percentage points of test accuracy. Intervals and tests have the error rate that a
single comparison has: Bonferroni, (1 - confidence) / planned comparisons.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from study import analysis, power, stages, stats
from study.comparison import Comparison, Word, alpha, word_for
from study.crossed import Crossed, over_seeds_and_images
from study.power import Range, Seeds
from study.records import Correct, Result
from study.sentence import signed
from study.spec import Spec

if TYPE_CHECKING:
    from study.verdict import Verdict

BOOTSTRAP_FROM = 10
"""Pairs: with fewer a bootstrap interval is far too narrow."""


@dataclass(frozen=True)
class Certainty:
    """What is known of one comparison besides its word.

    improvement: probability that the arm is better on a new pair of runs, by a normal predictive
    distribution; share_better: of the pairs there are, a tie counts half (stats.improvement).
    bootstrap: BCa interval, from BOOTSTRAP_FROM pairs on. over_images: over new seeds and new test
    images, by the pairs whose runs both say which images they got right.
    detectable: the true difference that these seeds find with probability power.POWER; seeds: those
    that find one as large as the margin so often; both with the range that the interval of the
    deviation gives, at the study's confidence.
    turning: the word without one pair, by the seed of that pair, where it is another word.
    None: too few trials, no spread to judge by, or, for what is said of pairs, an unpaired test.
    """

    arm: str
    against: str
    improvement: float | None
    share_better: float | None
    bootstrap: tuple[float, float] | None
    over_images: Crossed | None
    detectable: Range | None
    seeds: Seeds | None
    turning: Mapping[int, Word]


def certainties(
    spec: Spec, comparisons: Sequence[Comparison], results: Sequence[Result]
) -> tuple[Certainty, ...]:
    """How sure each comparison of the planned family is, in its order. results: those compared."""
    right = {
        arm: {
            r.trial.index: r.end.correct
            for r in analysis.of_arm(results, arm, "confirm")
            if r.end.correct is not None
        }
        for arm in spec.arms
    }
    return tuple(_certainty(spec, comparisons, i, right) for i in range(len(comparisons)))


def _certainty(
    spec: Spec,
    comparisons: Sequence[Comparison],
    which: int,
    right: Mapping[str, Mapping[int, Correct]],
) -> Certainty:
    c = comparisons[which]
    if c.estimate is None:
        return Certainty(c.arm, c.against, None, None, None, None, None, None, {})
    each, confidence = alpha(spec) / len(spec.pairs), spec.verdict.confidence
    differences = list(c.differences.values())
    improvement, share = stats.improvement(differences) if c.paired else (None, None)
    margin = spec.verdict.equivalence_margin
    return Certainty(
        c.arm,
        c.against,
        improvement,
        share,
        stats.bootstrap(differences, 1 - each) if len(differences) >= BOOTSTRAP_FROM else None,
        over_seeds_and_images(right[c.arm], right[c.against], 1 - each) if c.paired else None,
        power.detectable(c.estimate, each, confidence),
        power.seeds_needed(c.estimate, c.n, margin, each, confidence),
        _turning(spec, comparisons, which),
    )


def _turning(spec: Spec, comparisons: Sequence[Comparison], which: int) -> dict[int, Word]:
    """Words without one pair of this comparison; the rest of the family stays as it is."""
    c = comparisons[which]
    if not c.paired or c.word == "incomplete" or c.n < 3:
        return {}
    margin = spec.verdict.equivalence_margin
    # An incomplete comparison counts in the correction like one with p = 1.
    known = [None if other.word == "incomplete" else other.estimate for other in comparisons]
    p = [1.0 if e is None else stats.p_difference(e) for e in known]
    q = [1.0 if e is None else stats.p_equivalence(e, margin) for e in known]
    first, words = stages.CONFIRM_SEEDS + spec.tune.seed, dict[int, Word]()
    for index, left in zip(
        c.differences, stats.leave_one_out(list(c.differences.values())), strict=True
    ):
        p[which], q[which] = stats.p_difference(left), stats.p_equivalence(left, margin)
        word = word_for(spec, left, stats.holm(p)[which], stats.holm(q)[which])
        if word != c.word:
            words[first + index] = word
    return words


def plain(c: Certainty) -> dict[str, Any]:
    """As JSON values."""
    return {
        "arm": c.arm,
        "against": c.against,
        "probability_of_improvement": c.improvement,
        "share_of_pairs_better": c.share_better,
        "bootstrap_interval": None if c.bootstrap is None else list(c.bootstrap),
        "over_seeds_and_images": _plain_crossed(c.over_images),
        "detectable_difference": _plain_range(c.detectable),
        "seeds_for_margin": _plain_range(c.seeds),
        "words_without_one_pair": [
            {"seed": seed, "word": word} for seed, word in c.turning.items()
        ],
    }


def _plain_crossed(found: Crossed | None) -> dict[str, Any] | None:
    if found is None:
        return None
    return {
        "difference": found.difference,
        "interval": [found.low, found.high],
        "pairs": found.pairs,
        "images": found.images,
    }


def _plain_range(values: Range | Seeds | None) -> dict[str, Any] | None:
    return None if values is None else {"value": values.value, "range": [values.low, values.high]}


def warnings(verdict: Verdict) -> list[str]:
    """Words that change without a single pair, one plain sentence a comparison."""
    texts = []
    for c, judged in zip(verdict.certainty, verdict.comparisons, strict=True):
        if not c.turning:
            continue
        without = dict[Word, list[str]]()
        for seed, word in c.turning.items():
            without.setdefault(word, []).append(str(seed))
        told = "; ".join(f"{word} without seed {_either(s)}" for word, s in without.items())
        texts.append(
            f"{_pair(c)}: leaving out one pair changes the word: {judged.word} with all "
            f"{judged.n}, {told}."
        )
    return texts


def notes(spec: Spec, verdict: Verdict) -> list[str]:
    """One line each: the winner's curse, the next pair of runs, new test images, and what the seeds
    can show."""
    curse = [f"{a.arm} {signed(a.optimism)}" for a in verdict.arms if a.optimism is not None]
    better = [
        f"{_pair(c)} {chance_text(c.improvement)}"
        for c in verdict.certainty
        if c.improvement is not None
    ]
    crossed = [
        f"{_pair(c)} {crossed_text(c.over_images, judged)}"
        for c, judged in zip(verdict.certainty, verdict.comparisons, strict=True)
        if c.over_images is not None
    ]
    found = [
        f"{_pair(c)} {range_text(c.detectable)}"
        for c in verdict.certainty
        if c.detectable is not None
    ]
    needed = [f"{_pair(c)} {seeds_text(c.seeds)}" for c in verdict.certainty if c.seeds is not None]
    often = f"with {100 * power.POWER:g} % power"
    margin = f"{spec.verdict.equivalence_margin:g} points"
    lines = (
        (
            "Winner's curse, validation accuracy of the search above that of the confirm seeds",
            curse,
        ),
        ("Probability that the first arm is better on a new pair of runs", better),
        ("Interval over new seeds and new test images", crossed),
        (f"True difference that these seeds would find {often}, in points", found),
        (f"Seeds that would find a true difference of {margin} {often}", needed),
    )
    return [f"{title}: {', '.join(told)}." for title, told in lines if told]


def chance_text(probability: float) -> str:
    """A probability that is never told as certain."""
    if probability < 0.01:
        return "< 0.01"
    return "> 0.99" if probability > 0.99 else f"{probability:.2f}"


def crossed_text(found: Crossed, judged: Comparison) -> str:
    """The interval, the number of images, and the pairs that are left out."""
    text = f"[{signed(found.low)}, {signed(found.high)}], {found.images:,} images"
    if left := judged.n - found.pairs:
        pairs = "1 pair" if left == 1 else f"{left} pairs"
        text += f", without {pairs} where single images are not known, as of a run that diverged"
    return text


def range_text(values: Range) -> str:
    """Points, with their range."""
    return f"{values.value:.2f} ({values.low:.2f} to {values.high:.2f})"


def seeds_text(values: Seeds) -> str:
    """Whole seeds, with their range."""
    return f"{_seeds(values.value)} ({_seeds(values.low)} to {_seeds(values.high)})"


def _seeds(seeds: int | None) -> str:
    return f"more than {power.MOST_SEEDS:,}" if seeds is None else f"{seeds:,}"


def _pair(c: Certainty) -> str:
    return f"{c.arm} against {c.against}"


def _either(seeds: Sequence[str]) -> str:
    *rest, last = seeds
    return f"{', '.join(rest)} or {last}" if rest else last
