"""Processes that decode image files beside one that trains. No torch, which each would import."""

from __future__ import annotations

import signal
import warnings
from concurrent.futures import Executor

_IDLE = 30
"""Seconds after which a process without work ends."""


def decoders(count: int) -> Executor | int:
    """So many processes, the same for all who ask in this one; instead of one process, a thread.

    Threads would take turns with the one that trains for Python's interpreter lock, and a GPU
    waits where that one does. These are fresh processes and no forks, which may hang where there is
    a GPU, or Ray; they end with the one that asked, or after a while without work.
    """
    if count == 1:
        return 1
    from loky import get_reusable_executor  # most trials need none

    pool: Executor = get_reusable_executor(count, timeout=_IDLE, initializer=_begin)
    return pool


def _begin() -> None:
    """What each of them does first."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the one that trains says what becomes of them
    warnings.simplefilter("ignore")  # Pillow on damaged images: what decoded is told
