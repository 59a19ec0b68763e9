"""Processes that train are killed, and nodes of a cluster go away."""

from __future__ import annotations

import random
import re
import subprocess
import time
from collections import Counter

from tests.faults import checks, moments, processes
from tests.faults.ground import PATIENCE, Ground, Place
from tests.faults.moments import Moment
from tests.faults.outcome import Outcome
from tests.study.command import Command

_TRAINS = re.compile(r"ray::\w*Trainable")
_BETWEEN = 8.0  # seconds between two kills, at most: a new process takes some to import PyTorch
_NODE_STARTS = 60.0
_PATIENT = ("retries=1000",)  # no trial is given up because it is hit again and again


def actors_killed(ground: Ground) -> Outcome:
    """SIGKILL to processes that train, within one command."""
    rounds, fault = ground.rounds(20, 2), "trial actor killed"
    randomness, problems, hits, again = ground.randomness(fault), [], 0, 0.0
    while hits < rounds:
        place = ground.place(fault, settings=_PATIENT)
        with place.command() as command:
            here = _kill_some(command, place, randomness, rounds - hits)
            problems += checks.ended_with(command.ended(PATIENCE), 0)
        hits += here
        ground.say(f"{hits} of {rounds} killed")
        seen, calm = place.seen(), ground.calm.seen
        again += checks.lost(seen, calm)
        problems += checks.same(seen, calm)
        problems += checks.lost_at_most(seen, calm, here, 1)
        problems += place.mirror_problems()
    how = "SIGKILL to a random process that trains"
    held = f"same bytes, budgets and runs; {again / rounds:.2f} epochs lost a kill"
    return Outcome(fault, how, rounds, held, tuple(problems))


def _kill_some(command: Command, place: Place, randomness: random.Random, most: int) -> int:
    """Kills processes that train at random moments while the command runs; how many."""
    killed = 0
    command.wait_for(place.begun)
    while killed < most:
        try:
            command.process.wait(randomness.uniform(0, _BETWEEN))
        except subprocess.TimeoutExpired:
            trains = [
                each for each in processes.below(command.process.pid) if _TRAINS.match(each.name)
            ]
            killed += bool(trains) and processes.kill(randomness.choice(trains))
        else:
            break
    return killed


def nodes_lost(ground: Ground) -> Outcome:
    """A node of two goes away without a word, and another comes, within one command."""
    from ray.cluster_utils import Cluster

    rounds, fault = ground.rounds(5), "node lost"
    randomness, problems, lost = ground.randomness(fault), [], 0
    reasons: Counter[str] = Counter()
    again = 0.0
    while lost < rounds:
        cluster = Cluster(
            initialize_head=True,
            head_node_args={"num_cpus": 1, "include_dashboard": False},
        )
        try:
            place = ground.place(
                fault, ("resources.max_trials=2",), arguments=("--address", cluster.address)
            )
            with place.command() as command:
                here = _lose_some(command, place, cluster, randomness, rounds - lost)
                problems += checks.ended_with(command.ended(PATIENCE), 0)
        finally:
            cluster.shutdown()
        lost += here
        ground.say(f"{lost} of {rounds} nodes lost")
        seen, calm = place.seen(), ground.calm.seen
        again += checks.lost(seen, calm)
        reasons.update(line["reason"] for line in seen.of("failure"))
        problems += checks.same(seen, calm)
        problems += checks.lost_at_most(seen, calm, here, 1)
        problems += place.mirror_problems()
    how = "remove_node of a Cluster of two, without grace"
    said = ", ".join(f"{count} x {reason}" for reason, count in reasons.items())
    held = f"same bytes, budgets and runs; {again / rounds:.2f} epochs lost a node; told: {said}"
    return Outcome(fault, how, rounds, held, tuple(problems))


def _lose_some(  # type: ignore[no-untyped-def]
    command: Command, place: Place, cluster, randomness: random.Random, most: int
) -> int:
    """Takes nodes away at random moments while the command runs; how many."""
    lost, before = 0, 0
    while True:
        node = cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes(_NODE_STARTS)
        ends = before + randomness.randint(1, 2 * checks.TRIALS // (most + 1))
        moment = Moment(min(ends, checks.TRIALS - 1), randomness.uniform(0, 1))
        if lost == most or not moments.comes(command, moment, place.ends, PATIENCE):
            return lost
        cluster.remove_node(node, allow_graceful=False)
        lost += 1
        before = place.ends()
        time.sleep(randomness.uniform(0, 2))
