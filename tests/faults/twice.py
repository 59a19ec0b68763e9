"""Two commands for one study are started at once."""

from __future__ import annotations

import random
import signal
import time

from tests.faults import checks
from tests.faults.ground import PATIENCE, Ground, Place
from tests.faults.outcome import Outcome
from tests.faults.services import with_postgres
from tests.services.postgres import Postgres
from tests.study.command import Command, journal_lines

_APART = 0.05  # seconds between the two, at most


def with_file(ground: Ground) -> Outcome:
    """Two drivers of a study whose ledger is a file."""
    return _at_once(ground, "two drivers, file", None)


def with_database(ground: Ground) -> Outcome:
    """Two drivers of a study whose ledger is a database."""
    fault = "two drivers, PostgreSQL"
    return with_postgres(ground, fault, lambda ground, server: _at_once(ground, fault, server))


def _at_once(ground: Ground, fault: str, server: Postgres | None) -> Outcome:
    rounds, randomness, problems = ground.rounds(20), ground.randomness(fault), []
    for number in range(rounds):
        ledger = None if server is None else server.url(server.database())
        found = _start_both(ground.place(fault, ledger=ledger), randomness)
        problems += found
        ground.say(f"{number + 1} of {rounds}: {len(found)} problems")
    how = f"within {1000 * _APART:.0f} ms of each other"
    held = "one runs, the other ends with 2 in one line"
    return Outcome(fault, how, rounds, held, tuple(problems))


def _start_both(place: Place, randomness: random.Random) -> list[str]:
    """Starts both, waits for the one that is refused, and stops the other."""
    with place.command() as first:
        time.sleep(randomness.uniform(0, _APART))
        with place.command() as second:
            deadline = time.monotonic() + PATIENCE
            while not (over := [each for each in (first, second) if _is_over(each)]):
                if time.monotonic() > deadline:
                    return ["hangs: both run"]
                time.sleep(0.02)
            refused = over[0]
            winner = second if refused is first else first
            problems = checks.ended_with(refused.ended(PATIENCE), 2)
            if len(over) == 2:
                return [*problems, f"neither runs: {winner.ended(PATIENCE)}"]
            winner.wait_for(place.begun)
            winner.signal(signal.SIGINT)
            problems += checks.ended_with(winner.ended(PATIENCE), 130)
            if (headers := len(journal_lines(place.home, kind="header"))) != 1:
                problems.append(f"{headers} headers in the journal")
            return problems


def _is_over(command: Command) -> bool:
    return command.process.poll() is not None
