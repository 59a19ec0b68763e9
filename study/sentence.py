"""Says in one sentence what a study can and cannot conclude."""

from __future__ import annotations

from collections.abc import Sequence

from study.comparison import Comparison, Word
from study.spec import Spec

_INTEREST: Sequence[Word] = ("better", "worse", "identical", "equivalent", "undecided")


def sentence(spec: Spec, comparisons: Sequence[Comparison]) -> str:
    """What can and cannot be concluded, in one sentence; what was decided comes first, then
    in the order of the plan."""
    judged = [c for c in comparisons if c.word != "incomplete"]
    missing = [c for c in comparisons if c.word == "incomplete"]
    confidence = f"{100 * spec.verdict.confidence:g} % simultaneous interval "
    clauses = []
    for c in sorted(judged, key=lambda c: _INTEREST.index(c.word)):
        clauses.append(_clause(spec, c, confidence))
        confidence = confidence if c.low is None or c.word == "identical" else ""
    if missing:
        have = [
            f"{c.arm} against {c.against} ({c.n} of {spec.confirm.seeds}"
            f"{'' if c.paired else ' unpaired'})"
            for c in missing
        ]
        clauses.append(f"nothing can be concluded where pairs are missing: {', '.join(have)}")
    holds = "this holds" if judged else "a verdict would hold"
    text = (
        f"{'; '.join(clauses)}; {holds} for the configurations that this search chose, "
        f"on this test set{_fixed(spec)}."
    )
    return text if judged else text[0].upper() + text[1:]


def _clause(spec: Spec, c: Comparison, confidence: str) -> str:
    pair, unit = f"{c.arm} and {c.against}", "pairs" if c.paired else "unpaired trials"
    if c.difference is None or c.low is None or c.high is None:
        return f"{pair} have too few {unit} to be compared"
    if c.word == "identical":
        return f"{pair} test identically on all {c.n} seeds"
    points = f"{abs(c.difference):.2f} percentage points"
    interval = f"{confidence}{signed(c.low)} to {signed(c.high)}{'' if c.paired else ', unpaired'}"
    margin = f"{spec.verdict.equivalence_margin:g}"
    if c.word in ("better", "worse"):
        small = f", less than the margin of {margin}" if c.within_margin else ""
        return f"{c.arm} tests {c.word} than {c.against} by {points} ({interval}){small}"
    found = f"difference {signed(c.difference)} percentage points, {interval}"
    if c.word == "equivalent":
        return f"{pair} are equivalent within \N{PLUS-MINUS SIGN}{margin} ({found})"
    return f"{pair} can neither be told apart nor called equivalent ({found})"


def _fixed(spec: Spec) -> str:
    """Which of lr and weight decay were not tuned, and for which arms."""
    keys = {"lr": "lr", "weight_decay": "weight decay"}
    fixed: dict[tuple[str, ...], list[str]] = {}
    for key, words in keys.items():
        arms = tuple(name for name, arm in spec.arms.items() if key not in arm.search)
        fixed.setdefault(arms, []).append(words)
    parts = [
        f"{' and '.join(words)} fixed for "
        f"{'all arms' if len(arms) == len(spec.arms) else ', '.join(arms)}"
        for arms, words in fixed.items()
        if arms
    ]
    return f", with {' and '.join(parts)}" if parts else ""


def signed(value: float) -> str:
    """A difference in percentage points, always with its sign."""
    return f"{value:+.2f}".replace("-", "\N{MINUS SIGN}")
