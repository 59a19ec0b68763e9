"""What a running study tells of its mirror: that MLflow is away, and that it is back."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from study.tracking_process import CAUGHT_UP, MirrorProcess

_STATE = re.compile(rf"[-0-9]{{10}} [:0-9]{{8}} (MLflow at .*|{CAUGHT_UP})")
_LOOK = 1.0  # seconds between two looks at the child, in a thread that does nothing else
_PATIENCE = 60.0  # seconds, at most, until a child that died is started again
_WHEN_DONE = 120.0  # seconds that the child may take to catch up


class Watch:
    """Looks at the mirroring child of a study and tells of each outage once, however long."""

    def __init__(self, child: MirrorProcess, warn: Callable[[str], None], outage: str) -> None:
        """warn: told when an outage begins and when it is over. outage: one that was told already
        and has not ended."""
        self._child = child
        self._warn = warn
        self._problem = outage
        self._deaths = 0
        self._again: float | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mirror", daemon=True)

    @property
    def state(self) -> str:
        """A few words for the display, none while the mirror keeps up."""
        return "MLflow is behind" if self._problem else ""

    def start(self) -> None:
        """From now on the child is looked at."""
        self._thread.start()

    def finish(self) -> None:
        """Nothing more will come: the child writes what is left and ends. May be called twice."""
        self._over.set()
        self._thread.join()
        self._child.finish()

    def stop(self, timeout: float) -> None:
        """As MirrorProcess.stop, and tells what came of it."""
        self.finish()
        if warning := self._child.stop(timeout):
            self._warn(warning)
        else:
            self._ends()

    def look(self) -> None:
        """Takes in what the child said or that it died, and starts it again when it is time."""
        for line in self._child.said():
            if found := _STATE.fullmatch(line):
                if found[1] == CAUGHT_UP:
                    self._ends()
                else:
                    self._begins(found[1])
        if self._again is None:
            if (death := self._child.death()) is not None:
                self._died(death)
        elif time.monotonic() >= self._again:
            self._again = None
            try:
                self._child.spawn()
            except OSError as error:
                self._died(f"its process does not start: {error.strerror}")

    def _run(self) -> None:
        while not self._over.wait(_LOOK):
            self.look()

    def _died(self, how: str) -> None:
        self._deaths += 1
        self._again = time.monotonic() + min(_PATIENCE, 2.0**self._deaths)
        self._begins(f"MLflow is no longer written to, {how}; it will be started again")

    def _begins(self, problem: str) -> None:
        if not self._problem:
            self._warn(
                f"{problem}; the study runs all the same, what is missing is sent later, or with "
                f"{self._child.catch_up}"
            )
        self._problem = problem

    def _ends(self) -> None:
        if self._problem:
            self._warn("MLflow has caught up: nothing is missing there")
        self._problem, self._deaths = "", 0


@contextmanager
def mirrored(
    name: str,
    out: Path,
    uri: str,
    warn: Callable[[str], None],
    outage: str = "",
    grace: Callable[[], float] = lambda: 6.5,
) -> Iterator[Watch]:
    """Mirrors the study while the context lasts. warn and outage: as for Watch; warn is also told
    when MLflow stays behind. grace: seconds that it may take where the study was interrupted."""
    watch = Watch(MirrorProcess.start(name, out, uri), warn, outage)
    watch.start()
    done = False
    try:
        yield watch
        done = True
    finally:
        watch.stop(_WHEN_DONE if done else grace())
