"""The journal: first line wins, torn lines, NaN; the recorder: order, and a disk that is full."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from study import journal, stages
from study.journal import Contents, Journal, RecordError
from study.journal_reader import JournalError, Reader
from study.ledger import Ledger, open_file
from study.recorder import Recorder
from study.records import Correct, End, Epoch, Trial
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


def test_a_reader_goes_on_with_what_was_appended_since(path: Path) -> None:
    reader = Reader(path)
    assert [line["kind"] for _, line in reader.lines()] == ["header"]
    write(path)
    everything = list(journal.lines(path))
    assert list(reader.lines(until=everything[2][0] - 1)) == everything[1:2]
    assert list(reader.lines()) == everything[2:]
    assert list(reader.lines()) == []
    assert reader.offset == path.stat().st_size


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
    [
        *("5", "[]", '"end"', "{", "\x00", "", "\ufeff", "[" * 10_000),
        '{"kind": "end"}',
        '{"kind": "end", "trial": ["t"]}',
        '{"kind": "song", "time": 1.0}',
        '{"kind": "note", "text": 5, "time": 1.0}',
        '{"kind": "note", "text": "x", "time": NaN}',
        '{"kind": "note", "text": "x", "time": 1e99}',
    ],
)
def test_a_damaged_line_in_the_middle_is_left_out_and_its_number_told(
    path: Path, line: str
) -> None:
    write(path)
    whole = journal.read(path)
    first, *rest = path.read_text().splitlines(keepends=True)
    path.write_text("".join([first, line + "\n", *rest]))
    assert journal.read(path) == replace(whole, damaged=(2,))
    data = path.read_bytes()
    Journal(path).close()
    assert path.read_bytes() == data


START, EPOCH_LINE, END_LINE = (
    journal.start_line(TRIAL, 1.0),
    journal.epoch_line(EPOCH),
    journal.end_line(END),
)


@pytest.mark.parametrize(
    ("line", "changed", "damaged", "held"),
    [
        (START, {"arm": "nobody"}, (2, 3, 4), (0, 0, 0)),
        (START, {"trial": "tiny/sam_on/search/1"}, (2, 3, 4), (0, 0, 0)),
        (START, {"hyperparameters": {"rho": -0.5}}, (2, 3, 4), (0, 0, 0)),
        (START, {"hyperparameters": {"rhp": 0.5}}, (2, 3, 4), (0, 0, 0)),
        (START, {"seed": "0"}, (2, 3, 4), (0, 0, 0)),
        (START, {"index": True}, (2, 3, 4), (0, 0, 0)),
        (EPOCH_LINE, {"epoch": -1}, (3,), (1, 0, 0)),
        (EPOCH_LINE, {"epoch": 4}, (3,), (1, 0, 0)),
        (EPOCH_LINE, {"metrics": {"train_loss": 1e200}}, (3,), (1, 0, 0)),
        (EPOCH_LINE, {"trial": "tiny/sam_on/search/3"}, (3,), (1, 0, 0)),
        (END_LINE, {"status": "done"}, (4,), (1, 1, 0)),
        (END_LINE, {"scores": {}}, (4,), (1, 1, 0)),
        (END_LINE, {"scores": {"validation_accuracy": 5000.0}}, (4,), (1, 1, 0)),
        (END_LINE, {"status": "failed"}, (4,), (1, 1, 0)),
        (END_LINE, {"epochs": 2}, (), (1, 1, 0)),
    ],
)
def test_a_trial_that_lost_a_line_has_not_ended_and_is_whole_once_it_is_run_again(
    path: Path,
    line: Mapping[str, Any],
    changed: Mapping[str, Any],
    damaged: tuple[int, ...],
    held: tuple[int, int, int],
) -> None:
    with path.open("a") as file:
        for each in (START, EPOCH_LINE, END_LINE):
            file.write(json.dumps({**each, **changed} if each is line else each) + "\n")
    contents = journal.read(path)
    assert contents.damaged == damaged
    assert tuple(map(len, (contents.trials, contents.epochs, contents.ends))) == held
    assert [key for _, each in journal.lines(path) if (key := each.get("epoch"))] == [1] * held[1]
    write(path)
    if line is END_LINE and not damaged:  # it tells of an epoch that is still missing
        writer = Journal(path)
        writer.append({**EPOCH_LINE, "epoch": 2})
        writer.close()
    after = journal.read(path)
    [result] = after.results
    assert (result.trial, result.end.status, result.epochs[0].epoch) == (TRIAL, "finished", 1)
    assert after.damaged == damaged


CONFIRM = Trial("tiny", "sam_on", "confirm", 0, 100_000, {"rho": 0.5})
RIGHT = Correct(11, bytes([0b10110111, 0b00100000]))  # 7 of 11
TESTED = End(
    CONFIRM.name, "finished", "",
    {"validation_accuracy": 60.0, "test_accuracy": 100 * (7 / 11), "test_loss": 0.4}, 0, 3.0, RIGHT,
)  # fmt: skip


def ends_of(path: Path, trial: Trial, line: Mapping[str, Any]) -> dict[str, End]:
    with path.open("a") as file:
        for each in (journal.start_line(trial, 1.0), line):
            file.write(json.dumps(each) + "\n")
    return dict(journal.read(path).ends)


def test_an_end_line_says_which_images_were_right_where_the_end_does(path: Path) -> None:
    line = journal.end_line(TESTED)
    assert line["correct"] == {"images": 11, "bits": "tyA="}
    assert "correct" not in journal.end_line(END)
    assert ends_of(path, CONFIRM, line) == {CONFIRM.name: TESTED}


def test_an_end_line_of_an_earlier_version_lacks_them(path: Path) -> None:
    line = {key: value for key, value in journal.end_line(TESTED).items() if key != "correct"}
    assert ends_of(path, CONFIRM, line) == {CONFIRM.name: replace(TESTED, correct=None)}


@pytest.mark.parametrize(
    "changed",
    [
        {"correct": None},
        {"correct": {"images": 11}},
        {"correct": {"images": 11, "bits": "tyA"}},  # cut
        {"correct": {"images": 11, "bits": "ty A="}},
        {"correct": {"images": 11, "bits": "tyB="}},  # bits of base64 that mean nothing
        {"correct": {"images": 11, "bits": "ty\u00e4="}},
        {"correct": {"images": 11, "bits": ""}},
        {"correct": {"images": 11, "bits": "tw=="}},  # 8 images
        {"correct": {"images": 17, "bits": "tyA="}},
        {"correct": {"images": 10, "bits": "tyA="}},  # the eleventh would be one too many
        {"correct": {"images": 0, "bits": ""}},
        {"correct": {"images": -11, "bits": "tyA="}},
        {"correct": {"images": 12, "bits": "tyA="}},  # 7 of 12 is another accuracy
        {"correct": {"images": 11, "bits": "tiA="}},  # 6
        {"status": "diverged"},
        {"scores": {"validation_accuracy": 60.0}},
    ],
)
def test_images_that_do_not_fit_damage_the_line(path: Path, changed: Mapping[str, Any]) -> None:
    assert ends_of(path, CONFIRM, {**journal.end_line(TESTED), **changed}) == {}
    assert journal.read(path).damaged == (3,)


def test_a_search_trial_has_no_test_images(path: Path) -> None:
    line = {**journal.end_line(TESTED), "trial": TRIAL.name}
    assert ends_of(path, TRIAL, line) == {}


def test_what_is_told_of_damaged_lines_is_short() -> None:
    contents = Contents({}, damaged=(3,))
    assert contents.damage.startswith("line 3 of the journal is damaged and left out")
    several = replace(contents, damaged=(2, 3, 4, 9, *range(20, 60, 2)))
    assert several.damage.startswith("lines 2-4, 9, 20, 22, 24, 26, 28, 30, 32, 34, ... of the")
    assert Contents({}).damage == ""


def test_text_that_is_no_unicode_is_written_so_that_it_is_read_and_stays_one_note(
    path: Path,
) -> None:
    for _ in range(2):
        writer = Journal(path)
        writer.append({"kind": "note", "text": "cannot decode a\udcff.jpg", "time": 1.0})
        writer.close()
    assert journal.read(path).notes == ("cannot decode a?.jpg",)


def test_a_line_that_would_not_be_read_is_not_written(path: Path) -> None:
    writer, before = Journal(path), path.read_bytes()
    with pytest.raises(ValueError, match="not a line of a journal"):
        writer.append({"kind": "note", "text": 5, "time": 1.0})
    writer.close()
    assert path.read_bytes() == before


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
