"""The course of a study: which trial is next, from the first of the search to the last confirm."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Literal, Protocol, TypeAlias

from study import stages
from study.ledger import Ledger
from study.records import Epoch, Result, Stage, Trial
from study.spec import Spec
from study.stages import Plan

Group: TypeAlias = tuple[Trial, ...]
"""Trials of one arm and stage that one process trains as one: most often a single one."""
Waiting = Literal["wait", "done"]


class Trials(Protocol):
    """What hands out trials to those who run them."""

    def next(self) -> Group | Waiting:
        """The next trials; 'wait' while some that are out decide what follows; 'done' at the end.

        A trial handed out is out until `ended` is called with its name.
        """

    def stops(self, epoch: Epoch) -> bool:
        """Takes an epoch of a trial that is out; whether the trial should stop there."""

    def again(self, group: Group) -> None:
        """Trials that are out failed and are handed out again, before any other."""

    def ended(self, trial: str) -> None:
        """A trial that was handed out has ended, whatever its status."""


class Course:
    """Hands out trials stage by stage; a stage begins when every trial of the one before ended.

    rounds: the planned study and its extensions. results: what ended so far, on disk. on_stage:
    called when a stage begins. on_needless: called for a trial that is not to be run, because its
    configuration did badly on other seeds; it has to record its start and its end, pruned.
    """

    def __init__(
        self,
        rounds: Sequence[Spec],
        ledger: Ledger,
        results: Callable[[], Sequence[Result]],
        on_stage: Callable[[Plan, Sequence[Result]], None],
        on_needless: Callable[[Trial], None],
    ) -> None:
        self._rounds = rounds
        self._ledger = ledger
        self._results = results
        self._on_stage = on_stage
        self._on_needless = on_needless
        self._stage: Stage | None = None
        self._out: set[str] = set()
        self._failed: deque[Group] = deque()

    def next(self) -> Group | Waiting:
        """As of Trials."""
        while True:
            if self._failed:
                return self._failed.popleft()
            if self._stage is not None:
                for trial in self._ledger.needless(self._stage):
                    self._on_needless(trial)
                if (first := self._ledger.ask(self._stage)) is not None:
                    group = (first, *self._ledger.beside(first))
                    self._out.update(trial.name for trial in group)
                    return group
                if self._out:
                    return "wait"
            results = self._results()
            for spec, plan in stages.begun(self._rounds, results):
                # One that is over too: a crash may have come before the ledger heard of its end.
                self._ledger.open_stage(plan.stage, plan.slots, results)
                if not stages.over(spec, plan, results):
                    self._stage = plan.stage
                    self._on_stage(plan, results)
                    break
            else:
                return "done"

    def stops(self, epoch: Epoch) -> bool:
        """As of Trials."""
        return self._ledger.report(epoch)

    def again(self, group: Group) -> None:
        """As of Trials."""
        self._failed.append(group)

    def ended(self, trial: str) -> None:
        """As of Trials."""
        self._out.discard(trial)
