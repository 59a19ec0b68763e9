"""A whole study in one process: the same stages and decisions, a fake clock, a known truth.

What a benchmark function is to an optimizer, an objective is to a study: it says what a trial
would have scored, so that a test can ask whether the study finds it out.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from optuna.storages import BaseStorage, InMemoryStorage

from study.course import Course
from study.ledger import Ledger
from study.records import End, Result, Status, Trial
from study.spec import Spec
from study.stages import Plan


@dataclass(frozen=True)
class Answer:
    """What an objective says of a trial. seconds: on the fake clock. scores: as in records.End."""

    scores: Mapping[str, float]
    seconds: float = 1.0
    status: Status = "finished"
    reason: str = ""


Objective = Callable[[Trial], Answer]


@dataclass
class Simulation:
    """One study. workers: trials side by side. storage, results: kept between two executions, as
    ledger and journal are, so that a second one resumes the first.

    clock: seconds on the fake clock. started: every trial as often as it was started.
    """

    spec: Spec
    objective: Objective
    workers: int = 2
    storage: BaseStorage = field(default_factory=InMemoryStorage)
    results: list[Result] = field(default_factory=list)
    clock: float = 0.0
    started: list[Trial] = field(default_factory=list)
    stages: list[str] = field(default_factory=list)

    def run(self, trials: int | None = None) -> Sequence[Result]:
        """Runs to the end, or until `trials` more have ended: then the rest is cut off, as by a
        crash. Returns every result so far."""
        ledger = Ledger(self.storage, self.spec)
        course = Course(self.spec, ledger, lambda: list(self.results), self._begin)
        order = itertools.count()
        running: list[tuple[float, int, Trial, Answer]] = []
        left = trials
        waiting = False
        while left is None or left > 0:
            while len(running) < self.workers and not waiting:
                trial = course.next()
                if isinstance(trial, str):
                    waiting = True
                    break
                self.started.append(trial)
                answer = self.objective(trial)
                heapq.heappush(running, (self.clock + answer.seconds, next(order), trial, answer))
            if not running:
                break
            self.clock, _, trial, answer = heapq.heappop(running)
            end = End(trial.name, answer.status, answer.reason, answer.scores, 1, self.clock)
            self.results.append(Result(trial, end, (), self.clock - answer.seconds))
            ledger.tell(end)
            course.ended(trial.name)
            waiting = False
            left = None if left is None else left - 1
        return list(self.results)

    def _begin(self, plan: Plan, results: Sequence[Result]) -> None:
        self.stages.append(plan.stage)
