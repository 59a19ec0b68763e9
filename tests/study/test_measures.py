"""What is measured on confirmed models: which tasks, what a journal keeps of them, which rows."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from study import journal, measures, stages
from study.journal import Contents, Journal
from study.records import Measured, Measurement
from study.yamlfile import SpecError
from tests.study.synthetic import HEADER, hill, make_contents, make_spec

SPEC = make_spec("confirm.seeds=2", "tune.trials_per_arm=2")
CONTENTS = make_contents(SPEC)
ON, ALL = "tiny/sam_on/confirm/1", "tiny/sam_all/confirm/1"
LINE = Measurement(ON, "line", ALL, (Measured("line.loss", "", 0.5, math.nan),), 9.0)
SHARP = Measurement(
    ON,
    "sharpness",
    None,
    (Measured("worst_l2", "norm", 0.1, 0.25), Measured("hessian_top", "all", None, -3.0)),
    8.0,
)


def missing(contents: Contents, *words: str) -> list[str]:
    return [task.title for task in measures.missing(words, [SPEC], contents)]


def test_every_confirm_run_is_measured_and_lines_join_the_pairs_that_are_compared() -> None:
    assert missing(CONTENTS, "pgd") == [
        f"pgd of tiny/{arm}/confirm/{i}" for arm in ("sgd", "sam_all", "sam_on") for i in (0, 1)
    ]
    assert missing(CONTENTS, "line") == [
        f"line of tiny/{arm}/confirm/{i} to tiny/{against}/confirm/{i}"
        for arm, against in (("sgd", "sam_all"), ("sam_on", "sam_all"), ("sam_on", "sgd"))
        for i in (0, 1)
    ]


def test_what_is_there_is_not_measured_again() -> None:
    there = replace(CONTENTS, measurements=(LINE, SHARP))
    assert f"sharpness of {ON}" not in missing(there, "sharpness")
    assert len(missing(there, "sharpness", "line")) == 5 + 5


def test_a_run_that_diverged_has_nothing_to_measure() -> None:
    diverged = make_contents(
        SPEC, lambda t: math.nan if t.name.endswith("sgd/confirm/0") else hill(t)
    )
    assert missing(diverged, "histograms")[0] == "histograms of tiny/sgd/confirm/1"
    assert "sgd/confirm/0" not in " ".join(missing(diverged, "line"))


def test_a_journal_gives_back_what_was_measured(tmp_path: Path) -> None:
    writer = Journal(tmp_path / "journal.jsonl")
    writer.append({**HEADER, "spec": SPEC.model_dump(), "hash": SPEC.hash})
    assert not measured(tmp_path)
    for name in (ON, ALL):
        writer.append(journal.start_line(CONTENTS.trials[name], 1.0))
    assert writer.append(journal.measurement_line(SHARP))
    assert writer.append(journal.measurement_line(LINE))
    assert not writer.append(journal.measurement_line(replace(SHARP, values=())))
    writer.append(journal.measurement_line(replace(SHARP, trial="tiny/sgd/confirm/0")))
    writer.close()
    sharp, line = measured(tmp_path)  # of sgd no run started
    assert sharp == SHARP
    assert (line.trial, line.against, math.isnan(line.values[0].value)) == (ON, ALL, True)


def measured(folder: Path) -> tuple[Measurement, ...]:
    return journal.read(folder / "journal.jsonl").measurements


def test_rows_follow_the_spec_and_leave_out_what_is_not_there() -> None:
    other = replace(SHARP, trial="tiny/sgd/confirm/0", values=SHARP.values[:1])
    rows = measures.rows(SPEC, CONTENTS.results, (LINE, SHARP, other))
    assert [(r["arm"], r["seed"], r["what"], r["measure"], r["at"], r["value"]) for r in rows] == [
        ("sgd", 100_000, "sharpness", "worst_l2", 0.1, 0.25),
        ("sam_on", 100_001, "line", "line.loss", 0.5, ""),
        ("sam_on", 100_001, "sharpness", "worst_l2", 0.1, 0.25),
        ("sam_on", 100_001, "sharpness", "hessian_top", "", -3.0),
    ]
    assert rows[1]["against"] == ALL


def test_what_is_measured_does_not_make_another_study() -> None:
    asked = make_spec("confirm.measure=[sharpness, line]")
    assert asked.confirm.measure == ["sharpness", "line"]
    assert asked.hash == make_spec().hash
    assert stages.confirm_slots(asked, {"sgd": {}}) == stages.confirm_slots(
        make_spec(), {"sgd": {}}
    )


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("[sharpnes]", "confirm.measure.0: unknown measure 'sharpnes'; allowed: sharpness, "
         "corruptions, pgd, line, histograms; did you mean 'sharpness'?"),
        ("[pgd, line, pgd]", "confirm.measure: pgd stands there twice; once is enough"),
    ],
)  # fmt: skip
def test_a_wrong_word_is_named(words: str, told: str) -> None:
    with pytest.raises(SpecError) as error:
        make_spec(f"confirm.measure={words}")
    assert told in str(error.value)
