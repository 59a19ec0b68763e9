"""The append-only record of every result that a trial reported: the truth a study is judged by.

JSON lines, one object a line, told apart by `kind`:

    header   version, time, spec, hash, plan, commit, versions, data, ledger
    start    trial, arm, stage, index, repeat, seed, hyperparameters, time
    epoch    trial, epoch, metrics, time
    end      trial, status, reason, scores, epochs, time
    note     text, time: something a reader of the result should know
    verdict  verdict, number, time: 0 is the planned one, then one for each extension
    extend   number, spec, time: budgets raised after the verdict before it was seen

A number that is not finite is null. Lines are unique by (kind, trial, epoch) and the first wins: a
trial that starts again repeats lines that it wrote before. Times are seconds since 1970.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from study.records import End, Epoch, Result, Trial

VERSION = 2
Line = Mapping[str, Any]


@dataclass(frozen=True)
class Contents:
    """What a journal holds. trials: every trial that started, in that order, with its start time;
    epochs and ends by trial name; verdicts: by the number of their round; extensions: specs."""

    header: Line
    trials: Mapping[str, Trial] = field(default_factory=dict)
    started: Mapping[str, float] = field(default_factory=dict)
    epochs: Mapping[str, tuple[Epoch, ...]] = field(default_factory=dict)
    ends: Mapping[str, End] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    verdicts: Mapping[int, Line] = field(default_factory=dict)
    extensions: tuple[Line, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether the planned study and every extension have their verdict."""
        return len(self.verdicts) > len(self.extensions)

    @property
    def results(self) -> tuple[Result, ...]:
        """Trials that ended, in the order in which they started."""
        return tuple(
            Result(trial, self.ends[name], self.epochs.get(name, ()), self.started[name])
            for name, trial in self.trials.items()
            if name in self.ends
        )


class JournalError(Exception):
    """A journal that this version cannot read."""


class RecordError(Exception):
    """Results can no longer be written; told to the user in one line."""


class Journal:
    """Appends lines to a journal file. One process at a time, one thread at a time."""

    def __init__(self, path: Path) -> None:
        """Opens `path`, made when it is not there, and cuts off a torn last line."""
        whole = _cut_torn_line(path)
        self._seen = {_key(json.loads(line)) for line in whole}
        self._file: IO[bytes] = path.open("ab", buffering=0)

    def append(self, line: Line, *, sync: bool = False) -> bool:
        """Writes `line` unless one with its key is there; with sync, waits until it is on disk.

        Returns whether it was written. Raises OSError (disk full), after which the line counts as
        not written, though a part of it may stand at the end of the file.
        """
        key = _key(line)
        if key in self._seen:
            return False
        rest = json.dumps(_finite(line), allow_nan=False).encode() + b"\n"
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
        "metrics": dict(epoch.metrics),
        "time": epoch.time,
    }


def end_line(end: End) -> Line:
    """The line that says how a trial ended."""
    return {
        "kind": "end",
        "trial": end.trial,
        "status": end.status,
        "reason": end.reason,
        "scores": dict(end.scores),
        "epochs": end.epochs,
        "time": end.time,
    }


def lines(path: Path, offset: int = 0) -> Iterator[tuple[int, Line]]:
    """Whole lines of the file from byte `offset` on, each with the offset behind it.

    Raises JournalError at a line that is damaged.
    """
    with path.open("rb") as file:
        file.seek(offset)
        for raw in file:
            if not raw.endswith(b"\n"):
                return
            try:
                line = json.loads(raw)
            except ValueError as error:
                raise JournalError(
                    f"{path}: not a journal, or damaged, at byte {offset}: {error}"
                ) from None
            offset += len(raw)
            yield offset, line


def read(path: Path) -> Contents:
    """What the journal at `path` holds.

    Raises FileNotFoundError, and JournalError where the file is none of this version.
    """
    seen: set[object] = set()
    header: Line = {}
    trials: dict[str, Trial] = {}
    started: dict[str, float] = {}
    epochs: dict[str, list[Epoch]] = {}
    ends: dict[str, End] = {}
    notes: list[str] = []
    verdicts: dict[int, Line] = {}
    extensions: list[Line] = []
    try:
        for _, line in lines(path):
            if (key := _key(line)) in seen:
                continue
            seen.add(key)
            match line["kind"]:
                case "header":
                    header = line
                case "start":
                    trial = parse_start(line, header["spec"]["study"])
                    trials[trial.name] = trial
                    started[trial.name] = line["time"]
                case "epoch":
                    epochs.setdefault(line["trial"], []).append(parse_epoch(line))
                case "end":
                    ends[line["trial"]] = parse_end(line)
                case "note":
                    notes.append(line["text"])
                case "verdict":
                    verdicts[line["number"]] = line["verdict"]
                case "extend":
                    extensions.append(line["spec"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise JournalError(f"{path}: not a journal of a study: {error!r}") from None
    if header.get("version") != VERSION:
        raise JournalError(f"{path}: not a journal of version {VERSION}")
    ordered = {n: tuple(sorted(e, key=lambda epoch: epoch.epoch)) for n, e in epochs.items()}
    return Contents(
        header, trials, started, ordered, ends, tuple(notes), verdicts, tuple(extensions)
    )


def parse_start(line: Line, study: str) -> Trial:
    """The trial of a start line."""
    return Trial(
        study,
        line["arm"],
        line["stage"],
        line["index"],
        line["seed"],
        line["hyperparameters"],
        line["repeat"],
    )


def parse_epoch(line: Line) -> Epoch:
    """The record of an epoch line."""
    return Epoch(line["trial"], line["epoch"], _numbers(line["metrics"]), line["time"])


def parse_end(line: Line) -> End:
    """The record of an end line."""
    scores = _numbers(line["scores"])
    return End(line["trial"], line["status"], line["reason"], scores, line["epochs"], line["time"])


def _key(line: Line) -> tuple[object, ...]:
    return line["kind"], *map(line.get, ("trial", "epoch", "text", "number"))


def _finite(value: Any) -> Any:
    """JSON has no NaN: numbers that are not finite become null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value


def _numbers(values: Mapping[str, float | None]) -> dict[str, float]:
    return {key: math.nan if value is None else value for key, value in values.items()}


def _cut_torn_line(path: Path) -> list[bytes]:
    """Cuts the file back to its last whole line and returns its lines."""
    if not path.exists():
        return []
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        os.truncate(path, len(whole))
    return whole.splitlines()
