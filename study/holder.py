"""Which process holds something, told so that another can say whether that one has ended."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Holder:
    """A process. host: the name of its machine. machine: its boot and the namespace of the pid, ''
    where that is not known. started: clock ticks from the boot to the start of the process."""

    host: str
    machine: str
    pid: int
    started: int

    def __str__(self) -> str:
        return f"{self.host}, pid {self.pid}"


def this_process() -> Holder:
    """The process that calls."""
    _, started = _state(os.getpid()) or ("", 0)
    return Holder(platform.node(), _machine(), os.getpid(), started)


def is_here(holder: Holder) -> bool:
    """Whether it runs, or ran, on this machine since it was started."""
    here = this_process()
    return bool(here.machine) and (holder.host, holder.machine) == (here.host, here.machine)


def has_ended(holder: Holder) -> bool:
    """Whether the process has ended. False also where that cannot be known: on another machine, in
    another container, and without /proc."""
    if not is_here(holder):
        return False
    try:
        os.kill(holder.pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass  # it runs, as another user
    if (state := _state(holder.pid)) is None:
        return False
    letter, started = state
    return letter in "ZX" or started != holder.started  # a pid is given again after some time


def _machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        # One machine has several processes of one pid: every container counts its own.
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _state(pid: int) -> tuple[str, int] | None:
    """State letter and start of a process; None where it is not to be seen."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()  # the name before it may hold anything
    return fields[0], int(fields[19])
