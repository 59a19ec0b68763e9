"""The command itself is killed or asked to stop, again and again."""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from dataclasses import dataclass, field

from tests.faults import checks, moments, processes
from tests.faults.ground import PATIENCE, Ground, Place
from tests.faults.outcome import Outcome
from tests.faults.processes import Process
from tests.study.command import Command, Ended

_UNTIL_GONE = 90.0  # seconds: Ray's two agents look a minute for the rest of it, then end
_STOPPED_WITHIN = 10.0
_INTERRUPTED = "interrupted; the same command goes on from here"


@dataclass
class _Tally:
    """What happened so far. phases: where the study was when it was hit."""

    hits: int = 0
    phases: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0
    again: float = 0.0
    problems: list[str] = field(default_factory=list)


def killed(ground: Ground) -> Outcome:
    """SIGKILL to the driver alone, at random moments, the same command again each time."""
    rounds, fault = ground.rounds(20), "driver SIGKILL"
    tally = _hit(ground, fault, rounds, (signal.SIGKILL,))
    held = f"same bytes, budgets and runs; {tally.again / rounds:.2f} epochs lost a kill"
    return Outcome(fault, _how(tally), rounds, held, tuple(tally.problems))


def stopped(ground: Ground) -> Outcome:
    """SIGINT and SIGTERM at random moments, the same command again each time."""
    rounds, fault = ground.rounds(20, 2), "signals"
    tally = _hit(ground, fault, rounds, (signal.SIGINT, signal.SIGTERM))
    held = f"130 within {tally.slowest:.1f} s, same bytes; {tally.again / rounds:.2f} epochs lost"
    return Outcome(fault, _how(tally), rounds, held, tuple(tally.problems))


def _how(tally: _Tally) -> str:
    return "in " + ", ".join(f"{phase} {n}" for phase, n in sorted(tally.phases.items()))


def _hit(ground: Ground, fault: str, rounds: int, signals: tuple[signal.Signals, ...]) -> _Tally:
    """Hits studies until it was done so many times, each until the command exits with 0."""
    randomness, tally = ground.randomness(fault), _Tally()
    while tally.hits < rounds:
        place, before = ground.place(fault), tally.hits
        under_way = True
        while under_way and tally.hits < rounds and place.ends() < checks.TRIALS:
            under_way = _hit_once(ground, place, randomness, signals, tally)
        tally.problems += checks.ended_with(place.run(), 0)
        seen, calm = place.seen(), ground.calm.seen
        tally.again += checks.lost(seen, calm)
        tally.problems += checks.same(seen, calm)
        tally.problems += checks.lost_at_most(seen, calm, tally.hits - before, checks.AT_ONCE)
        tally.problems += place.mirror_problems()
    return tally


def _hit_once(
    ground: Ground,
    place: Place,
    randomness: random.Random,
    signals: tuple[signal.Signals, ...],
    tally: _Tally,
) -> bool:
    """Starts the command and hits it once; False if it ended before."""
    moment = moments.draw(randomness, place.ends(), ground.calm.starting)
    number = randomness.choice(signals)
    with place.command() as command:
        # While Python still imports, a signal is its own affair.
        up = number == signal.SIGKILL or _is_up(command)
        if not up or not moments.comes(command, moment, place.ends, PATIENCE):
            return False
        tally.hits += 1
        family = processes.below(command.process.pid)
        where = checks.phase(place.lines())
        tally.phases[where] += 1
        command.signal(number)
        ended = command.ended(PATIENCE)
        problems = _after(number, ended, command, family, tally)
        tally.problems += [f"{number.name} at {moment} ({where}): {each}" for each in problems]
        ground.say(f"{tally.hits}: {number.name} in {where}, code {ended.code}")
    return True


def _is_up(command: Command) -> bool:
    """Waits until the command has started a process; False if it ended before."""
    while command.process.poll() is None:
        if processes.below(command.process.pid):
            return True
        time.sleep(0.02)
    return False


def _after(
    number: signal.Signals, ended: Ended, command: Command, family: list[Process], tally: _Tally
) -> list[str]:
    """What did not hold of a command that was hit, and perhaps was over already."""
    if ended.code == 0:
        return []
    if number == signal.SIGKILL:
        problems = [] if ended.code == -signal.SIGKILL else [f"exit code {ended.code}"]
        # Before the command is cleaned up, which would end whatever is left.
        stayed = processes.wait_until_gone(family, _UNTIL_GONE)
        return [*problems, *(f"stays when its driver is dead: {each.name}" for each in stayed)]
    tally.slowest = max(tally.slowest, ended.seconds)
    problems = checks.ended_with(ended, 130)
    if not problems and ended.err.strip() != _INTERRUPTED:
        problems.append(f"said {ended.err!r}")
    if ended.seconds > _STOPPED_WITHIN:
        problems.append(f"took {ended.seconds:.1f} s to stop")
    begun = time.monotonic()
    if left := command.wait_for_children():
        problems.append(f"left {left} after {time.monotonic() - begun:.0f} s")
    return problems
