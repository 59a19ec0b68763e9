"""The adapter that Ray Tune asks for trials, without Ray."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from study import searcher
from study.course import Group, Waiting
from study.patience import GivenUp
from study.records import Trial
from study.searcher import CourseSearcher

TRIAL = Trial("tiny", "sam_on", "search", 0, 0)


class Course:
    """Answers when `ready` is set."""

    def __init__(self, answer: Group | Waiting | None) -> None:
        self.answer = answer
        self.ready = threading.Event()
        self.asked = 0

    def next(self) -> Group | Waiting:
        self.asked += 1
        self.ready.wait()
        if self.answer is None:
            raise GivenUp
        return self.answer


def asking(course: Any) -> CourseSearcher:
    asking = CourseSearcher(1, lambda: False)
    asking.begin(course, lambda group: {"trials": [trial.name for trial in group]})
    return asking


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(searcher, "_MOMENT", 0.01)


def test_a_course_that_takes_its_time_holds_up_no_other_trial() -> None:
    course = Course((TRIAL,))
    tune = asking(course)
    for _ in range(5):
        assert tune.suggest("x") == {"trials": [], "threads": 1}
    assert course.asked == 1
    course.ready.set()
    while (given := tune.suggest("x")) == {"trials": [], "threads": 1}:
        pass
    assert given == {"trials": [TRIAL.name], "threads": 1}
    assert tune.trials == {TRIAL.name: TRIAL}
    tune.close()


def test_what_the_course_raises_reaches_tune() -> None:
    course = Course(None)
    tune = asking(course)
    assert tune.suggest("x") == {"trials": [], "threads": 1}
    course.ready.set()
    tune.close()
    with pytest.raises(KeyboardInterrupt):
        tune.suggest("x")
