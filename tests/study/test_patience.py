"""Waiting for a server that is away."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from study import patience
from study.patience import AwayError, Driver, GivenUp, Patience


class Server:
    """Is away for so many requests; notes whether each was made before."""

    def __init__(self, away: int) -> None:
        self.away = away
        self.asked: list[bool] = []

    def __call__(self, again: bool) -> str:
        self.asked.append(again)
        if self.away:
            self.away -= 1
            raise AwayError(OSError("Connection refused"))
        return "done"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "_BLINK", 0.001)


def waiting(
    told: list[str], stopping: Callable[[], bool] = lambda: False, limit: float = 60
) -> Patience:
    driver = Driver(stopping, lambda: None, told.append)
    return Patience("the ledger X", driver, limit=limit)


def test_a_request_is_made_until_it_is_answered_and_the_user_told_once() -> None:
    told: list[str] = []
    server, wait = Server(away=4), waiting(told)
    assert wait(server) == "done"
    assert server.asked == [False, True, True, True, True]
    assert told == [
        "the ledger X does not answer; waiting for it, for up to 1 minutes: Connection refused",
        "the ledger X answers again",
    ]
    assert wait(server) == "done"
    assert len(told) == 2


def test_one_that_only_restarted_is_nothing_to_tell() -> None:
    told: list[str] = []
    server = Server(away=1)
    assert waiting(told)(server) == "done"
    assert server.asked == [False, True]
    assert told == []


def test_a_request_to_stop_ends_the_wait() -> None:
    stop = threading.Event()

    def tell(text: str) -> None:
        stop.set()

    server = Server(away=10**9)
    driver = Driver(stop.is_set, lambda: None, tell)
    with pytest.raises(GivenUp):
        Patience("X", driver)(server)
    assert len(server.asked) < 5
    server.away = 0
    assert Patience("X", driver)(server) == "done"  # what can be written still is


def test_a_study_that_stops_does_not_say_that_it_waits() -> None:
    driver = Driver(lambda: True, lambda: None, pytest.fail)
    with pytest.raises(GivenUp):
        Patience("X", driver)(Server(away=2))


def test_after_the_limit_the_error_is_what_it_was() -> None:
    with pytest.raises(OSError, match="Connection refused"):
        waiting([], limit=0.0)(Server(away=10**9))


def test_without_the_right_to_write_nothing_is_asked() -> None:
    server = Server(away=0)
    with pytest.raises(GivenUp):
        Patience("X", patience.ALONE, lost=lambda: True)(server)
    assert server.asked == []


def test_other_errors_are_not_waited_for() -> None:
    asked: list[bool] = []

    def request(again: bool) -> None:
        asked.append(again)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        waiting([])(request)
    assert asked == [False]
