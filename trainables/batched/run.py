"""Trials of one arm and stage that train in lock step; knows nothing of Ray."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from functools import partial

from trainables.batched.network import GroupedNetwork
from trainables.batched.step import Turn, lock_step
from trainables.training import Training
from trainables.trial import Report, TrialRun


class GroupRun:
    """Trains the trials of a group, each from its first step or its own last checkpoint to its end.

    runs: by slot, at least one; made with that slot. count: slots; one without a trial computes,
    and nothing comes of it, so that a trial's numbers are the same beside any others, or none. A
    trial that ended leaves its slot like that. With one slot it is a trial as any other. Raises
    ValueError where models have no grouped form.
    """

    def __init__(self, runs: Mapping[int, TrialRun], count: int) -> None:
        self._runs = dict(runs)
        self._network: GroupedNetwork | None = None
        if count == 1:
            return
        models = {slot: run.training.model for slot, run in runs.items()}
        first = next(iter(models.values()))
        self._network = GroupedNetwork(
            [models[slot] if slot in models else copy.deepcopy(first) for slot in range(count)]
        )

    def step(self, until: float) -> list[Report]:
        """Trains until an epoch of a trial is over, or the clock says `until`. A report of each
        trial that is under way; first the epochs that were trained before."""
        if self._network is None:
            [run] = self._runs.values()
            return [run.step(until)]
        if behind := {slot: run for slot, run in self._runs.items() if run.behind}:
            return self._told(behind)
        self._train(self._network, until)
        return self._told(self._runs)

    def stop(self, trial: str) -> None:
        """Goes on without a trial, by its name."""
        self._runs = {slot: run for slot, run in self._runs.items() if run.name != trial}

    def keep(self) -> None:
        """As TrialRun.keep, of all that are under way."""
        for run in self._runs.values():
            run.keep()

    def _told(self, runs: Mapping[int, TrialRun]) -> list[Report]:
        reports = [run.tell() if run.behind else run.alive() for run in runs.values()]
        for report in reports:
            if report.end is not None:
                self.stop(report.trial)
        return reports

    def _train(self, network: GroupedNetwork, until: float) -> None:
        started = time.perf_counter()
        trainings = {slot: run.training for slot, run in self._runs.items()}
        tallies = {slot: training.begin() for slot, training in trainings.items()}
        while True:
            turns = {slot: turn(training) for slot, training in trainings.items()}
            for slot, loss in lock_step(network, turns).items():
                trainings[slot].count(loss)
            over = [slot for slot, tally in tallies.items() if tally.over]
            if over or any(run.is_enough(until) for run in self._runs.values()):
                break
        for tally in tallies.values():
            tally.spend(started, len(tallies))
        for slot in over:
            self._runs[slot].learn(trainings[slot].finish())


def turn(training: Training) -> Turn:
    """A trial's part in its next step."""
    images, labels = training.next_batch()
    training.expect(len(labels))
    losses = partial(training.losses_of, labels)
    return Turn(training.optimizer, images, losses, training.config.clip_norm)
