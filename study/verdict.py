"""The verdict of a study, and the hash of the analysis planned before its first trial."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from study import analysis, certainty
from study.analysis import ArmSummary, Sample
from study.certainty import Certainty
from study.comparison import Comparison, alpha, compare
from study.records import Result
from study.sentence import sentence
from study.spec import Spec


@dataclass(frozen=True)
class Verdict:
    """What a study found. complete: every planned comparison had all its trials.

    certainty: of each comparison, in the same order. without_diverged: the same comparisons without
    trials that diverged; None when none did.
    """

    study: str
    question: str
    spec_hash: str
    plan_hash: str
    arms: tuple[ArmSummary, ...]
    comparisons: tuple[Comparison, ...]
    certainty: tuple[Certainty, ...]
    without_diverged: tuple[Comparison, ...] | None
    sentence: str
    complete: bool

    def plain(self) -> dict[str, Any]:
        """As JSON values that depend on nothing but the results: no time, host or path."""
        plain = {
            "study": self.study,
            "question": self.question,
            "spec_hash": self.spec_hash,
            "plan_hash": self.plan_hash,
            "complete": self.complete,
            "sentence": self.sentence,
            "arms": {arm.arm: _plain_arm(arm) for arm in self.arms},
            "comparisons": [_plain_comparison(c) for c in self.comparisons],
            "certainty": [certainty.plain(c) for c in self.certainty],
        }
        if self.without_diverged is not None:
            plain["without_diverged"] = [_plain_comparison(c) for c in self.without_diverged]
        return {key: _rounded(value) for key, value in plain.items()}


def plan_hash(spec: Spec) -> str:
    """SHA-256, hexadecimal, of the planned analysis: what is compared, on which seeds, and how."""
    from study.stages import CONFIRM_SEEDS  # imports numpy

    first = CONFIRM_SEEDS + spec.tune.seed
    plan = {
        "outcome": "test_accuracy",
        "family": spec.pairs,
        "alpha": alpha(spec),
        "equivalence_margin": spec.verdict.equivalence_margin,
        "difference": "paired t, two-sided; Welch's t where an arm has a seed_offset",
        "equivalence": "two one-sided t tests",
        "correction": "Holm over the family, for either question",
        "interval": "Bonferroni t",
        "diverged": "counts with chance accuracy; also without",
        "confirm_seeds": {
            name: [first + i + arm.seed_offset for i in range(spec.confirm.seeds)]
            for name, arm in spec.arms.items()
        },
    }
    text = json.dumps(plan, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def decide(spec: Spec, results: Sequence[Result]) -> Verdict:
    """The verdict on what there is so far."""
    comparisons = compare(spec, results)
    diverged = any(comparison.diverged for comparison in comparisons)
    return Verdict(
        study=spec.study,
        question=spec.question,
        spec_hash=spec.hash,
        plan_hash=plan_hash(spec),
        arms=analysis.summarize(spec, results),
        comparisons=comparisons,
        certainty=certainty.certainties(spec, comparisons, results),
        without_diverged=compare(spec, results, drop_diverged=True) if diverged else None,
        sentence=sentence(spec, comparisons),
        complete=all(comparison.word != "incomplete" for comparison in comparisons),
    )


def _plain_arm(arm: ArmSummary) -> dict[str, Any]:
    return {
        "hyperparameters": arm.chosen,
        "validation_accuracy": _plain_sample(arm.validation),
        "confirm_validation_accuracy": _plain_sample(arm.confirm_validation),
        "search_optimism": arm.optimism,
        "test_accuracy": _plain_sample(arm.test),
        "diverged": arm.diverged,
        "failed": arm.failed,
    }


def _plain_sample(sample: Sample | None) -> dict[str, float] | None:
    if sample is None:
        return None
    return {
        "mean": sample.mean,
        "standard_deviation": sample.deviation,
        "standard_error": sample.error,
        "n": sample.n,
    }


def _plain_comparison(c: Comparison) -> dict[str, Any]:
    return {
        "arm": c.arm,
        "against": c.against,
        "test": "paired t" if c.paired else "unpaired: Welch's t",
        "word": c.word,
        "by_less_than_margin": c.within_margin and c.word in ("better", "worse"),
        "n": c.n,
        "differences": [[i, difference] for i, difference in c.differences.items()],
        "diverged": list(c.diverged),
        "difference": c.difference,
        "interval": [c.low, c.high],
        "p_holm": c.p,
        "p_equivalence_holm": c.p_equivalence,
        "p_sign_flip": c.sign_flip,
        "p_sign_flip_floor": c.sign_flip_floor,
    }


def _rounded(value: Any) -> Any:
    """Floats to 10 significant digits, so that versions of libraries do not show; NaN is None."""
    if isinstance(value, float):
        return float(f"{value:.10g}") if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(item) for item in value]
    return value
