"""The course of a study: which trial is next, from the first of the search to the last confirm."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from study import stages
from study.ledger import Ledger
from study.records import Result, Stage, Trial
from study.spec import Spec
from study.stages import Plan

Waiting = Literal["wait", "done"]


class Course:
    """Hands out trials stage by stage; a stage begins when every trial of the one before ended.

    results: what ended so far, on disk. on_stage: called when a stage begins.
    """

    def __init__(
        self,
        spec: Spec,
        ledger: Ledger,
        results: Callable[[], Sequence[Result]],
        on_stage: Callable[[Plan, Sequence[Result]], None],
    ) -> None:
        self._spec = spec
        self._ledger = ledger
        self._results = results
        self._on_stage = on_stage
        self._stage: Stage | None = None
        self._out: set[str] = set()

    def next(self) -> Trial | Waiting:
        """The next trial; 'wait' while trials that are out decide what follows; 'done' at the end.

        A trial handed out is out until `ended` is called with its name.
        """
        while True:
            if self._stage is not None:
                trial = self._ledger.ask(self._stage)
                if trial is not None:
                    self._out.add(trial.name)
                    return trial
                if self._out:
                    return "wait"
            results = self._results()
            for plan in stages.begun(self._spec, results):
                # One that is over too: a crash may have come before the ledger heard of its end.
                self._ledger.open_stage(plan.stage, plan.trials, results)
                if not stages.over(plan, results):
                    self._stage = plan.stage
                    self._on_stage(plan, results)
                    break
            else:
                return "done"

    def ended(self, trial: str) -> None:
        """A trial that was handed out has ended, whatever its status."""
        self._out.discard(trial)
