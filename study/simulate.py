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
from study.records import End, Epoch, Result, Status, Trial
from study.spec import Spec
from study.stages import Plan


@dataclass(frozen=True)
class Answer:
    """What an objective says of a trial. seconds: on the fake clock. scores: as in records.End.
    curve: validation accuracies of the epochs before the last, which a pruner may judge."""

    scores: Mapping[str, float]
    seconds: float = 1.0
    status: Status = "finished"
    reason: str = ""
    curve: Sequence[float] = ()


Objective = Callable[[Trial], Answer]


@dataclass
class Simulation:
    """One study. workers: groups of trials side by side. storage, results: kept between two
    executions, as ledger and journal are, so that a second one resumes the first. extensions: specs
    that raise the budgets of the first.

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
    extensions: Sequence[Spec] = ()

    def run(self, trials: int | None = None) -> Sequence[Result]:
        """Runs to the end, or until `trials` more have ended: then the rest is cut off, as by a
        crash. Returns every result so far."""
        ledger = Ledger(self.storage, self.spec)

        def needless(trial: Trial) -> None:
            end = End(trial.name, "pruned", "needless", {}, 0, self.clock)
            self.results.append(Result(trial, end, (), self.clock))
            ledger.tell(end)

        course = Course(
            [self.spec, *self.extensions], ledger, lambda: list(self.results), self._begin, needless
        )
        order = itertools.count()
        running: list[tuple[float, int, Trial, Answer, str]] = []
        left = trials
        waiting = False
        while left is None or left > 0:
            while len({first for *_, first in running}) < self.workers and not waiting:
                group = course.next()
                if isinstance(group, str):
                    waiting = True
                    break
                for trial in group:
                    self.started.append(trial)
                    answer = self._stopped(course, trial, self.objective(trial))
                    entry = self.clock + answer.seconds, next(order), trial, answer, group[0].name
                    heapq.heappush(running, entry)
            if not running:
                break
            self.clock, _, trial, answer, _ = heapq.heappop(running)
            curve = answer.curve
            epochs = tuple(
                Epoch(trial.name, i, {"validation_accuracy": value}, self.clock)
                for i, value in enumerate(curve, 1)
            )
            last = len(curve) + (answer.status != "pruned")
            end = End(trial.name, answer.status, answer.reason, answer.scores, last, self.clock)
            self.results.append(Result(trial, end, epochs, self.clock - answer.seconds))
            ledger.tell(end)
            course.ended(trial.name)
            waiting = False
            left = None if left is None else left - 1
        return list(self.results)

    @staticmethod
    def _stopped(course: Course, trial: Trial, answer: Answer) -> Answer:
        """The answer, cut off where a pruner stops the trial."""
        for number, value in enumerate(answer.curve, 1):
            epoch = Epoch(trial.name, number, {"validation_accuracy": value}, 0.0)
            if course.stops(epoch):
                seconds = answer.seconds * number / (len(answer.curve) + 1)
                scores = {"validation_accuracy": value}
                return Answer(scores, seconds, "pruned", "early", answer.curve[:number])
        return answer

    def _begin(self, plan: Plan, results: Sequence[Result]) -> None:
        self.stages.append(plan.stage)
