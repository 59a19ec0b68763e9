"""Processes of a study: found below its driver, never mistaken for others of the same number."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Process:
    """A process. born: when it started, in ticks since the machine did: with the number, a name
    that no other process ever has. name: its command line when it was found."""

    pid: int
    born: int
    name: str = ""


@dataclass(frozen=True)
class _Stat:
    state: str
    parent: int
    ticks: int
    born: int


def find(pid: int) -> Process | None:
    """The process of this number, None where there is none that runs."""
    stat = _stat(pid)
    if stat is None or stat.state in "ZX":
        return None
    try:
        line = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:  # it ended meanwhile
        return None
    return Process(pid, stat.born, line.replace(b"\0", b" ").decode(errors="replace").strip())


def below(pid: int) -> list[Process]:
    """Every process that descends from this one and runs."""
    parents: dict[int, list[int]] = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit() and (stat := _stat(int(entry.name))) is not None:
            parents.setdefault(stat.parent, []).append(int(entry.name))
    found, waiting = [], list(parents.get(pid, ()))
    while waiting:
        child = waiting.pop()
        waiting += parents.get(child, ())
        if (process := find(child)) is not None:
            found.append(process)
    return found


def kill(process: Process, number: signal.Signals = signal.SIGKILL) -> bool:
    """Sends a signal to this very process; whether it was still there."""
    try:
        handle = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return False
    try:
        # the handle is of one process for good: asked after it was opened, its identity stays
        if not runs(process):
            return False
        signal.pidfd_send_signal(handle, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(handle)
    return True


def runs(process: Process) -> bool:
    """Whether this very process still runs."""
    stat = _stat(process.pid)
    return stat is not None and stat.born == process.born and stat.state not in "ZX"


def wait_until_gone(processes: Iterable[Process], patience: float) -> list[Process]:
    """Waits until none of them runs; those that still do after `patience` seconds."""
    deadline = time.monotonic() + patience
    left = [each for each in processes if runs(each)]
    while left and time.monotonic() < deadline:
        time.sleep(0.1)
        left = [each for each in left if runs(each)]
    return left


def cpu_seconds(pid: int) -> float:
    """CPU time of a process and its threads so far, without its children; also of a dead one that
    nobody has waited for."""
    stat = _stat(pid)
    assert stat is not None, f"no process {pid}"
    return stat.ticks / _TICKS


def _stat(pid: int) -> _Stat | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return _Stat(fields[0], int(fields[1]), int(fields[11]) + int(fields[12]), int(fields[19]))
