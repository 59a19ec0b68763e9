"""What happens, written by two threads: one the journal, and behind it one the ledger."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from types import TracebackType

from study import journal
from study.journal import Journal, RecordError
from study.journal_lines import Line
from study.ledger import Ledger
from study.patience import GivenUp
from study.records import End, Epoch, Failure, Trial

_Told = End | threading.Event | None
"""An end; an event to set; or None: stop."""
_Entry = tuple[Line, End | None] | threading.Event | None
"""A line, with the end that it tells of; or as above."""


class Recorder:
    """Takes events without blocking and writes them in order: each to the journal and then, if it
    is an end, to the ledger. A ledger that is away holds up no line of the journal.

    on_error is called by a writing thread when it cannot go on (disk full, say): the study has to
    stop then, because what follows would not be recorded. Leaving the context writes what was
    taken so far, and raises that error. on_recorded is called there with a trial whose end is
    written: nobody will go on with it.
    """

    def __init__(
        self,
        journal: Journal,
        ledger: Ledger,
        on_error: Callable[[], None],
        on_recorded: Callable[[str], None] = lambda trial: None,
    ) -> None:
        self._journal = journal
        self._ledger = ledger
        self._on_error = on_error
        self._on_recorded = on_recorded
        self._lines: queue.SimpleQueue[_Entry] = queue.SimpleQueue()
        self._ends: queue.SimpleQueue[_Told] = queue.SimpleQueue()
        self._error: Exception | None = None
        self._threads = (
            threading.Thread(target=self._write, name="journal", daemon=True),
            threading.Thread(target=self._tell, name="ledger", daemon=True),
        )

    def __enter__(self) -> Recorder:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._lines.put(None)
        for thread in self._threads:
            thread.join()
        if self._error is not None:
            raise RecordError(f"results cannot be written: {self._error}") from self._error

    def start(self, trial: Trial, at: float) -> None:
        """A trial starts, or starts again."""
        self._lines.put((journal.start_line(trial, at), None))

    def epoch(self, epoch: Epoch) -> None:
        """A trial reported an epoch."""
        self._lines.put((journal.epoch_line(epoch), None))

    def failure(self, failure: Failure) -> None:
        """An attempt at a trial failed."""
        self._lines.put((journal.failure_line(failure), None))

    def end(self, end: End) -> None:
        """A trial ended: on disk before the ledger hears of it."""
        self._lines.put((journal.end_line(end), end))

    def note(self, text: str) -> None:
        """Something that a reader of the result should know."""
        self._lines.put(({"kind": "note", "text": text, "time": time.time()}, None))

    def resumed(self, trial: str, progress: float) -> None:
        """A trial goes on from a checkpoint: of no account to its result."""

    def flush(self) -> None:
        """Waits until all that was taken so far is written, or can no longer be."""
        written = threading.Event()
        self._lines.put(written)
        while all(thread.is_alive() for thread in self._threads) and not written.wait(0.1):
            pass

    def _write(self) -> None:
        try:
            while (event := self._lines.get()) is not None:
                if isinstance(event, threading.Event):
                    self._ends.put(event)
                    continue
                line, end = event
                self._journal.append(line, sync=end is not None)
                if end is not None:
                    self._ends.put(end)
        except Exception as error:  # whatever it is, the study must stop and say so
            self._fail(error)
        finally:
            self._ends.put(None)

    def _tell(self) -> None:
        try:
            while (end := self._ends.get()) is not None:
                if isinstance(end, threading.Event):
                    end.set()
                else:
                    self._ledger.tell(end)
                    self._on_recorded(end.trial)
        except GivenUp:
            return  # the journal has what the ledger was not told: the next execution settles it
        except Exception as error:  # as above
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        self._error = self._error or error
        self._on_error()
