"""The recorder: in order, without blocking, and a clear end when the disk takes no more."""

from __future__ import annotations

import resource
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState

from study import journal, stages
from study.journal import Journal, RecordError
from study.ledger import Ledger
from study.patience import GivenUp
from study.recorder import Recorder
from study.records import End, Epoch, Trial
from tests.study.synthetic import HEADER, make_spec, search_trials

SPEC = make_spec()
TRIALS = search_trials(SPEC)


def end(trial: Trial) -> End:
    return End(trial.name, "finished", "", {"validation_accuracy": 50.0}, 0, 9.0)


def epoch(trial: Trial, number: int) -> Epoch:
    return Epoch(trial.name, number, {"validation_accuracy": 50.0}, 1.0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "journal.jsonl"
    writer = Journal(path)
    writer.append({**HEADER, "spec": SPEC.model_dump(), "hash": SPEC.hash})
    writer.close()
    return path


@pytest.fixture
def ledger() -> Ledger:
    return opened(InMemoryStorage())


@contextmanager
def no_file_larger_than(size: int) -> Iterator[None]:
    """As a full disk: a write past `size` bytes is cut short, the next one fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_events_of_many_trials_stand_in_the_order_in_which_they_came(
    path: Path, ledger: Ledger
) -> None:
    writer = Journal(path)
    expected: list[tuple[str, str, int | None]] = []
    with Recorder(writer, ledger, on_error=pytest.fail) as recorder:
        for trial in TRIALS[:5]:
            recorder.start(trial, 1.0)
            expected.append(("start", trial.name, None))
        for number in (1, 2):
            for trial in TRIALS[:5]:
                recorder.epoch(epoch(trial, number))
                expected.append(("epoch", trial.name, number))
    written = [
        (line["kind"], line.get("trial"), line.get("epoch")) for _, line in journal.lines(path)
    ]
    assert written[1:] == expected


def test_a_reader_sees_whole_lines_while_they_are_written(path: Path, ledger: Ledger) -> None:
    writer = Journal(path)
    seen = []
    stop = threading.Event()

    def watch() -> None:
        while not stop.is_set():
            seen.append(len(journal.read(path).trials))

    watcher = threading.Thread(target=watch)
    watcher.start()
    with Recorder(writer, ledger, on_error=pytest.fail) as recorder:
        for trial in TRIALS:
            recorder.start(trial, 1.0)
            for number in range(1, 30):
                recorder.epoch(epoch(trial, number))
            recorder.end(end(trial))
        recorder.flush()
    stop.set()
    watcher.join()
    assert seen == sorted(seen)
    assert len(journal.read(path).results) == len(TRIALS)


@pytest.mark.parametrize("room", range(0, 400, 25))
def test_a_disk_that_is_full_anywhere_stops_once_and_loses_no_whole_line(
    path: Path, ledger: Ledger, room: int
) -> None:
    writer, stopped = Journal(path), []
    recorder = Recorder(writer, ledger, on_error=lambda: stopped.append(True))
    with no_file_larger_than(path.stat().st_size + room):
        recorder.__enter__()
        for trial in TRIALS:
            recorder.start(trial, 1.0)
            recorder.end(end(trial))
        recorder.flush()
        with pytest.raises(RecordError, match=r"results cannot be written: .*File too large"):
            recorder.__exit__(None, None, None)
        writer.close()
    assert stopped == [True]
    before = journal.read(path)
    again = Journal(path)
    with Recorder(again, ledger, on_error=pytest.fail) as recorder:
        for trial in TRIALS:
            recorder.start(trial, 2.0)
            recorder.end(end(trial))
    again.close()
    after = journal.read(path)
    assert len(after.results) == len(TRIALS)
    assert {name: after.started[name] for name in before.started} == before.started


def test_an_end_that_the_ledger_does_not_know_is_told_as_an_error(
    path: Path, ledger: Ledger
) -> None:
    stopped: list[bool] = []
    stranger = Trial("tiny", "sam_on", "search", 99, 0)
    with (
        pytest.raises(RecordError),
        Recorder(Journal(path), ledger, on_error=lambda: stopped.append(True)) as recorder,
    ):
        recorder.end(end(stranger))
    assert stopped == [True]


def test_what_was_taken_is_written_also_when_the_study_is_interrupted(
    path: Path, ledger: Ledger
) -> None:
    recorder = Recorder(Journal(path), ledger, pytest.fail)
    recorder.__enter__()
    recorder.start(TRIALS[0], 1.0)
    recorder.end(end(TRIALS[0]))
    recorder.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert set(journal.read(path).ends) == {TRIALS[0].name}


class Away(InMemoryStorage):
    """Answers no state until `back` is set; given up: never."""

    def __init__(self, back: threading.Event, given_up: bool = False) -> None:
        super().__init__()
        self._back = back
        self._given_up = given_up

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        if state.is_finished():
            if self._given_up:
                raise GivenUp
            self._back.wait()
        return super().set_trial_state_values(trial_id, state, values)


def opened(storage: InMemoryStorage) -> Ledger:
    ledger = Ledger(storage, SPEC)
    ledger.open_stage("search", stages.search_slots(SPEC), [])
    while ledger.ask("search") is not None:
        pass
    return ledger


def ended(storage: InMemoryStorage) -> int:
    studies = [study._study_id for study in storage.get_all_studies()]
    return sum(t.state.is_finished() for study in studies for t in storage.get_all_trials(study))


def test_the_journal_does_not_wait_for_a_ledger_that_is_away(path: Path) -> None:
    back = threading.Event()
    storage = Away(back)
    with Recorder(Journal(path), opened(storage), on_error=pytest.fail) as recorder:
        for trial in TRIALS:
            recorder.start(trial, 1.0)
            recorder.end(end(trial))
        while len(journal.read(path).ends) < len(TRIALS):
            pass
        assert ended(storage) == 0
        back.set()
        recorder.flush()
        assert ended(storage) == len(TRIALS)


def test_a_ledger_that_is_given_up_costs_the_journal_nothing(path: Path) -> None:
    storage = Away(threading.Event(), given_up=True)
    with Recorder(Journal(path), opened(storage), on_error=pytest.fail) as recorder:
        for trial in TRIALS:
            recorder.start(trial, 1.0)
            recorder.end(end(trial))
        recorder.flush()  # does not hang
    assert len(journal.read(path).ends) == len(TRIALS)
    assert ended(storage) == 0
    later = Ledger(storage, SPEC)
    storage._given_up, storage._back = False, threading.Event()
    storage._back.set()
    later.open_stage("search", stages.search_slots(SPEC), journal.read(path).results)
    assert ended(storage) == len(TRIALS)
    assert later.ask("search") is None
