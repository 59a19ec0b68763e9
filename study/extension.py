"""Raising the budgets of a study: what that is, and what is no mere raise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from study.spec import Spec
from study.yamlfile import SpecError

if TYPE_CHECKING:
    from study.journal import Contents


def extended(spec: Spec, trials: int | None, seeds: int | None) -> Spec:
    """The study with more search trials an arm and more confirm seeds, both counted in all.

    An arm with a budget of its own keeps it. Raises SpecError where nothing is raised, something
    is lowered, or a grid would get points that it does not have.
    """
    now = spec.tune.trials_per_arm
    if trials is None and seeds is None:
        raise SpecError("--trials or --seeds is missing: how many in all, for every arm")
    if trials is not None:
        if spec.tune.sampler == "grid" or now is None:
            raise SpecError("--trials: a grid has all its points already; --seeds can be raised")
        if trials < now:
            raise SpecError(f"--trials: {trials} is below the {now} that every arm has")
    if seeds is not None and seeds < spec.confirm.seeds:
        raise SpecError(f"--seeds: {seeds} is below the {spec.confirm.seeds} there are")
    more = _with(spec, trials if trials is not None else now, seeds or spec.confirm.seeds)
    if more == spec:
        raise SpecError(
            f"the study has {now} search trials an arm and {spec.confirm.seeds} confirm seeds "
            "already; give more"
        )
    return more


def options(before: Spec, after: Spec) -> str | None:
    """The options of study.extend that make `after` of `before`; None where it is no mere raise."""
    trials, seeds = after.tune.trials_per_arm, after.confirm.seeds
    if _with(before, trials, seeds).hash != after.hash:
        return None
    if seeds < before.confirm.seeds or (trials or 0) < (before.tune.trials_per_arm or 0):
        return None
    given = []
    if trials != before.tune.trials_per_arm:
        given.append(f"--trials {trials}")
    if seeds != before.confirm.seeds:
        given.append(f"--seeds {seeds}")
    return " ".join(given)


def is_lost(rounds: Sequence[Spec], contents: Contents) -> bool:
    """Whether the journal tells of an extension behind `rounds` whose own line is damaged: by its
    verdict, or by trials beyond all budgets."""
    if any(number >= len(rounds) for number in contents.verdicts):
        return True
    budgets, seeds = rounds[-1].arms, sum(spec.confirm.seeds for spec in rounds)
    searched = rounds[-1].tune.search_seeds
    return any(
        trial.index
        >= (seeds if trial.stage == "confirm" else max(budgets[trial.arm].trials, searched))
        for trial in contents.trials.values()
    )


def restored(rounds: Sequence[Spec], contents: Contents, more: Spec) -> Spec:
    """The lost extension, as it was asked for again. Raises SpecError where it was another one."""
    verdict = contents.verdicts.get(len(rounds))
    if verdict is not None and verdict.get("spec_hash") != more.hash:
        raise SpecError(
            "--trials, --seeds: the extension whose line of the journal is damaged had other "
            "budgets; give those that it had"
        )
    return more


def _with(spec: Spec, trials: int | None, seeds: int) -> Spec:
    plain: dict[str, Any] = spec.model_dump()
    for arm in plain["arms"].values():
        if arm["trials"] == spec.tune.trials_per_arm:
            arm["trials"] = trials
    plain["tune"]["trials_per_arm"] = trials
    plain["confirm"]["seeds"] = seeds
    return Spec.model_validate(plain)
