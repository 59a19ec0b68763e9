"""Pure: what is to be measured on the models of a study, and what was, as rows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from study import analysis, stages
from study.journal import Contents
from study.records import Measurement, Result, Trial, Value
from study.spec import Spec

BETWEEN_TWO = "line"
"""The one measure that looks at two runs."""


@dataclass(frozen=True)
class Task:
    """Something to measure on the weights of a confirm run; against: as of records.Measurement."""

    what: str
    trial: Trial
    against: Trial | None = None

    @property
    def key(self) -> tuple[str, str, str | None]:
        """What the measurement is known by."""
        return self.trial.name, self.what, None if self.against is None else self.against.name

    @property
    def title(self) -> str:
        """As a reader would call it."""
        towards = "" if self.against is None else f" to {self.against.name}"
        return f"{self.what} of {self.trial.name}{towards}"


def tasks(spec: Spec, words: Sequence[str], results: Sequence[Result]) -> list[Task]:
    """Everything that `words` ask for: of every confirm run that finished, and the line from it to
    the run with the same index of each arm that its own is compared with."""
    finished = {
        (r.trial.arm, r.trial.index): r.trial
        for arm in spec.arms
        for r in analysis.of_arm(results, arm, "confirm")
        if r.end.status == "finished"
    }
    planned = []
    for what in words:
        if what != BETWEEN_TWO:
            planned += [Task(what, trial) for trial in finished.values()]
            continue
        planned += [
            Task(what, trial, finished[against, trial.index])
            for arm, against in spec.pairs
            for trial in finished.values()
            if trial.arm == arm and (against, trial.index) in finished
        ]
    return planned


def missing(words: Sequence[str], rounds: Sequence[Spec], contents: Contents) -> list[Task]:
    """What `words` ask for and the journal does not hold, of a study whose runs have all ended."""
    results = stages.of_round(rounds, len(rounds) - 1, contents.results)
    there = {(each.trial, each.what, each.against) for each in contents.measurements}
    return [task for task in tasks(rounds[-1], words, results) if task.key not in there]


def rows(
    spec: Spec, results: Sequence[Result], measured: Sequence[Measurement]
) -> list[dict[str, Value]]:
    """One row a measured value, in the order of spec and runs; what it lacks is ''."""
    order = {name: i for i, name in enumerate(spec.arms)}
    trials = {r.trial.name: r.trial for r in results if r.trial.arm in order}
    known = [each for each in measured if each.trial in trials]

    def place(each: Measurement) -> tuple[int, int, str, str]:
        trial = trials[each.trial]
        return order[trial.arm], trial.index, each.what, each.against or ""

    return [
        {
            "trial": each.trial,
            "arm": trials[each.trial].arm,
            "seed": trials[each.trial].seed,
            "what": each.what,
            "against": each.against or "",
            "measure": value.measure,
            "part": value.part,
            "at": "" if value.at is None else value.at,
            "value": value.value if math.isfinite(value.value) else "",
        }
        for each in sorted(known, key=place)
        for value in each.values
    ]


def summary(
    spec: Spec, results: Sequence[Result], measured: Iterable[Measurement]
) -> list[dict[str, Value]]:
    """One row a measure: mean, standard deviation and n over the runs of each arm. Without lines
    and histograms, which are too long."""
    arm_of = {r.trial.name: r.trial.arm for r in results}
    found: dict[tuple[str, str, float | None], dict[str, list[float]]] = {}
    for each in measured:
        if each.what in (BETWEEN_TWO, "histograms") or each.trial not in arm_of:
            continue
        for value in each.values:
            of = found.setdefault((value.measure, value.part, value.at), {})
            of.setdefault(arm_of[each.trial], []).append(value.value)
    return [
        {"measure": measure, "part": part, "at": "" if at is None else at}
        | {arm: _told(analysis.sample(of.get(arm, []))) for arm in spec.arms}
        for (measure, part, at), of in found.items()
    ]


def _told(sample: analysis.Sample | None) -> str:
    if sample is None:
        return ""
    deviation = f" ± {sample.deviation:.2g}" if sample.n > 1 else ""
    return f"{sample.mean:.4g}{deviation} (n = {sample.n})"


def by_trial(measured: Iterable[Measurement], measure: str, part: str) -> Mapping[str, float]:
    """One measure of every run that has it, of several radii at the smallest."""
    found = {}
    for each in measured:
        alike = [v for v in each.values if (v.measure, v.part) == (measure, part)]
        if alike:
            found[each.trial] = min(alike, key=lambda value: value.at or 0.0).value
    return found
