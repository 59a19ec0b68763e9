"""The journal: first line wins, torn lines, NaN; the recorder: order, and a disk that is full."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from study import journal, stages
from study.journal import Journal, JournalError, RecordError
from study.ledger import Ledger, open_file
from study.recorder import Recorder
from study.records import End, Epoch, Trial
from tests.study.synthetic import HEADER, make_spec

TRIAL = Trial("tiny", "sam_on", "search", 0, 0, {"rho": 0.5})
EPOCH = Epoch(TRIAL.name, 1, {"train_loss": math.nan, "validation_accuracy": 50.0}, 2.0)
END = End(TRIAL.name, "finished", "", {"validation_accuracy": 50.0}, 1, 3.0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "journal.jsonl"
    writer = Journal(path)
    spec = make_spec()
    writer.append({**HEADER, "spec": spec.model_dump(), "hash": spec.hash}, sync=True)
    writer.close()
    return path


def write(path: Path) -> None:
    writer = Journal(path)
    writer.append(journal.start_line(TRIAL, 1.0))
    writer.append(journal.epoch_line(EPOCH))
    writer.append(journal.end_line(END), sync=True)
    writer.close()


def test_what_is_written_is_read(path: Path) -> None:
    write(path)
    [result] = journal.read(path).results
    assert result.trial == TRIAL
    assert result.end == END
    assert result.started == 1.0
    assert math.isnan(result.epochs[0].metrics["train_loss"])
    assert result.epochs[0].metrics["validation_accuracy"] == 50.0


def test_the_first_of_equal_lines_wins(path: Path) -> None:
    write(path)
    writer = Journal(path)
    assert not writer.append(journal.start_line(TRIAL, 9.0))
    assert not writer.append({**journal.end_line(END), "status": "failed"})
    assert writer.append({**journal.epoch_line(EPOCH), "epoch": 2})
    writer.close()
    [result] = journal.read(path).results
    assert (result.started, result.end.status, len(result.epochs)) == (1.0, "finished", 2)


@pytest.mark.parametrize("cut", range(1, 40, 3))
def test_a_torn_last_line_is_cut_off_and_can_be_written_again(path: Path, cut: int) -> None:
    write(path)
    path.write_bytes(path.read_bytes()[:-cut])
    assert journal.read(path).ends == {}
    write(path)
    assert journal.read(path).ends == {TRIAL.name: END}
    assert all(json.loads(line) for line in path.read_bytes().splitlines())


def test_a_file_that_is_no_journal_is_named(tmp_path: Path) -> None:
    for text in ("", "{}\n", "hello\n", '{"kind": "header", "version": 99}\n'):
        (tmp_path / "j").write_text(text)
        with pytest.raises(JournalError, match="not a journal"):
            journal.read(tmp_path / "j")


def test_lines_tails_the_file_from_an_offset(path: Path) -> None:
    write(path)
    everything = list(journal.lines(path))
    offset = everything[1][0]
    assert [line["kind"] for _, line in journal.lines(path, offset)] == ["epoch", "end"]


class Listening(Ledger):
    """A ledger that notes what the journal held when it was told."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.told: list[tuple[str, bool]] = []

    def tell(self, end: End) -> None:
        self.told.append((end.trial, f'"{end.status}"' in self._path.read_text()))


def test_an_end_is_on_disk_before_the_ledger_hears_of_it(path: Path) -> None:
    ledger, writer = Listening(path), Journal(path)
    with Recorder(writer, ledger, on_error=pytest.fail) as recorder:
        recorder.start(TRIAL, 1.0)
        recorder.epoch(EPOCH)
        recorder.end(END)
        recorder.note("mind this")
        recorder.flush()
        assert ledger.told == [(TRIAL.name, True)]
    kinds = [line["kind"] for _, line in journal.lines(path)]
    assert kinds == ["header", "start", "epoch", "end", "note"]


def test_a_full_disk_stops_the_study_with_one_line(tmp_path: Path) -> None:
    spec = make_spec()
    ledger = Ledger(open_file(tmp_path / "ledger.log"), spec)
    ledger.open_stage("search", stages.search_slots(spec), [])
    writer, stopped = Journal(tmp_path / "journal.jsonl"), []
    recorder = Recorder(writer, ledger, on_error=lambda: stopped.append(True))
    with Path("/dev/full").open("ab", buffering=0) as full:
        writer._file = full
        recorder.__enter__()
        recorder.start(TRIAL, 1.0)
        recorder.flush()
        recorder.end(END)
        with pytest.raises(RecordError, match="No space left on device"):
            recorder.__exit__(None, None, None)
    assert stopped == [True]


@pytest.mark.parametrize(
    "line",
    ["5", "[]", '"end"', "{", "\x00", '{"kind": "end"}', '{"kind": "epoch", "trial": "t"}'],
)
def test_a_damaged_line_in_the_middle_is_an_error_and_not_passed_over(
    path: Path, line: str
) -> None:
    write(path)
    first, *rest = path.read_text().splitlines(keepends=True)
    path.write_text("".join([first, line + "\n", *rest]))
    with pytest.raises(JournalError, match=r"^/.*journal.jsonl: not a journal"):
        journal.read(path)


def test_any_cut_of_a_journal_is_read_as_its_whole_lines(path: Path) -> None:
    header = path.stat().st_size
    write(path)
    data = path.read_bytes()
    for cut in range(header, len(data), 7):
        path.write_bytes(data[:cut])
        contents = journal.read(path)
        whole = data[:cut].count(b"\n")
        assert (len(contents.trials), len(contents.epochs), len(contents.ends)) == tuple(
            int(whole > n) for n in (1, 2, 3)
        )


def test_numbers_that_are_not_finite_are_written_as_null(path: Path) -> None:
    writer = Journal(path)
    odd = {"a": math.nan, "b": math.inf, "c": [-math.inf, 1.5]}
    writer.append({"kind": "note", "text": "x", "time": 0.0, "odd": odd})
    writer.close()
    assert '{"a": null, "b": null, "c": [null, 1.5]}' in path.read_text()
