"""The checks of the harness find what they are for."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from tests.faults import checks, moments, processes
from tests.faults.checks import TRIALS, Seen
from tests.faults.moments import Moment
from tests.faults.processes import Process
from tests.study.command import Ended

NAMES = [
    f"fire/{arm}/{stage}/{index}"
    for stage in ("search", "confirm")
    for arm in ("sgd", "sam_all", "sam_on")
    for index in range(4)
]


def line(kind: str, trial: str, time: float = 1.0, **more: object) -> Mapping[str, Any]:
    return {"kind": kind, "trial": trial, "time": time, **more}


def epoch(trial: str, seconds: float = 0.1, loss: float = 2.0) -> Mapping[str, Any]:
    metrics = {"train_loss": loss, "seconds_per_epoch": seconds}
    return line("epoch", trial, epoch=1, metrics=metrics)


CALM = Seen(
    tuple(
        each
        for name in NAMES
        for each in (line("start", name), epoch(name), line("end", name, status="finished"))
    ),
    {"fire/sgd/search": {"COMPLETE": 4}},
    {"verdict.json": b"{}", "trials.csv": b"trial\n"},
    4000,
)


def test_the_same_at_other_times_is_the_same() -> None:
    later = tuple({**each, "time": 9.0} for each in CALM.lines)
    slower = tuple(epoch(each["trial"], 7.0) if each["kind"] == "epoch" else each for each in later)
    assert checks.same(replace(CALM, lines=slower), CALM) == []


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        (CALM.lines[:-1], "there is none in the journal: end ('fire/sam_on/confirm/3', None)"),
        ((*CALM.lines, CALM.lines[-1]), "journal: 2 lines ('end', 'fire/sam_on/confirm/3'"),
        ((*CALM.lines, line("end", "fire/sgd/search/4")), "one more in the journal: end ("),
        ((CALM.lines[0], epoch(NAMES[0], loss=2.1), *CALM.lines[2:]), "journal: epoch ("),
        ((*CALM.lines[:-1], line("end", NAMES[-1], status="failed")), "'failed'}, not {"),
    ],
)
def test_another_trial_or_number_is_found(lines: tuple[checks.Line, ...], problem: str) -> None:
    assert any(problem in each for each in checks.same(replace(CALM, lines=lines), CALM))


def test_another_ledger_or_file_is_found() -> None:
    stale = replace(CALM, ledger={"fire/sgd/search": {"COMPLETE": 3, "RUNNING": 1}})
    assert len(checks.same(stale, CALM)) == 1
    assert checks.same(replace(CALM, files={"verdict.json": b"{}"}), CALM) == [
        "trials.csv: not the same bytes as without the fault"
    ]


def test_lost_work_is_counted_in_epochs_of_the_costliest_arm() -> None:
    seen = replace(CALM, passes=CALM.passes + 75)
    assert checks.lost(seen, CALM) == 1.5
    assert checks.lost_at_most(seen, CALM, 1, 2) == []
    assert checks.lost_at_most(seen, CALM, 1, 1) != []


@pytest.mark.parametrize(
    ("ended", "code", "problems"),
    [
        (Ended(0, "", "", 1), 0, 0),
        (Ended(0, "", "warning\n", 1), 0, 1),
        (Ended(1, "", "", 1), 0, 1),
        (Ended(2, "", "no\n", 1), 2, 0),
        (Ended(2, "", "no\nno\n", 1), 2, 1),
        (Ended(1, "", "Traceback (most recent call last):\n  no\n", 1), 1, 2),
    ],
)
def test_how_a_command_ended(ended: Ended, code: int, problems: int) -> None:
    assert len(checks.ended_with(ended, code)) == problems


@pytest.mark.parametrize(
    ("trials", "open_trials", "phase"),
    [
        (0, 0, "start"),
        (0, 1, "search"),
        (11, 1, "search"),
        (12, 0, "between"),
        (12, 1, "confirm"),
        (24, 0, "report"),
    ],
)
def test_the_phase_that_a_mishap_hits(trials: int, open_trials: int, phase: str) -> None:
    ended = CALM.lines[: 3 * trials]
    begun = [line("start", name) for name in NAMES[trials : trials + open_trials]]
    assert checks.phase((*ended, *begun)) == phase


def test_moments_lie_in_what_is_still_to_come_and_reach_every_part_of_it() -> None:
    randomness = random.Random(0)
    drawn = [moments.draw(randomness, 10, 5.0) for _ in range(500)]
    assert {moment.ends for moment in drawn} == {None, *range(11, TRIALS + 1)}
    assert all(0 <= moment.delay <= 5 for moment in drawn)
    assert moments.draw(randomness, TRIALS, 5.0).ends is None
    again = random.Random(0)
    assert [moments.draw(again, 10, 5.0) for _ in range(500)] == drawn
    assert isinstance(drawn[0], Moment)


def test_only_the_very_process_is_killed() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        found = processes.find(child.pid)
        assert found is not None
        assert found in processes.below(os.getpid())
        assert not processes.kill(Process(child.pid, found.born - 1))
        assert processes.runs(found)
        assert processes.kill(found)
        # nobody has waited for it yet: its CPU time can still be read
        assert processes.wait_until_gone([found], 30) == []
        assert processes.cpu_seconds(child.pid) >= 0
        assert child.wait() == -signal.SIGKILL
        assert not processes.kill(found)
    finally:
        child.kill()
        child.communicate()
