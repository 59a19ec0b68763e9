"""How much of the search's result each choice of an arm explains: PED-ANOVA, exploratory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from statistics import mean

from study import space
from study.records import Result
from study.spec import METHOD_KEYS, Arm

_BEST = 0.25
"""Share of the trials that counts as good; Optuna's tenth would be two of 24."""


def importance(arm: Arm, search: Iterable[Result]) -> Mapping[str, float]:
    """Share of each hyperparameter that every point has, the method's choices among them, summing
    to 1; empty with fewer than four finished configurations or without difference between them.

    Source: Watanabe et al., PED-ANOVA, arXiv 2304.10255, as in optuna.importance.
    """
    import optuna

    runs: dict[int, list[Result]] = {}
    for result in search:
        runs.setdefault(result.trial.index, []).append(result)
    finished = [some for some in runs.values() if all(r.end.status == "finished" for r in some)]
    distributions = space.distributions(arm)
    points = [space.point(arm, some[0].trial.hyperparameters) for some in finished]
    shared = {key for key in distributions if all(key in point for point in points)}
    values = [mean(r.end.scores["validation_accuracy"] for r in some) for some in finished]
    if len(values) < 4 or len(set(values)) < 2 or len(shared) < 2:
        return {}
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(0))
    for point, value in zip(points, values, strict=True):
        trial = optuna.create_trial(
            params={key: point[key] for key in shared},
            distributions={key: distributions[key] for key in shared},
            value=value,
        )
        study.add_trial(trial)
    found = optuna.importance.get_param_importances(
        study, evaluator=optuna.importance.PedAnovaImportanceEvaluator(target_quantile=_BEST)
    )
    total = sum(found.values())
    return {key: value / total for key, value in found.items()} if total else {}


def sentence(name: str, arm: Arm, search: Iterable[Result]) -> str | None:
    """What the search of an arm that chooses its method tells of the choices; None for others."""
    if not set(METHOD_KEYS) & set(arm.search):
        return None
    shares = importance(arm, search)
    if not shares:
        return f"{name}: too few different results to say which choice mattered."
    told = ", ".join(f"{key} {100 * share:.0f} %" for key, share in shares.items())
    return (
        f"{name}: importance of what its search chose, for being among its best quarter "
        f"(PED-ANOVA, exploratory, no part of the verdict): {told}."
    )
