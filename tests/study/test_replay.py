"""What counts as the same numbers; replays of whole trials are in test_command."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from study import replay
from study.records import Correct
from tests.study.synthetic import make_contents, make_spec

CONTENTS = make_contents(make_spec(), images=37)
NAME = "tiny/sam_on/confirm/2"
END = CONTENTS.ends[NAME]
RIGHT = END.correct
assert RIGHT is not None
OTHERS = Correct(37, RIGHT.bits[::-1])


@pytest.mark.parametrize(
    ("then", "now", "code"),
    [
        (RIGHT, RIGHT, 0),
        (RIGHT, OTHERS, 1),
        (RIGHT, None, 1),
        (None, RIGHT, 0),  # a journal of an earlier version
    ],
)
def test_other_images_that_are_right_are_other_numbers(
    then: Correct | None, now: Correct | None, code: int
) -> None:
    contents = replace(CONTENTS, ends={**CONTENTS.ends, NAME: replace(END, correct=then)})
    again = replay._Again(CONTENTS.trials[NAME], 3)
    for epoch in CONTENTS.epochs[NAME]:
        again.epoch(epoch)
    again.end(replace(END, correct=now))
    console = Console(file=io.StringIO(), width=200)
    assert replay._compare(NAME, contents, again, console) == code
    told = console.file.getvalue()  # type: ignore[attr-defined]
    assert ("other numbers: other test images are right" in told) == bool(code)
