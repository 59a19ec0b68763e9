"""A study on Ray whose trials train in groups of two; its processes and its driver are killed."""

from __future__ import annotations

import csv
import re
import signal
from pathlib import Path

import pytest

from study import stages
from study.course import Group, Waiting
from study.engine import Engine
from study.failures import Failures
from study.home import Home
from study.records import End, Epoch, Failure, Trial
from study.resolve import load
from tests.study.command import SPEC, Command, Ended, journal_lines, kill, run, running
from tests.study.test_command import EXACT, ONE_PAIR, QUICK, TWO_ARMS

pytestmark = pytest.mark.ray

SETTINGS = (
    *QUICK,
    TWO_ARMS,
    ONE_PAIR,
    "workload.epochs=12",
    "workload.data.train_size=640",
    "tune.trials_per_arm=3",
    "checkpoint.epochs=1",
)
GROUPS = (*SETTINGS, "engine.batched_trials=2")
TRIALS = 2 * 3 + 2 * 2
_TRAINING = re.compile(r"ray::\w*Trainable")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("whole")


@pytest.fixture(scope="module", autouse=True)
def whole(folder: Path) -> Ended:
    ended = run(folder, GROUPS)
    assert ended.code == 0, ended.err
    return ended


def test_the_study_has_the_trials_of_one_without_groups(folder: Path, whole: Ended) -> None:
    home = folder / "studies/quick"
    spec = load(SPEC, SETTINGS)
    planned = {
        name: slot.hyperparameters
        for slot in stages.search_slots(spec)
        for name in slot.names(spec, "search")
    }
    starts = {line["trial"]: line for line in journal_lines(home, kind="start")}
    assert len(starts) == TRIALS
    assert {name: starts[name]["hyperparameters"] for name in planned} == planned
    with (home / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == TRIALS
    for name in starts:
        epochs = [line["epoch"] for line in journal_lines(home, kind="epoch", trial=name)]
        assert epochs == list(range(1, 13))
    assert "[10/10]" in whole.out


def test_a_trial_is_replayed_in_its_slot(folder: Path) -> None:
    for trial in ("quick/sam_on/search/2", "quick/sam_all/confirm/1"):
        ended = run(folder, spec=trial, module="study.replay")
        assert ended.code == 0, ended.out
        assert "the same numbers, bit for bit: all metrics of 12 epochs" in ended.out


class Stopping:
    """The course of one group, of which it stops the first trial after three epochs; and who
    listens to it."""

    def __init__(self, group: Group) -> None:
        self.group = group
        self.left = [group]
        self.ends: dict[str, End] = {}
        self.epochs: dict[str, list[Epoch]] = {trial.name: [] for trial in group}

    def next(self) -> Group | Waiting:
        if self.left:
            return self.left.pop()
        return "wait" if len(self.ends) < len(self.group) else "done"

    def stops(self, epoch: Epoch) -> bool:
        return epoch.trial == self.group[0].name and epoch.epoch >= 3

    def again(self, group: Group) -> None:
        raise AssertionError(group)

    def ended(self, trial: str) -> None:
        pass

    def start(self, trial: Trial, at: float) -> None:
        pass

    def epoch(self, epoch: Epoch) -> None:
        self.epochs[epoch.trial].append(epoch)

    def failure(self, failure: Failure) -> None:
        raise AssertionError(failure)

    def resumed(self, trial: str, progress: float) -> None:
        pass

    def end(self, end: End) -> None:
        self.ends[end.trial] = end

    def note(self, text: str) -> None:
        raise AssertionError(text)


def test_a_trial_that_is_stopped_early_leaves_its_group_as_it_is(
    folder: Path, tmp_path: Path
) -> None:
    spec, contents = Home(folder / "studies", "quick").begun()
    names = [f"quick/sam_on/search/{index}" for index in range(2)]
    course = Stopping(tuple(contents.trials[name] for name in names))
    failures = Failures(0, {})
    failures.begin(names, ())
    with Engine(spec, None, str(tmp_path)) as engine:
        engine.load_pool()
        engine.run(course, failures, [course])
    stopped, whole = (course.ends[name] for name in names)
    assert (stopped.status, stopped.reason, stopped.epochs) == ("pruned", "pruned after epoch 3", 3)
    assert [epoch.epoch for epoch in course.epochs[names[0]]] == [1, 2, 3]
    assert (whole.status, whole.scores) == ("finished", contents.ends[names[1]].scores)


def training(command: Command) -> list[int]:
    return [pid for pid, line in command.left_behind().items() if _TRAINING.match(line)]


def test_a_group_whose_process_is_killed_goes_on_to_the_same_bytes(
    folder: Path, tmp_path: Path
) -> None:
    home = tmp_path / "studies/quick"

    def is_under_way(index: int) -> bool:
        return len(journal_lines(home, kind="epoch", trial=f"quick/sam_on/search/{index}")) >= 2

    with running(tmp_path, GROUPS) as command:
        command.wait_for(lambda: is_under_way(0) and is_under_way(1))
        for pid in training(command):
            kill(pid)
        command.wait_for(lambda: len(journal_lines(home, kind="failure")) >= 2)
        command.wait_for(lambda: len(journal_lines(home, kind="end")) >= 3)
        command.signal(signal.SIGINT)
        stopped = command.ended()
        assert stopped.code == 130, stopped.err
    failed = {line["trial"] for line in journal_lines(home, kind="failure")}
    assert {"quick/sam_on/search/0", "quick/sam_on/search/1"} <= failed
    assert "sam_on/search/1 goes on from a checkpoint" in stopped.out
    ended = run(tmp_path, GROUPS)
    assert ended.code == 0, ended.err
    for name in EXACT:
        assert (home / name).read_bytes() == (folder / "studies/quick" / name).read_bytes()
