"""Whether a process has ended, as another one can tell."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

import pytest

from study import holder
from study.holder import Holder, has_ended, this_process

pytestmark = pytest.mark.skipif(not this_process().machine, reason="no /proc on this machine")


@pytest.fixture
def child() -> Iterator[tuple[subprocess.Popen[bytes], Holder]]:
    """Another process, and its holder."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    state = holder._state(process.pid)
    assert state is not None
    yield process, replace(this_process(), pid=process.pid, started=state[1])
    process.kill()
    process.communicate()


def test_one_that_runs_has_not_ended(child: tuple[subprocess.Popen[bytes], Holder]) -> None:
    assert not has_ended(child[1])
    assert not has_ended(this_process())


def test_one_that_was_killed_has_ended_before_its_parent_looks(
    child: tuple[subprocess.Popen[bytes], Holder],
) -> None:
    process, held = child
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # a zombie: nobody took its code
    assert has_ended(held)
    process.communicate()
    assert has_ended(held)


def test_one_whose_pid_was_given_to_another_has_ended() -> None:
    here = this_process()
    assert has_ended(replace(here, started=here.started - 1))


def test_one_on_another_machine_may_run() -> None:
    nobody = replace(this_process(), pid=2**22 + 1)
    assert has_ended(nobody)
    assert not has_ended(replace(nobody, host="elsewhere"))
    assert not has_ended(replace(nobody, machine="boot pid:[1]"))


def test_where_machines_cannot_be_told_apart_it_may_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holder, "_machine", lambda: "")
    assert not has_ended(replace(this_process(), pid=2**22 + 1))


def test_it_is_told_by_host_and_pid() -> None:
    assert str(Holder("node-1", "", 12, 3)) == "node-1, pid 12"
