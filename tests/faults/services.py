"""The servers of a team go away while a study runs: MLflow's, and the ledger's PostgreSQL."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median

from tests.faults import checks, moments, processes
from tests.faults.checks import TRIALS
from tests.faults.ground import PATIENCE, Ground, Place
from tests.faults.moments import Moment
from tests.faults.outcome import Outcome
from tests.services import postgres
from tests.services.postgres import Postgres
from tests.services.tracking_server import TrackingServer
from tests.study.command import Command, Ended

_CATCH_UP = "to catch up: python -m study.sync "
"""In what a command says that leaves MLflow behind."""
_DEARER = 1.1
"""What a result may cost the driver without MLflow, as a multiple of what it costs with it."""


def mlflow_away(ground: Ground) -> Outcome:
    """MLflow's server is away from the start, from the middle, and throughout."""
    fault, problems = "MLflow down", []
    ways = (_from_the_middle, _from_the_start, _throughout)[: ground.rounds(3)]
    randomness, alone = ground.randomness(fault), 0
    for way in ways:
        title = way.__name__.replace("_", " ").strip()
        with _tracked(ground, fault) as (place, server):
            ended = way(place, server, randomness)
            found = checks.ended_with(ended, 0)
            if _CATCH_UP in ended.out:
                found += checks.ended_with(place.sync(), 0)
            else:
                alone += 1
            found += [*place.mirror_problems(), *checks.same(place.seen(), ground.calm.seen)]
        problems += [f"{title}: {each}" for each in found]
        ground.say(f"{title}: {len(found)} problems")
    how = ", ".join(way.__name__.replace("_", " ").strip() for way in ways)
    held = f"same bytes; MLflow is the journal: {alone} x by itself, {len(ways) - alone} x by sync"
    return Outcome(fault, f"{how}; then back", len(ways), held, tuple(problems))


def _from_the_start(place: Place, server: TrackingServer, randomness: random.Random) -> Ended:
    with place.command() as command:
        _wait(command, place, randomness.randint(1, TRIALS // 2))
        server.start()
        return command.ended(PATIENCE)


def _from_the_middle(place: Place, server: TrackingServer, randomness: random.Random) -> Ended:
    server.start()
    with place.command() as command:
        _wait(command, place, randomness.randint(1, TRIALS // 3))
        server.kill()
        _wait(command, place, randomness.randint(TRIALS // 3 + 1, 2 * TRIALS // 3))
        server.start()
        return command.ended(PATIENCE)


def _throughout(place: Place, server: TrackingServer, randomness: random.Random) -> Ended:
    ended = place.run()
    server.start()
    return ended


def mlflow_cost(ground: Ground) -> Outcome:
    """What a result costs the driver while MLflow is away, against while it is there."""
    fault, rounds = "MLflow down: cost", 5
    if ground.short:
        return Outcome(fault, "", skipped="takes 5 pairs of studies")
    ratios, problems = [], []
    with _tracked(ground, fault) as (there, server):
        server.start()
        for pair in range(rounds):
            cost = {}
            for up in (True, False) if pair % 2 else (False, True):
                tracking = there.tracking if up else f"http://127.0.0.1:{postgres.free_port()}"
                place = ground.place(fault, tracking=tracking)
                cost[up], found = _driver_cost(place)
                problems += found
            ratios.append(cost[False] / cost[True])
            ground.say(
                f"a result costs the driver {1000 * cost[True]:.1f} ms with MLflow, "
                f"{1000 * cost[False]:.1f} ms without"
            )
            there.sync()  # nothing to send: the server is as busy as a team's, not colder
    middle = median(ratios)
    told = f"{middle:.2f} times the CPU time a result, {min(ratios):.2f} to {max(ratios):.2f}"
    if middle > _DEARER:
        problems.append(f"median {told}, more than {_DEARER}")
    how = f"CPU time of the driver, {rounds} alternating pairs"
    return Outcome(fault, how, rounds, f"median {told}", tuple(problems))


def _driver_cost(place: Place) -> tuple[float, list[str]]:
    """CPU seconds of the driver for a result, from the first trial to the last."""
    with place.command() as command:
        command.wait_for(place.begun)
        before = processes.cpu_seconds(command.process.pid)
        _wait(command, place, TRIALS)
        seconds = processes.cpu_seconds(command.process.pid) - before
        problems = checks.ended_with(command.ended(PATIENCE), 0)
    return seconds / (TRIALS * checks.EPOCHS), problems


@contextmanager
def _tracked(ground: Ground, fault: str) -> Iterator[tuple[Place, TrackingServer]]:
    """A place and the server that it is to be tracked on, not yet started."""
    folder = ground.folder / f"{fault.replace(' ', '_')}-server-{ground.count(fault)}"
    folder.mkdir()
    server = TrackingServer(f"sqlite:///{folder}/server.db", folder)
    try:
        yield ground.place(fault, tracking=server.uri), server
    finally:
        server.stop()


def _wait(command: Command, place: Place, ends: int) -> None:
    moments.comes(command, Moment(ends, 0), place.ends, PATIENCE)


def with_postgres(
    ground: Ground, fault: str, inject: Callable[[Ground, Postgres], Outcome]
) -> Outcome:
    """Injects a fault that needs a PostgreSQL server, where there is one."""
    folder = postgres.programs()
    if folder is not None:
        with postgres.serving(folder) as server:
            return inject(ground, server)
    missing = "PostgreSQL's server is not installed"
    if os.environ.get("CI") == "1":
        return Outcome(fault, "", problems=(missing,))
    return Outcome(fault, "", skipped=missing)


def postgres_restarted(ground: Ground) -> Outcome:
    """The server of the ledger is ended twice within one command, and started again."""
    return with_postgres(ground, "PostgreSQL restarted", _restart)


def _restart(ground: Ground, server: Postgres) -> Outcome:
    fault, rounds, problems, again = "PostgreSQL restarted", ground.rounds(3), [], 0.0
    randomness = ground.randomness(fault)
    for _ in range(rounds):
        place = ground.place(fault, ledger=server.url(server.database()))
        with place.command() as command:
            for first in (1, TRIALS // 2):
                ends = randomness.randint(first, first + TRIALS // 2 - 2)
                moment = Moment(ends, randomness.uniform(0, 1))
                if moments.comes(command, moment, place.ends, PATIENCE):
                    server.restart()
            problems += checks.ended_with(command.ended(PATIENCE), 0)
        seen, calm = place.seen(), ground.calm.seen
        again += checks.lost(seen, calm)
        problems += [*checks.same(seen, calm), *place.mirror_problems()]
    held = f"same bytes, budgets and runs; {again / rounds:.2f} epochs lost a study"
    return Outcome(fault, "at once, twice a study", 2 * rounds, held, tuple(problems))
