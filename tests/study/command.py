"""Runs the command as a user does: a process of its own, in a folder of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
SPEC = ROOT / "search_spaces" / "norm_vs_all.yaml"
_MARK = "SAM_STUDY_TEST"
_PATIENCE = 240.0  # seconds; only a hanging test waits that long


@dataclass(frozen=True)
class Ended:
    """How a command ended. seconds: from the signal that ended it, or from its start."""

    code: int
    out: str
    err: str
    seconds: float

    @property
    def lines(self) -> list[str]:
        """What it printed to standard output."""
        return self.out.splitlines()


class Command:
    """`python -m study.run`, or another module, in `folder`: the leader of a process group, as in a
    terminal."""

    def __init__(
        self,
        folder: Path,
        settings: Iterable[str] = (),
        spec: Path | str = SPEC,
        arguments: Sequence[str] = (),
        module: str = "study.run",
    ) -> None:
        self._mark = uuid.uuid4().hex
        words = [sys.executable, "-m", module, str(spec), *arguments]
        for setting in settings:
            words += ["--set", setting]
        self._begun = time.monotonic()
        self.process = subprocess.Popen(
            words,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), _MARK: self._mark, "COLUMNS": "200"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal: SIGINT to the whole process group as a terminal does."""
        self._begun = time.monotonic()
        if number == signal.SIGINT:
            os.killpg(self.process.pid, number)
        else:
            self.process.send_signal(number)

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Waits until the condition holds. The command has to be running then."""
        deadline = time.monotonic() + _PATIENCE
        while not condition():
            assert self.process.poll() is None, self.ended()
            assert time.monotonic() < deadline, "waited in vain"
            time.sleep(0.02)

    def ended(self, patience: float = _PATIENCE) -> Ended:
        """Waits for its end. Raises TimeoutExpired after `patience` seconds."""
        out, err = self.process.communicate(timeout=patience)
        return Ended(self.process.returncode, out, err, time.monotonic() - self._begun)

    def left_behind(self) -> dict[int, str]:
        """Processes that it started, directly or not, and that still run: pid and command line."""
        mark = f"{_MARK}={self._mark}".encode()
        return {
            pid: line
            for pid, line in processes()
            if pid != os.getpid() and mark in _read(pid, "environ").split(b"\0")
        }

    def wait_for_children(self, seconds: float = 30) -> dict[int, str]:
        """Gives what it started some time to end; returns what still runs then."""
        deadline = time.monotonic() + seconds
        while (left := self.left_behind()) and time.monotonic() < deadline:
            time.sleep(0.1)
        return left

    def clean(self) -> None:
        """Ends whatever is left of it."""
        for pid in [self.process.pid, *self.left_behind()]:
            if pid != self.process.pid or self.process.poll() is None:
                kill(pid)
        self.process.communicate()


@contextmanager
def running(
    folder: Path,
    settings: Iterable[str] = (),
    spec: Path | str = SPEC,
    arguments: Sequence[str] = (),
    module: str = "study.run",
) -> Iterator[Command]:
    """A command under way, of which nothing is left afterwards."""
    command = Command(folder, settings, spec, arguments, module)
    try:
        yield command
    finally:
        command.clean()


def run(
    folder: Path,
    settings: Iterable[str] = (),
    spec: Path | str = SPEC,
    arguments: Sequence[str] = (),
    module: str = "study.run",
) -> Ended:
    """Runs a command to its end. spec: what it is about; for other modules the study's name."""
    with running(folder, settings, spec, arguments, module) as command:
        return command.ended()


def processes() -> Iterator[tuple[int, str]]:
    """Pid and command line of every process of this machine but dead ones."""
    for entry in os.scandir("/proc"):
        if entry.name.isdigit() and (line := _read(int(entry.name), "cmdline")):
            yield int(entry.name), line.replace(b"\0", b" ").decode(errors="replace").strip()


def kill(pid: int) -> None:
    """Ends a process at once, if it is still there."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def journal_lines(folder: Path, **wanted: object) -> list[dict[str, Any]]:
    """Whole lines of a study's journal with these values, none where there is no journal."""
    try:
        text = (folder / "journal.jsonl").read_text()
    except FileNotFoundError:
        return []
    lines = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
    return [line for line in lines if wanted.items() <= line.items()]


def _read(pid: int, what: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{what}").read_bytes()
    except OSError:  # it ended meanwhile
        return b""
