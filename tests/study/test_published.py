"""Published values beside measured ones."""

from __future__ import annotations

import statistics

import pytest

from study import published, report
from study.rounds import judge
from study.sentence import signed
from study.spec import Spec
from study.tables import NOTHING
from tests.study.synthetic import hill, make_contents, make_spec
from tests.study.test_resolve import told

GIVEN = (
    "reference={source: 'a paper, table 1', accuracy: {sgd: 80.5, sam_on: null}, "
    "curve: {sam_on: [[0.1, 81], [0.7, 82.25]]}}"
)
GRID = ("tune={sampler: grid}", "search={rho: {choices: [0.1, 0.2]}}")


def rows(spec: Spec) -> list[tuple[str, ...]]:
    contents = make_contents(spec, hill)
    [judged] = judge([spec], contents)
    table = published.table(spec, judged.verdict, judged.results)
    assert table is not None
    return list(table.rows)


def test_each_published_value_stands_beside_what_was_measured() -> None:
    spec = make_spec(GIVEN, *GRID)
    results = make_contents(spec, hill).results
    sgd, sam_on = (
        statistics.fmean(
            r.end.scores["test_accuracy"]
            for r in results
            if r.trial.arm == arm and r.trial.stage == "confirm"
        )
        for arm in ("sgd", "sam_on")
    )
    [searched] = [
        r.end.scores["validation_accuracy"]
        for r in results
        if r.trial.name == "tiny/sam_on/search/0"
    ]
    assert rows(spec) == [
        ("sgd", NOTHING, "80.50", f"{sgd:.2f}", "test, n = 6", signed(sgd - 80.5)),
        ("sam_on", NOTHING, NOTHING, f"{sam_on:.2f}", "test, n = 6", NOTHING),
        ("sam_on", "0.1", "81.00", f"{searched:.2f}", "validation, n = 1", signed(searched - 81)),
        ("sam_on", "0.7", "82.25", NOTHING, NOTHING, NOTHING),
    ]


def test_the_report_tells_the_source_and_the_hash_does_not_know_it() -> None:
    spec, plain = make_spec(GIVEN), make_spec()
    assert spec.hash == plain.hash
    [judged] = judge([spec], make_contents(spec, hill))
    assert "Published values: a paper, table 1" in report.notes(judged, make_contents(spec, hill))
    assert published.table(plain, judged.verdict, judged.results) is None
    assert published.notes(plain) == []


@pytest.mark.parametrize(
    ("assignment", "part"),
    [
        ("reference={}", "reference.source: is missing"),
        (
            "reference={source: x, accuracy: {sgdd: 80}}",
            "unknown arm 'sgdd'; allowed: sgd, sam_all",
        ),
        ("reference={source: x, accuracy: {sgd: 101}}", "must be at most 100, not 101"),
        ("reference={source: x, curve: {sam_on: [[0, 80]]}}", "must be above 0, not 0"),
        ("reference={source: x, curve: {sam_on: [[0.1]]}}", "reference.curve.sam_on.0"),
        ("reference={source: x, zzz: 1}", "unknown key 'zzz'; allowed: source, accuracy, curve"),
    ],
)
def test_a_reference_that_cannot_be_is_refused(assignment: str, part: str) -> None:
    assert part in told(assignment)
