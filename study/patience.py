"""Waiting for a server that is away: what was asked of it is asked again until it answers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from study.database import root

Answer = TypeVar("Answer")

LIMIT = 300.0
"""Seconds that a server may be away while a study runs."""

_LONGEST_PAUSE = 5.0
_BLINK = 0.1


class AwayError(Exception):
    """The server went away: whether it did what it was asked is not known. cause: the error."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(root(cause))
        self.cause = cause


class GivenUp(KeyboardInterrupt):
    """A ledger that is away is not waited for any longer, because the study is to stop."""


@dataclass(frozen=True)
class Driver:
    """The execution of a study, as its ledger sees it. stopping: whether it was asked to stop;
    stop: asks it to; warn: tells the user a line. Safe from any thread."""

    stopping: Callable[[], bool]
    stop: Callable[[], None]
    warn: Callable[[str], None]


ALONE = Driver(lambda: False, lambda: None, lambda text: None)
"""One that nobody stops and nobody hears."""


class Patience:
    """Asks again where a server is away, for at most `limit` seconds. Threads may share it.

    server: what the user is told of. shown: the line of an error that the user may see. lost:
    whether the right to write was lost.
    """

    def __init__(
        self,
        server: str,
        driver: Driver,
        shown: Callable[[BaseException], str] = root,
        lost: Callable[[], bool] = lambda: False,
        limit: float = LIMIT,
    ) -> None:
        self._server = server
        self._driver = driver
        self._shown = shown
        self._lost = lost
        self._limit = limit
        self._lock = threading.Lock()
        self._away = False

    def __call__(self, request: Callable[[bool], Answer]) -> Answer:
        """What `request` answers. It is passed whether it was made before: then it may have been
        carried out, and only its answer did not arrive.

        Raises GivenUp when asked to stop meanwhile, and the cause of AwayError after the limit.
        """
        away_since: float | None = None
        pause = 0.0
        while True:
            if self._lost():
                raise GivenUp
            try:
                answer = request(away_since is not None)
            except AwayError as away:
                now = time.monotonic()
                if self._driver.stopping():
                    raise GivenUp from None
                if away_since is None:
                    away_since = now  # the first time again at once: it may only have restarted
                elif now - away_since > self._limit:
                    raise away.cause from away.cause.__cause__
                else:
                    self._tell(away)
                    self._pause(pause)
                pause = min(max(2 * pause, _BLINK), _LONGEST_PAUSE)
            else:
                self._tell(None)
                return answer

    def _tell(self, away: AwayError | None) -> None:
        """Tells the user, once each time, that the server went away, or that it is back."""
        with self._lock:
            if self._away == (away is not None):
                return
            self._away = away is not None
        if away is None:
            self._driver.warn(f"{self._server} answers again")
        else:
            self._driver.warn(
                f"{self._server} does not answer; waiting for it, for up to "
                f"{self._limit / 60:.0f} minutes: {self._shown(away.cause)}"
            )

    def _pause(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while not self._driver.stopping():
            if (left := until - time.monotonic()) <= 0:
                return
            time.sleep(min(left, _BLINK))
        raise GivenUp
