"""The append-only record of every result that a trial reported: the truth a study is judged by.

JSON lines, one object a line, told apart by `kind`; `journal_lines` says what they hold. Lines are
unique by (kind, trial, epoch) and the first wins: a trial that starts again repeats lines that it
wrote before.

A line that is damaged is left out, wherever it stands, and stays in the file. So is a line of a
trial that did not start before it, as when the line that says so is damaged. A trial of which the
start, an epoch or the end is lost counts as not ended, is run again and writes what is missing. The
first line, the header, is the one that a journal cannot do without.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from study.journal_lines import (
    LIMIT,
    Line,
    encoded,
    key_of,
    parse,
    parse_end,
    parse_epoch,
    parse_failure,
    parse_measurement,
    parse_start,
)
from study.journal_reader import JournalError, Reader
from study.records import End, Epoch, Failure, Measurement, Result, Trial


@dataclass(frozen=True)
class Contents:
    """What a journal holds. trials: every trial that started, in that order, with its start time;
    epochs and ends by trial name; verdicts: by the number of their round; extensions: specs, up to
    the first that is lost; damaged: numbers of lines that are left out, from 1."""

    header: Line
    trials: Mapping[str, Trial] = field(default_factory=dict)
    started: Mapping[str, float] = field(default_factory=dict)
    epochs: Mapping[str, tuple[Epoch, ...]] = field(default_factory=dict)
    ends: Mapping[str, End] = field(default_factory=dict)
    failures: Mapping[str, tuple[Failure, ...]] = field(default_factory=dict)
    measurements: tuple[Measurement, ...] = ()
    notes: tuple[str, ...] = ()
    verdicts: Mapping[int, Line] = field(default_factory=dict)
    extensions: tuple[Line, ...] = ()
    damaged: tuple[int, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether the planned study and every extension have their verdict."""
        return all(number in self.verdicts for number in range(len(self.extensions) + 1))

    @property
    def damage(self) -> str:
        """What to tell of damaged lines; empty where there are none."""
        if not self.damaged:
            return ""
        several = len(self.damaged) > 1
        return (
            f"{'lines' if several else 'line'} {_ranges(self.damaged)} of the journal "
            f"{'are' if several else 'is'} damaged and left out; trials that lost by it are run "
            "again"
        )

    @property
    def failed_attempts(self) -> Mapping[str, int]:
        """How many attempts failed, by trial."""
        return {name: len(each) for name, each in self.failures.items()}

    @property
    def results(self) -> tuple[Result, ...]:
        """Trials that ended, in the order in which they started."""
        return tuple(
            Result(trial, self.ends[name], self.epochs.get(name, ()), self.started[name])
            for name, trial in self.trials.items()
            if name in self.ends
        )


class RecordError(Exception):
    """Results can no longer be written; told to the user in one line."""


class Journal:
    """Appends lines to a journal file. One process at a time, one thread at a time."""

    def __init__(self, path: Path) -> None:
        """Opens `path`, made when it is not there, and cuts off a torn last line.

        Raises JournalError as Reader.
        """
        _cut_torn_line(path)
        self._file: IO[bytes] = path.open("ab", buffering=0)
        reader = Reader(path)
        for _ in reader.lines():
            pass
        self._seen = reader.seen

    def append(self, line: Line, *, sync: bool = False) -> bool:
        """Writes `line` unless one with its key is there; with sync, waits until it is on disk.

        Returns whether it was written. Raises OSError (disk full), after which the line counts as
        not written, though a part of it may stand at the end of the file; ValueError for a line
        that would be left out when the journal is read.
        """
        line = _plain(line)
        key = key_of(line)
        if key in self._seen:
            return False
        rest = json.dumps(line, allow_nan=False).encode() + b"\n"
        if parse(rest) is None:
            raise ValueError(f"not a line of a journal: {rest[:200].decode()}")
        while rest:
            rest = rest[self._file.write(rest) :]
        if sync:
            os.fsync(self._file.fileno())
        self._seen.add(key)
        return True

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def start_line(trial: Trial, time: float) -> Line:
    """The line that says that a trial starts."""
    return {
        "kind": "start",
        "trial": trial.name,
        "arm": trial.arm,
        "stage": trial.stage,
        "index": trial.index,
        "repeat": trial.repeat,
        "seed": trial.seed,
        "hyperparameters": dict(trial.hyperparameters),
        "time": time,
    }


def epoch_line(epoch: Epoch) -> Line:
    """The line of one epoch."""
    return {
        "kind": "epoch",
        "trial": epoch.trial,
        "epoch": epoch.epoch,
        "metrics": _measured(epoch.metrics),
        "time": epoch.time,
    }


def failure_line(failure: Failure) -> Line:
    """The line of an attempt that failed."""
    return {"kind": "failure", **vars(failure)}


def end_line(end: End) -> Line:
    """The line that says how a trial ended."""
    return {
        "kind": "end",
        "trial": end.trial,
        "status": end.status,
        "reason": end.reason,
        "scores": _measured(end.scores),
        "epochs": end.epochs,
        "time": end.time,
        **({} if end.correct is None else {"correct": encoded(end.correct)}),
    }


def measurement_line(measurement: Measurement) -> Line:
    """The line of what was measured on a run."""
    values = [
        {"measure": v.measure, "part": v.part, **_measured({"at": v.at, "value": v.value})}
        for v in measurement.values
    ]
    return {"kind": "measurement", **vars(measurement), "values": values}


def lines(path: Path) -> Iterator[tuple[int, Line]]:
    """The lines of the journal at `path` but damaged ones, as Reader.lines."""
    return Reader(path).lines()


def read(path: Path) -> Contents:
    """What the journal at `path` holds.

    Raises FileNotFoundError, and JournalError where the file is none of this version.
    """
    header: Line = {}
    trials: dict[str, Trial] = {}
    started: dict[str, float] = {}
    epochs: dict[str, list[Epoch]] = {}
    ends: dict[str, End] = {}
    failures: dict[str, list[Failure]] = {}
    measurements: list[Measurement] = []
    notes: list[str] = []
    verdicts: dict[int, Line] = {}
    extensions: dict[int, Line] = {}
    reader = Reader(path)
    for _, line in reader.lines():
        match line["kind"]:
            case "header":
                header = line
            case "start":
                trial = parse_start(line, header["spec"]["study"])
                trials[trial.name] = trial
                started[trial.name] = line["time"]
            case "epoch":
                epochs.setdefault(line["trial"], []).append(parse_epoch(line))
            case "failure":
                failures.setdefault(line["trial"], []).append(parse_failure(line))
            case "end":
                ends[line["trial"]] = parse_end(line)
            case "measurement":
                measurements.append(parse_measurement(line))
            case "note":
                notes.append(line["text"])
            case "verdict":
                verdicts[line["number"]] = line["verdict"]
            case "extend":
                extensions[line["number"]] = line["spec"]
    if not header:
        raise JournalError(f"{path}: not a journal: it has no whole line; restore it from a copy")
    ordered = {n: tuple(sorted(e, key=lambda epoch: epoch.epoch)) for n, e in epochs.items()}
    return Contents(
        header,
        trials,
        started,
        ordered,
        {name: end for name, end in ends.items() if _is_whole(end, ordered.get(name, ()))},
        {name: tuple(each) for name, each in failures.items()},
        tuple(measurements),
        tuple(notes),
        verdicts,
        tuple(_consecutive(extensions)),
        tuple(reader.damaged),
    )


def _ranges(numbers: Sequence[int]) -> str:
    """Ascending numbers, the first of them at least, short enough to read."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1][1:] = [number]
        else:
            runs.append([number])
    named = ["-".join(map(str, run)) for run in runs]
    return ", ".join(named[:10]) + (", ..." if len(named) > 10 else "")


def _is_whole(end: End, epochs: Sequence[Epoch]) -> bool:
    """Whether no epoch of a trial that ended is lost. epochs: in order, each once."""
    return [epoch.epoch for epoch in epochs[: end.epochs]] == [*range(1, end.epochs + 1)]


def _consecutive(extensions: Mapping[int, Line]) -> Iterator[Line]:
    """The extensions from number 1 to the first that is lost."""
    number = 1
    while number in extensions:
        yield extensions[number]
        number += 1


def _plain(value: Any) -> Any:
    """What JSON has no word for is replaced: numbers that are not finite by null, parts of file
    names that are no text by '?'."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, str) and not value.isascii():
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def _measured(values: Mapping[str, float | None]) -> dict[str, float | None]:
    return {
        key: value if value is not None and abs(value) < LIMIT else None
        for key, value in values.items()
    }


def _cut_torn_line(path: Path) -> None:
    """Cuts the file back to its last whole line."""
    if path.exists():
        data = path.read_bytes()
        os.truncate(path, data.rfind(b"\n") + 1)
