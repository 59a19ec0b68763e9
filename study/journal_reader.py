"""Reads a journal line by line, and leaves out what is damaged."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError
from pydantic_core import from_json

from study import extension, space, stages
from study.journal_lines import Line, decoded, key_of, parse, parse_start
from study.records import Trial
from study.spec import Spec

VERSION = 2
_OPENING = b'{"kind": "header"'
_ROUNDING = 1e-9
"""Of an accuracy in percent, far below one image."""


class JournalError(Exception):
    """A file that is no journal, or of another version, or whose first line is damaged; the text
    says what to do."""


class Reader:
    """Reads the whole lines of a journal in order; goes on with those appended since.

    Leaves out repetitions, and lines that are damaged. seen: the keys of lines; damaged: numbers of
    lines, from 1; offset: in bytes, behind the last line read.
    """

    def __init__(self, path: Path) -> None:
        self.seen: set[object] = set()
        self.damaged: list[int] = []
        self.offset = 0
        self._path = path
        self._number = 0
        self._spec: Spec | None = None
        self._started: dict[str, Trial] = {}

    def lines(self, until: float = math.inf) -> Iterator[tuple[int, Line]]:
        """The lines that end at byte `until` or before, each with the offset behind it.

        Raises JournalError where the first is not the header of a journal of this version.
        """
        with self._path.open("rb") as file:
            file.seek(self.offset)
            for raw in file:
                if not raw.endswith(b"\n") or self.offset + len(raw) > until:
                    return
                self.offset += len(raw)
                self._number += 1
                line = parse(raw)
                if self._spec is None:
                    self._spec = self._begin(raw, line)
                elif line is None or not self._belongs(line, self._spec):
                    self.damaged.append(self._number)
                    continue
                if line is not None and (key := key_of(line)) not in self.seen:
                    self.seen.add(key)
                    yield self.offset, line

    def _begin(self, raw: bytes, line: Line | None) -> Spec:
        version = _version(raw)
        if version not in (None, VERSION):
            raise JournalError(
                f"{self._path}: not a journal of version {VERSION}, but of {version}; go on with "
                "the version of this program that wrote it"
            )
        if line is None or line["kind"] != "header":
            raise JournalError(
                f"{self._path}: not a journal, or its first line, which says what the study is, is "
                "damaged; restore it from a copy"
            )
        try:
            return Spec.model_validate(line["spec"])
        except ValidationError:
            raise JournalError(
                f"{self._path}: written by another version of this program, which named its "
                "settings otherwise; go on with that version"
            ) from None

    def _belongs(self, line: Line, spec: Spec) -> bool:
        """Whether the line fits to those before it and to the study."""
        match line["kind"]:
            case "start":
                arm = spec.arms.get(line["arm"])
                trial = parse_start(line, spec.study)
                if trial.name != line["trial"] or arm is None:
                    return False
                if not space.possible(arm, trial.hyperparameters):
                    return False
                self._started.setdefault(trial.name, trial)
            case "epoch":
                trial_of = self._started.get(line["trial"])
                return trial_of is not None and line["epoch"] <= stages.trial_epochs(spec, trial_of)
            case "failure" | "measurement":
                return line["trial"] in self._started
            case "end":
                trial_of = self._started.get(line["trial"])
                return trial_of is not None and _is_sound(line, trial_of)
            case "extend":
                return _raises(line, spec)
        return True


def begun(path: Path) -> bool:
    """Whether the journal has a whole line: a crash in the first moments may leave less.

    Raises JournalError where what is there can be no part of one, OSError as open.
    """
    with path.open("rb") as file:
        first = file.readline()
    if first.endswith(b"\n"):
        return True
    if first[: len(_OPENING)] != _OPENING[: len(first)]:
        raise JournalError(f"{path}: not a journal; restore it from a copy")
    return False


def _version(raw: bytes) -> object:
    """The version that a header names, whatever else it holds; None where it is no header."""
    try:
        line = from_json(raw)
    except ValueError:
        return None
    return line.get("version") if isinstance(line, dict) and line.get("kind") == "header" else None


def _is_sound(line: Line, trial: Trial) -> bool:
    """Whether an end line has the scores that its status asks for, and they agree with its bits."""
    scores = line["scores"]
    if "correct" in line:
        finished = line["status"] == "finished" and trial.stage == "confirm"
        correct = decoded(line["correct"])
        accuracy = 100 * correct.count / correct.images
        if not (finished and abs(scores.get("test_accuracy", -1) - accuracy) < _ROUNDING):
            return False
    needed = {"validation_accuracy"} | ({"test_accuracy"} if trial.stage == "confirm" else set())
    match line["status"]:
        case "finished" | "diverged":
            return needed <= set(scores)
        case "failed":
            return not scores
    return not scores or "validation_accuracy" in scores


def _raises(line: Line, planned: Spec) -> bool:
    """Whether an extend line raises the budgets of the planned study and changes nothing else."""
    try:
        given = extension.options(planned, Spec.model_validate(line["spec"]))
    except ValidationError:
        return False
    return given is not None
