"""Random moments of a study: drawn from a seed, and waited for."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from tests.faults.checks import TRIALS
from tests.study.command import Command

_STARTING = 0.2
"""Share of the moments that lie before the first trial."""
_AFTER_AN_END, _AT_THE_END = 1.5, 2.5  # seconds; the verdict and the report follow the last


@dataclass(frozen=True)
class Moment:
    """So many seconds after so many trials have ended; after its start where `ends` is None."""

    ends: int | None
    delay: float


def draw(randomness: random.Random, ended: int, starting: float) -> Moment:
    """A moment of a study, of which `ended` trials ended in earlier executions, so that every part
    of what follows is hit. starting: seconds until its first trial starts."""
    if ended >= TRIALS or randomness.random() < _STARTING:
        return Moment(None, randomness.uniform(0, starting))
    ends = randomness.randint(ended + 1, TRIALS)
    longest = _AT_THE_END if ends == TRIALS else _AFTER_AN_END
    return Moment(ends, randomness.uniform(0, longest))


def comes(command: Command, moment: Moment, ends: Callable[[], int], patience: float) -> bool:
    """Waits for a moment; whether the command still runs then. ends: asked how many trials have
    ended. Raises TimeoutError after `patience` seconds."""
    deadline = time.monotonic() + patience
    while moment.ends is not None and ends() < moment.ends:
        if command.process.poll() is not None:
            return False
        if time.monotonic() > deadline:
            raise TimeoutError(f"hangs: {ends()} trials ended within {patience:.0f} s")
        time.sleep(0.02)
    time.sleep(moment.delay)
    return command.process.poll() is None
