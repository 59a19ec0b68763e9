"""One effect, a difference of two arms, in one study. Pure functions over studies.Study.

As in a verdict, runs that share a seed are paired, and a run that diverged counts with chance
accuracy.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from study import stats
from study.sentence import signed
from study.stats import Estimate
from study.studies import Run, Study
from study.yamlfile import SpecError
from trainables.catalog import nearest, shown

CONFIDENCE = 0.95
_CONDITIONS = ("dataset", "model", "norm", "augment", "label_noise", "perturbed_share")


@dataclass(frozen=True)
class Measured:
    """The effect in one study, in percentage points of test accuracy.

    estimate, low, high: None where there are fewer than two pairs. n: pairs, or runs of the smaller
    arm where unpaired. seeds: of the runs of both arms. conditions: what the study holds fixed, as
    text. notes: what a reader should know. barrier: why it cannot be pooled, else empty.
    """

    study: str
    arm: str
    against: str
    estimate: Estimate | None
    low: float | None
    high: float | None
    n: int
    paired: bool
    diverged: int
    data_hash: str
    seeds: frozenset[int]
    matching: str
    conditions: Mapping[str, str]
    notes: tuple[str, ...]
    barrier: str


def splits(effect: str) -> list[tuple[str, str]]:
    """All ways to read ARM-ARM, since a name may hold a '-'. Raises SpecError without any."""
    parts = effect.split("-")
    ways = [("-".join(parts[:i]), "-".join(parts[i:])) for i in range(1, len(parts))]
    ways = [(arm, against) for arm, against in ways if arm and against]
    if not ways or not effect.isprintable():
        raise SpecError(
            f"--effect {shown(effect)}: must be ARM-ARM, such as sam_on-sam_all; an arm is a name "
            "or VARIANT/SUBSET, such as sam/norm"
        )
    return ways


def arms_of(study: Study, effect: str, ways: Iterable[tuple[str, str]]) -> tuple[str, str]:
    """The two arms that the effect means in a study."""
    problems = []
    for pair in ways:
        found = [_matching(study, word) for word in pair]
        if all(len(arms) == 1 for arms in found):
            arm, against = found[0][0], found[1][0]
            if arm == against:
                raise SpecError(f"--effect {effect}: {study.name} has one arm for both, {arm}")
            return arm, against
        problems += [
            (len(arms), word, arms)
            for word, arms in zip(pair, found, strict=True)
            if len(arms) != 1
        ]
    # of several ways to read it, tell of a word that is there, or of the first
    _, word, arms = max(problems, key=lambda problem: problem[0])
    where = f"--effect {effect}: {study.name}"
    if arms:
        raise SpecError(f"{where} has several arms that are {word}: {', '.join(arms)}; name one")
    names = {run.arm: run.method for run in study.runs}
    if not names:
        raise SpecError(f"{where} has no confirm runs yet")
    listed = ", ".join(f"{arm} ({method})" for arm, method in sorted(names.items()))
    known = [*names, *names.values()]
    raise SpecError(f"{where} has no arm {shown(word)}; it has {listed}{nearest(word, known)}")


def _matching(study: Study, word: str) -> list[str]:
    """The arm of that name, or else those of that VARIANT/SUBSET."""
    if any(run.arm == word for run in study.runs):
        return [word]
    return sorted({run.arm for run in study.runs if run.method == word})


def measure(study: Study, arm: str, against: str) -> Measured:
    """The difference arm - against in a study that has both."""
    both = study.of_arm(arm), study.of_arm(against)
    changed = min(map(_first_change, both))
    planned = [[run for run in runs if run.index < changed] for runs in both]
    used = [run for runs in planned for run in runs]
    same_seeds = len({run.seed - run.index for run in used}) == 1
    paired = same_seeds and not any(run.offset for run in used)  # as comparison.py
    n, estimate = _estimate(*planned, paired=paired)
    low, high = stats.interval(estimate, CONFIDENCE) if estimate else (None, None)
    gone = sum(run.diverged for run in used)
    calm = [[run for run in runs if not run.diverged] for runs in planned]
    return Measured(
        study.name, arm, against, estimate, low, high, n, paired,
        diverged=gone,
        data_hash=study.data_hash,
        seeds=frozenset(run.seed for run in used),
        matching=_budget(used),
        conditions=_conditions(*planned),
        notes=(
            *_notes(study, paired, len(used) < sum(map(len, both))),
            *_without_diverged(study, gone, *_estimate(*calm, paired=paired)),
        ),
        barrier=_barrier(study, estimate, planned),
    )  # fmt: skip


def _estimate(
    arm: Iterable[Run], against: Iterable[Run], *, paired: bool
) -> tuple[int, Estimate | None]:
    """Pairs, or runs of the smaller arm, and the difference; None with fewer than two."""
    a, b = (
        {run.seed: run.accuracy for run in runs if run.accuracy is not None}
        for runs in (arm, against)
    )
    shared = sorted(a.keys() & b.keys())
    n = len(shared) if paired else min(len(a), len(b))
    if n < 2:
        return n, None
    if paired:
        # rounded far below one test image, as in comparison.py
        return n, stats.paired([round(a[seed] - b[seed], 9) for seed in shared])
    return n, stats.welch([*a.values()], [*b.values()])


def _without_diverged(study: Study, count: int, n: int, estimate: Estimate | None) -> Iterable[str]:
    if count:
        runs = (
            "a run diverged; chance accuracy counts for it"
            if count == 1
            else f"{count} runs diverged; chance accuracy counts for them"
        )
        rest = (
            "too few are left"
            if estimate is None
            else f"the difference is {_told(estimate)}, n = {n}"
        )
        yield f"{study.name}: {runs}. Without: {rest}."


def _told(estimate: Estimate) -> str:
    """An estimate with its interval."""
    low, high = stats.interval(estimate, CONFIDENCE)
    return f"{signed(estimate.mean)} [{signed(low)}, {signed(high)}]"


def _first_change(runs: Sequence[Run]) -> float:
    """Index of the first run with another configuration than the first one's: an extension chose
    that after test accuracy was seen. Infinite where there is none."""
    configurations = [
        {key: value for key, value in run.params.items() if key != "perturbed_share"}
        for run in runs
    ]
    return min(
        (run.index for run, c in zip(runs, configurations, strict=True) if c != configurations[0]),
        default=float("inf"),
    )


def _budget(runs: Iterable[Run]) -> str:
    by_evaluations = any("gradient_evaluations" in run.params.get("budget", "") for run in runs)
    return "gradient evaluations" if by_evaluations else "epochs"


def _conditions(arm: Sequence[Run], against: Sequence[Run]) -> dict[str, str]:
    """What may change the effect from study to study; of both arms where they differ."""
    pairs = {"method": [runs[0].method if runs else "" for runs in (arm, against)]}
    for key in _CONDITIONS:
        values = [[run.params[key] for run in runs if key in run.params] for runs in (arm, against)]
        pairs[key] = [_short(min(each, default="")) for each in values]
    apart = ("method", "perturbed_share")
    return {
        key: " \N{MINUS SIGN} ".join(pair) if key in apart else " or ".join(dict.fromkeys(pair))
        for key, pair in pairs.items()
    }


def _short(text: str) -> str:
    """A number in few digits; any other text as it is."""
    try:
        return f"{float(text):.3g}"
    except ValueError:
        return text


def _notes(study: Study, paired: bool, left_out: bool) -> Iterable[str]:
    if study.earlier:
        yield f"{study.name}: the latest of {study.earlier + 1} studies of that name is read."
    if left_out:
        yield (
            f"{study.name}: an extension changed a configuration after looking at the verdict; "
            "only the planned confirm runs are compared."
        )
    elif study.extended:
        yield f"{study.name}: was extended after looking at the verdict, and is read with all runs."
    if not paired:
        yield f"{study.name}: unpaired, an arm has seeds of its own (Welch's t)."


def _barrier(study: Study, estimate: Estimate | None, planned: Sequence[Sequence[Run]]) -> str:
    missing = sum(run.accuracy is None for runs in planned for run in runs)
    if estimate is None:
        return "fewer than two pairs of runs have test accuracies"
    if not study.judged:
        return "it has no verdict yet"
    if missing or len(planned[0]) != len(planned[1]):
        return "it is incomplete: runs of one of the arms are missing"
    if not study.data_hash:
        return "its data hash is missing, so it may share data with any other"
    if estimate.error == 0:
        return "its differences are all equal, so it has no standard error to be weighed by"
    return ""
