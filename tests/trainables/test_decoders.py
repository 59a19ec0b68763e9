"""Processes that decode images give what a thread gives, and end with whom they work for."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.trainables.test_streaming import CONFIG, SIZE, cache, held, root, streamed
from tests.trainables.test_training import digest
from trainables import decoders
from trainables.data_error import DataError
from trainables.decoding import WINDOW_DRAWS, decoded_batches
from trainables.streaming import Pictures, Streamed
from trainables.training import Training

__all__ = ["cache", "root"]  # fixtures


@pytest.fixture
def two() -> Executor:
    found = decoders.decoders(2)
    assert isinstance(found, Executor)
    return found


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def files_of(root: Path) -> Streamed:
    return streamed(root)[0].images


def ids(pool: Executor) -> set[int]:
    return set(pool._processes)  # type: ignore[attr-defined]


def soon_gone(processes: list[int]) -> bool:
    def there(pid: int) -> bool:
        found = subprocess.run(
            ["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True
        )
        return found.stdout.strip() not in ("", "Z", "Z+")

    end = time.monotonic() + 20
    while (left := any(map(there, processes))) and time.monotonic() < end:
        time.sleep(0.1)
    return not left


@pytest.mark.parametrize("size", [1, 7, 16, 40, 60])
@pytest.mark.parametrize("windows", [False, True])
def test_batches_are_those_of_a_thread(root: Path, two: Executor, size: int, windows: bool) -> None:
    files = files_of(root).files
    order = np.random.default_rng(1).permutation(files.count)  # one of them does not decode
    wanted = [order[i : i + size] for i in range(0, len(order), size)] * 3

    def draws(batch: int) -> np.ndarray:
        return np.random.default_rng(batch).random((len(wanted[batch]), WINDOW_DRAWS))

    how = draws if windows else None
    ours = list(decoded_batches(files, wanted, SIZE, two, how))
    theirs = list(decoded_batches(files, wanted, SIZE, 1, how))
    assert len(ours) == len(theirs) == len(wanted)
    for one, other in zip(ours, theirs, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
    assert sum((~each[2]).sum() for each in ours) > 0


def test_two_who_ask_in_turns_get_their_own(root: Path, two: Executor) -> None:
    files, images = files_of(root), held(root)[0].images
    orders = [np.arange(60), np.arange(60)[::-1]]
    pairs = zip(*(files.batches([each] * 6, two) for each in orders), strict=True)
    for found in pairs:
        for each, order in zip(found, orders, strict=True):
            assert np.array_equal(each, images[order])


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("augment", ["crop_flip", "resized_crop_flip"])
def test_a_trial_with_several_cores_trains_as_with_a_thread_that_decodes(
    root: Path, monkeypatch: pytest.MonkeyPatch, augment: str
) -> None:
    (files, facts), found = streamed(root), []
    for with_thread in (False, True):
        if with_thread:
            monkeypatch.setattr("trainables.sources.decoders", lambda count: 1)
        training = Training(replace(CONFIG, augment=augment), files, facts)
        metrics = [training.epoch() for _ in range(2)]
        for each in metrics:
            del each["seconds_per_epoch"]
        found.append((digest(training), metrics, training.test(files)))
    assert found[0] == found[1]


def test_all_who_ask_share_the_same_processes(root: Path, two: Executor) -> None:
    for _ in range(3):
        list(files_of(root).batches([np.arange(60)] * 3, decoders.decoders(2)))
        before = ids(two)
    assert len(before) == 2
    assert decoders.decoders(2) is two


@pytest.mark.parametrize("end", ["os.kill(os.getpid(), signal.SIGKILL)", "sys.exit(3)"])
def test_processes_end_with_the_one_that_asked(monkeypatch: pytest.MonkeyPatch, end: str) -> None:
    source = (
        "import os, signal, sys\n"
        "import numpy as np\n"
        "from trainables import decoders\n"
        "from trainables.streaming import Pictures, Streamed\n"
        "decoders._IDLE = 3\n"
        "files = Streamed(Pictures(np.zeros((99, 3, 8, 8), np.uint8)), np.arange(99), 8)\n"
        "pool = decoders.decoders(2)\n"
        "batches = files.batches([np.arange(99)] * 20, pool)\n"
        "next(batches)\n"
        "print(*pool._processes, 'torch' in sys.modules, flush=True)\n"
        f"{end}\n"
    )
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True)
    *processes, with_torch = done.stdout.split()
    assert with_torch == "False"
    assert done.returncode == (3 if "exit" in end else -signal.SIGKILL)
    assert len(processes) == 2
    assert soon_gone([int(each) for each in processes])


def test_a_process_that_is_killed_fails_the_trial_in_a_clear_line(
    root: Path, two: Executor
) -> None:
    files = files_of(root)
    batches = files.batches([np.arange(60)] * 500, two)
    next(batches)
    for pid in ids(two):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    with pytest.raises(DataError, match="a process that decodes images was ended") as caught:
        list(batches)
    assert "\n" not in str(caught.value)
    again = decoders.decoders(2)
    assert again is not two
    [found] = files.batches([np.arange(60)], again)
    assert np.array_equal(found, held(root)[0].images)


def test_a_process_that_is_killed_while_nobody_asks_any_more_harms_nobody(
    root: Path, two: Executor
) -> None:
    files = files_of(root)
    batches = files.batches([np.arange(60)] * 500, two)
    next(batches)
    killed = ids(two)
    batches.close()  # type: ignore[attr-defined]
    for pid in killed:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 20
    while decoders.decoders(2) is two and time.monotonic() < deadline:
        time.sleep(0.05)
    [found] = files.batches([np.arange(60)], decoders.decoders(2))
    assert np.array_equal(found, held(root)[0].images)


def test_a_file_that_changed_since_is_named(root: Path, two: Executor) -> None:
    files = files_of(root)
    moved = replace(files, files=replace(files.files, root=str(root / "elsewhere")))  # type: ignore[type-var]
    with pytest.raises(DataError, match=r"cat/00.jpg is missing or no longer the image"):
        list(moved.batches([np.arange(40)], two))


class Refused(Pictures):
    """Files on a disk that fails."""

    def part(self, numbers: np.ndarray) -> Refused:
        return Refused(self._images[numbers])

    def read(self, number: int) -> bytes:
        raise DataError(f"cannot read {self.name(number)}: Input/output error")


def test_a_file_that_cannot_be_read_is_named(two: Executor) -> None:
    files = Refused(np.zeros((5, 3, SIZE, SIZE), np.uint8))
    with pytest.raises(DataError, match="cannot read image 0: Input/output error"):
        list(decoded_batches(files, [np.arange(5)], SIZE, two))
