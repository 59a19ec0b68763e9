"""An effect over several studies: which of them are independent, and whether they can be pooled.

Pure functions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from study.effects import CONFIDENCE, Measured, arms_of, measure, splits
from study.pooling import FEWEST, Pooled, merged, pool
from study.studies import Study

FEWEST_TO_TEST = 10
"""Studies below which nobody should test what an effect depends on (Cochrane Handbook, 10.11.5)."""


@dataclass(frozen=True)
class Compared:
    """An effect over studies. groups: those of one group share data and seeds, so that their
    estimates depend on each other. pooled: None, and then refusal says why."""

    effect: str
    groups: tuple[tuple[Measured, ...], ...]
    pooled: Pooled | None
    refusal: str
    notes: tuple[str, ...]

    @property
    def measured(self) -> list[Measured]:
        """Every study, group by group."""
        return [each for group in self.groups for each in group]


def compare(studies: Sequence[Study], effect: str) -> Compared:
    """The effect in every study, and their mean where it may be taken. Raises SpecError where a
    study does not have its arms."""
    ways = splits(effect)
    measured = [measure(study, *arms_of(study, effect, ways)) for study in studies]
    groups = grouped(measured)
    refusal = _refusal(groups)
    able = [[each for each in group if not each.barrier] for group in groups]
    estimates = [
        merged([each.estimate for each in group if each.estimate]) for group in able if group
    ]
    pooled = None if refusal else pool(estimates, CONFIDENCE)
    return Compared(effect, tuple(map(tuple, groups)), pooled, refusal, _across(measured, groups))


def grouped(measured: Sequence[Measured]) -> list[list[Measured]]:
    """Studies that share data and seeds, directly or through others, in the order given."""
    groups: list[list[Measured]] = []
    for each in measured:
        touched = [group for group in groups if any(_dependent(each, other) for other in group)]
        joined = [member for group in touched for member in group]
        position = groups.index(touched[0]) if touched else len(groups)
        groups = [group for group in groups if group not in touched]
        groups.insert(position, [*joined, each])
    return groups


def _dependent(a: Measured, b: Measured) -> bool:
    return a.data_hash == b.data_hash and bool(a.seeds & b.seeds)


def _refusal(groups: Sequence[Sequence[Measured]]) -> str:
    """Why the effect is not pooled, or nothing."""
    able = [each for group in groups for each in group if not each.barrier]
    k = sum(any(not each.barrier for each in group) for group in groups)
    matchings = sorted({each.matching for each in able})
    if len(matchings) > 1:
        told = "; ".join(
            f"{', '.join(e.study for e in able if e.matching == m)} in {m}" for m in matchings
        )
        return f"budgets are matched differently, which asks different questions: {told}"
    if k < FEWEST:
        s = "" if k == 1 else "s"
        return f"{k} independent group{s} of studies can be used, {FEWEST} are needed"
    return ""


def _across(measured: Sequence[Measured], groups: Sequence[Sequence[Measured]]) -> tuple[str, ...]:
    """Notes on all studies: first what each says of itself, then how they differ."""
    notes = [note for each in measured for note in each.notes]
    notes += [f"{each.study}: not pooled, {each.barrier}." for each in measured if each.barrier]
    for group in groups:
        if len(group) > 1:
            notes.append(
                f"{', '.join(each.study for each in group)}: share data set and seeds, so they are "
                "drawn together and count as one in pooling: the mean of their estimates with the "
                "largest of their standard errors."
            )
    counts = {each.study: each.n for each in measured}
    if len(set(counts.values())) > 1:
        told = ", ".join(f"{name} {n}" for name, n in counts.items())
        notes.append(f"The number of seeds differs: {told}. Fewer seeds mean a wider interval.")
    methods = {each.study: each.conditions["method"] for each in measured}
    if len(set(methods.values())) > 1:
        told = ", ".join(f"{name} {method}" for name, method in methods.items())
        notes.append(f"The arms are not the same methods in all studies: {told}.")
    noises = {each.study: each.conditions["label_noise"] or "0" for each in measured}
    if len(set(noises.values())) > 1:
        told = ", ".join(f"{name} {noise}" for name, noise in noises.items())
        notes.append(f"Label noise differs: {told}.")
    return tuple(notes)
