"""What a failed attempt means: pure, told by literals."""

from __future__ import annotations

import pytest

from study.failures import EveryTrialFails, Failures
from study.records import End, Result, Status, Trial


def end(name: str, status: Status = "failed") -> End:
    return End(name, status, "", {}, 0, 0.0)


def result(index: int, status: Status) -> Result:
    trial = Trial("s", "a", "search", index, 0)
    return Result(trial, end(trial.name, status))


NAMES = [f"s/a/search/{i}" for i in range(6)]


def test_a_trial_is_tried_again_as_often_as_asked_without_progress() -> None:
    failures = Failures(2, {})
    assert [failures.again("a", 0.0) for _ in range(3)] == [True, True, False]
    assert not Failures(0, {}).again("a", 5.0)


def test_a_trial_that_comes_further_each_time_is_never_given_up() -> None:
    failures = Failures(1, {})
    reached = (1.0, 1.0, 2.5, 2.5, 2.6, 1.0)
    assert [failures.again("a", progress) for progress in reached] == [
        *(True, False),  # the second came no further
        *(True, False),
        *(True, False),  # nor does one that came less far
    ]
    assert all(Failures(1, {}).again("a", progress) for progress in (0.0, 0.1, 7.0))


def test_failures_are_numbered_over_executions() -> None:
    failures = Failures(3, {"a": 2})
    assert [failures.count(name) for name in ("a", "b", "a")] == [3, 1, 4]


def test_a_study_whose_first_trials_all_fail_stops_and_records_none_of_them() -> None:
    failures = Failures(3, {})
    failures.begin(NAMES, [])
    assert failures.ended(end(NAMES[0])) == ()
    assert failures.ended(end(NAMES[1])) == ()
    with pytest.raises(EveryTrialFails):
        failures.ended(end(NAMES[2]))


@pytest.mark.parametrize("status", ["finished", "diverged", "pruned"])
def test_failed_trials_are_recorded_once_one_of_their_stage_trained(status: Status) -> None:
    failures = Failures(3, {})
    failures.begin(NAMES, [])
    assert failures.ended(end(NAMES[0])) == ()
    assert failures.ended(end(NAMES[3], status)) == (end(NAMES[0]), end(NAMES[3], status))
    for name in NAMES[4:]:
        assert failures.ended(end(name)) == (end(name),)


def test_trials_of_an_earlier_execution_count_for_their_stage_alone() -> None:
    failures = Failures(3, {})
    failures.begin(NAMES, [result(0, "finished")])
    assert failures.ended(end(NAMES[1])) == (end(NAMES[1]),)
    failures.begin(["s/a/confirm/0", "s/a/confirm/1"], [result(0, "finished")])
    assert failures.ended(end("s/a/confirm/0")) == ()
    with pytest.raises(EveryTrialFails):
        failures.ended(end("s/a/confirm/1"))


def test_the_last_trial_of_a_stage_where_all_others_failed_decides() -> None:
    failures = Failures(3, {})
    failures.begin(NAMES[:4], [result(i, "failed") for i in range(3)])
    with pytest.raises(EveryTrialFails):
        failures.ended(end(NAMES[3]))
