"""The planned study and its extensions, each judged by the results it rests on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from study import searches, stages
from study.journal import Contents
from study.records import Measurement, Result
from study.searches import Searches
from study.spec import Spec
from study.verdict import Verdict, decide


@dataclass(frozen=True)
class Round:
    """The planned study, or it with budgets raised by an extension, and what it found."""

    spec: Spec
    results: Sequence[Result]
    verdict: Verdict
    measurements: Sequence[Measurement] = ()

    @cached_property
    def searches(self) -> Searches:
        """What its search stage saw."""
        return searches.look(self.spec, self.results)


def judge(rounds: Sequence[Spec], contents: Contents) -> list[Round]:
    """The verdict of every round that has begun, the planned one first."""
    judged = []
    for number, spec in enumerate(rounds):
        results = stages.of_round(rounds, number, contents.results)
        if number == 0 or results:
            judged.append(Round(spec, results, decide(spec, results), contents.measurements))
    return judged
