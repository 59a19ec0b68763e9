from __future__ import annotations

import csv
import io
import math

import pytest
from rich.console import Console

from study import tables
from study.records import Trial
from study.verdict import decide
from tests.study.synthetic import confirm_results, hill, make_contents, make_spec

SPEC = make_spec("arms.sam_on.search={lr: {low: 0.01, high: 1.0, log: true}}")


def printed(table: tables.Table, width: int) -> list[str]:
    console = Console(width=width, file=io.StringIO(), force_terminal=False)
    console.print(tables.rich_table(table, width))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    return [line.rstrip() for line in str(text).splitlines()]


def test_the_arms_table_has_a_row_an_arm_with_every_cell() -> None:
    verdict = decide(SPEC, make_contents(SPEC).results)
    table = tables.arms_table(SPEC, verdict)
    rows = {row[0]: row for row in table.rows}
    assert list(rows) == list(table.names) == list(SPEC.arms)
    assert all(len(row) == len(table.columns) for row in table.rows)
    assert rows["sam_all"][4] == "baseline"
    sam_on = verdict.arms[2]
    assert sam_on.chosen is not None
    assert sam_on.test is not None
    assert rows["sam_on"][1] == f"rho {sam_on.chosen['rho']:.3g}\nlr {sam_on.chosen['lr']:.3g}"
    assert rows["sam_on"][3] == f"{sam_on.test.mean:.2f} ± {sam_on.test.error:.2f}\nn = 6"
    assert rows["sam_on"][5:] == ("60", "0.9", "0.6")
    assert rows["sgd"][1] == "nothing\nto tune"
    assert rows["sgd"][2].endswith("n = 4")


def test_a_comparison_shows_difference_interval_word_and_p() -> None:
    spec = make_spec()
    arms = {
        "sgd": [88.0, 88.2, 88.1, 88.3, 88.0, 88.1],
        "sam_all": [90.0] * 6,
        "sam_on": [92.0, 92.1, 91.9, 92.0, 92.1, 91.9],
    }
    verdict = decide(spec, confirm_results(spec, arms))
    assert tables.arms_table(spec, verdict).rows[2][4] == "+2.00\n[+1.87, +2.13]\nbetter\np < 0.001"
    row = tables.comparisons_table(spec, verdict).rows[1]
    expected = ("+2.00", "[+1.87, +2.13]", "< 0.001", "0.031\n(0.031)", "1.000", "better")
    assert row == ("sam_on\n− sam_all", *expected)


def test_the_table_of_a_study_that_has_not_begun_has_all_rows() -> None:
    verdict = decide(SPEC, [])
    assert [row[4] for row in tables.arms_table(SPEC, verdict).rows] == [
        "incomplete",
        "baseline",
        "incomplete",
    ]
    assert all(row[1] == tables.NOTHING for row in tables.comparisons_table(SPEC, verdict).rows)


@pytest.mark.parametrize("width", [80, 100, 140])
def test_no_line_is_wider_than_the_terminal_and_no_word_is_broken(width: int) -> None:
    spec = make_spec("arms.sam_no_norm={variant: sam, perturb: no_norm}")
    verdict = decide(spec, make_contents(spec).results)
    for table in (tables.arms_table(spec, verdict), tables.comparisons_table(spec, verdict)):
        lines = printed(table, width)
        assert max(map(len, lines)) <= width
        shown = " ".join(lines).split()
        cells = [*(c.heading for c in table.columns), *(cell for row in table.rows for cell in row)]
        assert not [word for cell in cells for word in cell.split() if word not in shown]


def test_every_mark_is_explained_once() -> None:
    spec = make_spec("arms.sgd.seed_offset=7")
    arms = {"sgd": [88.0] * 6, "sam_all": [90.0] * 6, "sam_on": ["diverged", *[92.0] * 5]}
    verdict = decide(spec, confirm_results(spec, arms))  # type: ignore[arg-type]
    constant, diverged, both = map(tables.marks, verdict.comparisons)
    assert (constant, diverged, both) == ("‡¶", "*", "*¶")
    texts = tables.explanations(verdict)
    assert [text[0] for text in texts] == ["‡", "*", "¶"]
    assert "without them: sam_on against sam_all better (+2.00 [+2.00, +2.00], n = 5)" in texts[1]


def test_trials_csv_lists_every_trial_in_a_fixed_order() -> None:
    contents = make_contents(SPEC)
    rows = tables.trials_rows(SPEC, contents.results)
    assert [row["trial"] for row in rows[:5]] == [f"tiny/sgd/search/{i}" for i in range(4)] + [
        "tiny/sam_all/search/0"
    ]
    assert rows[-1]["trial"] == "tiny/sam_on/confirm/5"
    assert list(rows[0]) == [
        "trial", "arm", "variant", "perturb", "stage", "index", "seed", "rho", "lr", "status",
        "reason", "validation_accuracy", "test_accuracy", "test_loss", "epochs",
        "gradient_evaluations",
    ]  # fmt: skip
    assert tables.trials_rows(SPEC, contents.results[::-1]) == rows


def test_trials_csv_reads_back_to_the_same_numbers() -> None:
    contents = make_contents(SPEC, lambda t: math.nan if t.index == 1 else hill(t))
    text = tables.as_csv(tables.trials_rows(SPEC, contents.results))
    rows = list(csv.DictReader(io.StringIO(text)))
    assert len(rows) == len(contents.results)
    for row in rows:
        end = contents.ends[row["trial"]]
        assert row["status"] == end.status
        assert float(row["validation_accuracy"]) == end.scores["validation_accuracy"]
        rho = contents.trials[row["trial"]].hyperparameters.get("rho")
        assert row["rho"] == ("" if rho is None else repr(rho))
    assert rows[0]["test_accuracy"] == ""


def test_timings_hold_the_times_that_trials_csv_does_not() -> None:
    contents = make_contents(SPEC)
    row = tables.timings_rows(SPEC, contents.results, {})[1]
    assert row == {
        "trial": "tiny/sgd/search/1",
        "started": "2023-11-14T22:14:20+00:00",
        "ended": "2023-11-14T22:15:10+00:00",
        "seconds": 50.0,
        "seconds_per_epoch": 0.5,
    }
    assert "2023" not in tables.as_csv(tables.trials_rows(SPEC, contents.results))


def test_a_trial_without_epochs_has_no_seconds_per_epoch() -> None:
    spec = make_spec()
    trial = Trial("tiny", "sgd", "confirm", 0, 100_000)
    (row,) = tables.timings_rows(spec, confirm_results(spec, {trial.arm: [90.0]}), {})
    assert row["seconds_per_epoch"] == ""
