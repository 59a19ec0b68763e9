"""Fails a test that hangs, rather than waiting with it."""

from __future__ import annotations

import faulthandler
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SECONDS = 60.0  # only what hangs takes so long, on a busy machine too


@contextmanager
def no_hang() -> Iterator[None]:
    """Raises TimeoutError where its body hangs, and ends the process where a thread of it does."""

    def ring(number: int, frame: FrameType | None) -> None:
        raise TimeoutError("hangs")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, _SECONDS)
    faulthandler.dump_traceback_later(2 * _SECONDS, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
