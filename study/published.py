"""Published values of a spec's `reference` beside what was measured: a table of the report."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from study import analysis
from study.analysis import Sample
from study.records import Result
from study.sentence import signed
from study.spec import Spec
from study.tables import NOTHING, Column, Table
from study.verdict import Verdict

_SAME = 1e-6
"""Largest relative distance of a rho from a published one that is the same."""


def table(spec: Spec, verdict: Verdict, results: Sequence[Result]) -> Table | None:
    """Each published accuracy with the measured one; None where the spec gives none.

    Of an arm: test accuracy of its confirm runs. At a rho: validation accuracy of the search trials
    with that rho, because the search never sees test data.
    """
    if spec.reference is None:
        return None
    columns = (
        Column("arm", number=False),
        Column("rho"),
        Column("published\ntest acc. %"),
        Column("measured\naccuracy %"),
        Column("of", number=False),
        Column("difference"),
    )
    rows = [*_of_arms(spec, verdict), *_at_radii(spec, results)]
    return Table("Published beside measured", columns, tuple(rows), tuple(row[0] for row in rows))


def notes(spec: Spec) -> list[str]:
    """Where the published values come from."""
    return [] if spec.reference is None else [f"Published values: {spec.reference.source}"]


def _of_arms(spec: Spec, verdict: Verdict) -> Iterator[tuple[str, ...]]:
    assert spec.reference is not None
    tests = {arm.arm: arm.test for arm in verdict.arms}
    for arm, published in spec.reference.accuracy.items():
        yield (arm, NOTHING, *_beside(published, tests.get(arm), "test"))


def _at_radii(spec: Spec, results: Sequence[Result]) -> Iterator[tuple[str, ...]]:
    assert spec.reference is not None
    for arm, points in spec.reference.curve.items():
        for rho, published in points:
            values = [
                result.end.scores["validation_accuracy"]
                for result in results
                if result.trial.arm == arm
                and result.trial.stage == "search"
                and "validation_accuracy" in result.end.scores
                and math.isclose(_rho(result), rho, rel_tol=_SAME)
            ]
            yield (arm, f"{rho:g}", *_beside(published, analysis.sample(values), "validation"))


def _rho(result: Result) -> float:
    rho = result.trial.hyperparameters.get("rho")
    return float(rho) if isinstance(rho, (int, float)) else math.nan


def _beside(published: float | None, found: Sample | None, part: str) -> tuple[str, ...]:
    """The last four cells of a row."""
    known = NOTHING if published is None else f"{published:.2f}"
    if found is None:
        return known, NOTHING, NOTHING, NOTHING
    difference = NOTHING if published is None else signed(found.mean - published)
    return known, f"{found.mean:.2f}", f"{part}, n = {found.n}", difference
