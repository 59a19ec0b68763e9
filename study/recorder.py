"""One thread that writes what happens: the journal first, then the ledger."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from types import TracebackType

from study import journal
from study.journal import Journal, Line, RecordError
from study.ledger import Ledger
from study.records import End, Epoch, Trial

_Entry = tuple[Line, End | None] | threading.Event | None
"""A line, with the end that it tells of; an event to set; or None: stop."""


class Recorder:
    """Takes events without blocking and writes them in order.

    on_error is called by the writing thread when it cannot go on (disk full, say): the study has to
    stop then, because what follows would not be recorded. Leaving the context writes what was
    taken so far, and raises that error.
    """

    def __init__(self, journal: Journal, ledger: Ledger, on_error: Callable[[], None]) -> None:
        self._journal = journal
        self._ledger = ledger
        self._on_error = on_error
        self._queue: queue.SimpleQueue[_Entry] = queue.SimpleQueue()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._write, name="recorder", daemon=True)

    def __enter__(self) -> Recorder:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._queue.put(None)
        self._thread.join()
        if self._error is not None:
            raise RecordError(f"results cannot be written: {self._error}") from self._error

    def start(self, trial: Trial, at: float) -> None:
        """A trial starts, or starts again."""
        self._queue.put((journal.start_line(trial, at), None))

    def epoch(self, epoch: Epoch) -> None:
        """A trial reported an epoch."""
        self._queue.put((journal.epoch_line(epoch), None))

    def end(self, end: End) -> None:
        """A trial ended: on disk before the ledger hears of it."""
        self._queue.put((journal.end_line(end), end))

    def note(self, text: str) -> None:
        """Something that a reader of the result should know."""
        self._queue.put(({"kind": "note", "text": text, "time": time.time()}, None))

    def flush(self) -> None:
        """Waits until all that was taken so far is written, or can no longer be."""
        written = threading.Event()
        self._queue.put(written)
        while self._thread.is_alive() and not written.wait(0.1):
            pass

    def _write(self) -> None:
        try:
            while (event := self._queue.get()) is not None:
                if isinstance(event, threading.Event):
                    event.set()
                    continue
                line, end = event
                self._journal.append(line, sync=end is not None)
                if end is not None:
                    self._ledger.tell(end)
        except Exception as error:  # whatever it is, the study must stop and say so
            self._error = error
            self._on_error()
