"""Processes that decode images give what threads give, and end with whom they work for."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.trainables.test_streaming import CONFIG, SIZE, cache, digest, held, root, streamed
from trainables.data_error import DataError
from trainables.decoders import Decoders
from trainables.decoding import WINDOW_DRAWS, decoded_batches
from trainables.streaming import Streamed
from trainables.training import Training

__all__ = ["cache", "root"]  # fixtures


@pytest.fixture(scope="module")
def decoders() -> Decoders:
    return Decoders(2, SIZE)


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def files_of(root: Path) -> Streamed:
    return streamed(root)[0].images


def soon(done: Callable[[], bool]) -> bool:
    end = time.monotonic() + 20
    while not done() and time.monotonic() < end:
        time.sleep(0.02)
    return done()


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return "Z" in Path(f"/proc/{pid}/stat").read_text().rsplit(")")[-1].split()[0]


@pytest.mark.parametrize("size", [1, 7, 16, 40, 60])
@pytest.mark.parametrize("windows", [False, True])
def test_batches_are_those_of_threads(
    root: Path, decoders: Decoders, size: int, windows: bool
) -> None:
    files = files_of(root).files
    order = np.random.default_rng(1).permutation(files.count)  # one of them does not decode
    wanted = [order[i : i + size] for i in range(0, len(order), size)] * 8

    def draws(batch: int) -> np.ndarray:
        return np.random.default_rng(batch).random((len(wanted[batch]), WINDOW_DRAWS))

    how = draws if windows else None
    ours = list(decoders.batches(files, wanted, how))
    theirs = list(decoded_batches(files, wanted, SIZE, 1, how))
    assert len(ours) == len(theirs) == len(wanted)
    for one, other in zip(ours, theirs, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
    assert sum((~each[2]).sum() for each in ours) > 0


def test_who_asks_anew_gets_no_more_of_what_was_asked_before(
    root: Path, decoders: Decoders
) -> None:
    files = files_of(root)
    before = decoders.batches(files.files, [files.which] * 50)
    next(before)
    [found] = files.batches([np.arange(60)], decoders)
    assert np.array_equal(found, held(root)[0].images)
    assert next(before, None) is None


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("augment", ["crop_flip", "resized_crop_flip"])
def test_a_trial_with_several_cores_trains_as_in_memory(root: Path, augment: str) -> None:
    config = replace(CONFIG, augment=augment)
    (images, facts), (files, _) = held(root), streamed(root)
    trainings = [Training(config, files, facts) for _ in range(2)]
    if augment == "crop_flip":
        trainings.append(Training(config, images, facts))
    found = []
    for training in trainings:
        metrics = [training.epoch() for _ in range(2)]
        for each in metrics:
            del each["seconds_per_epoch"]
        found.append((digest(training), metrics, training.test(files)))
    assert all(each == found[0] for each in found)


@pytest.mark.usefixtures("two_threads")
def test_processes_end_with_the_trial_that_is_dropped(root: Path) -> None:
    files, facts = streamed(root)
    training = Training(CONFIG, files, facts)
    training.advance(lambda: True)
    decoders = training._images._decoders  # type: ignore[attr-defined]
    processes, left = list(decoders._pool._processes), weakref.ref(decoders)
    assert processes
    del decoders
    gc.disable()
    try:
        del training
        assert left() is None
    finally:
        gc.enable()
    assert soon(lambda: all(map(gone, processes)))


def test_processes_end_with_the_one_that_was_killed() -> None:
    source = (
        "import numpy as np, time\n"
        "from trainables.decoders import Decoders\n"
        "from trainables.streaming import Pictures\n"
        "decoders = Decoders(2, 8)\n"
        "pictures = Pictures(np.zeros((99, 3, 8, 8), np.uint8))\n"
        "list(decoders.batches(pictures, [np.arange(99)]))\n"
        "print(*decoders._pool._processes, flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        processes = list(map(int, process.stdout.readline().split()))
        assert processes
        assert not any(map(gone, processes))
        process.kill()
        assert soon(lambda: all(map(gone, processes)))


def test_a_process_that_is_killed_fails_the_trial_in_a_clear_line(root: Path) -> None:
    decoders, files = Decoders(2, SIZE), files_of(root)
    batches = files.batches([np.arange(60)] * 50, decoders)
    next(batches)
    for pid in decoders._pool._processes:
        os.kill(pid, signal.SIGKILL)
    with pytest.raises(DataError, match="a process that decodes images was ended"):
        list(batches)


def test_a_file_that_changed_since_is_named(root: Path, decoders: Decoders) -> None:
    files = files_of(root)
    moved = replace(files, files=replace(files.files, root=str(root / "elsewhere")))  # type: ignore[type-var]
    with pytest.raises(DataError, match=r"cat/00.jpg is missing or no longer the image"):
        list(moved.batches([np.arange(40)], decoders))
