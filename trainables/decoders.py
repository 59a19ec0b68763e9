"""Processes that decode image files while another one trains.

Threads would take turns with the one that trains for Python's interpreter lock: on two cores two
processes decode a third more than two threads, and a GPU is told what to do from one thread.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import threading
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.process import parent_process
from typing import Any

import numpy as np

from trainables import decoding
from trainables.data_error import DataError
from trainables.decoding import Encoded

_BLOCK = 16
"""Files that a process decodes at a time."""
_SLOTS = 6
"""Blocks for each process that may be under way, or wait to be used."""


class Decoders:
    """`count` processes that decode to images of one height and width.

    They end with this object, or when the process that made it does, however it ends.
    """

    def __init__(self, count: int, image_size: int) -> None:
        # A fork of a process that holds a GPU, or threads of Ray, may hang.
        context = multiprocessing.get_context("forkserver")
        self._shape = (count * _SLOTS, _BLOCK, 3, image_size, image_size)
        memory = context.RawArray("B", int(np.prod(self._shape)))
        self._slots = _viewed(memory, self._shape)
        self._pool = ProcessPoolExecutor(
            count, context, _begin, (memory, self._shape, context.RLock())
        )
        self._open: Callable[[], Any] = lambda: None

    def batches(
        self,
        files: Encoded,
        wanted: Iterable[np.ndarray],
        draws: Callable[[int], np.ndarray] | None = None,
    ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """As decoding.decoded_batches. Whoever asks for these gets no more of the batches that
        were asked for before."""
        if (before := self._open()) is not None:
            before.close()
        found = self._batches(files, wanted, draws)
        self._open = weakref.ref(found)  # which holds this object
        return found

    def _batches(
        self,
        files: Encoded,
        wanted: Iterable[np.ndarray],
        draws: Callable[[int], np.ndarray] | None,
    ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        blocks = _blocks(wanted, draws)
        free = deque(range(len(self._slots)))
        begun: deque[tuple[np.ndarray, slice, int, Future[np.ndarray]]] = deque()

        def begin() -> None:
            for numbers, part, own in itertools.islice(blocks, len(free)):
                slot = free.popleft()
                task = self._pool.submit(_decode, files.part(numbers[part]), slot, own)
                begun.append((numbers, part, slot, task))

        try:
            begin()
            while begun:
                numbers, part, slot, task = begun[0]
                if part.start == 0:
                    images = np.empty((len(numbers), *self._shape[2:]), np.uint8)
                    decoded = np.empty(len(numbers), bool)
                decoded[part] = task.result()
                images[part] = self._slots[slot, : len(decoded[part])]
                begun.popleft()
                free.append(slot)
                begin()
                if part.stop >= len(numbers):
                    yield numbers, images, decoded
        except BrokenProcessPool as error:
            raise DataError(
                "a process that decodes images was ended, perhaps by the system for want of "
                "memory; a smaller resources.cpu takes fewer of them"
            ) from error
        finally:  # also where nobody asks for the rest
            tasks = [task for *_, task in begun]
            wait([task for task in tasks if not task.cancel()])  # they write to the slots


def _blocks(
    wanted: Iterable[np.ndarray], draws: Callable[[int], np.ndarray] | None
) -> Iterator[tuple[np.ndarray, slice, np.ndarray | None]]:
    for batch, numbers in enumerate(wanted):
        own = None if draws is None else draws(batch)
        for first in range(0, len(numbers), _BLOCK):
            part = slice(first, first + _BLOCK)
            yield numbers, part, None if own is None else own[part]


def _viewed(memory: Any, shape: tuple[int, ...]) -> np.ndarray:
    return np.frombuffer(memory, np.uint8).reshape(shape)


_shared: np.ndarray
"""The slots, in a process that decodes."""


def _begin(memory: Any, shape: tuple[int, ...], one_large: Any) -> None:
    """What each of the processes does first."""
    global _shared
    _shared = _viewed(memory, shape)
    decoding._one_large = one_large
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the one that trains says what becomes of them
    warnings.simplefilter("ignore")  # of damaged images: what decoded is told
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(0)


def _decode(files: Encoded, slot: int, draws: np.ndarray | None) -> np.ndarray:
    """Decodes all of these files into a slot: bool [n], which of them did."""
    count = files.count
    decoded = np.zeros(count, bool)
    images = _shared[slot, :count]
    images[:] = 0
    decoding.decode_into(files, np.arange(count), images, decoded, draws)
    return decoded
