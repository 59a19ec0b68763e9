"""How long an epoch of each arm takes, as far as that is known without measuring it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from study.home import Home
from study.journal import Contents
from study.spec import Spec
from study.yamlfile import SpecError


@dataclass(frozen=True)
class Seconds:
    """Seconds of an epoch by arm, of its costliest method. source: where they are from."""

    of_epoch: Mapping[str, float]
    source: str


def known(spec: Spec, out: Path) -> Seconds | None:
    """From the epochs of studies in `out` with this workload on these resources, or else by
    resources.seconds_per_epoch; None where neither tells."""
    epochs: dict[str, list[float]] = {}
    names = []
    for name, contents, before in _studies(out):
        if _same_training(before, spec):
            names.append(name)
            for title, seconds in _by_method(before, contents):
                epochs.setdefault(title, []).append(seconds)
    methods = {m.title: m.cost for arm in spec.arms.values() for m in arm.methods}
    per_cost = [mean(epochs[title]) / cost for title, cost in methods.items() if title in epochs]
    if per_cost:
        source = f"by the epochs of {', '.join(names)} in {out}"
        of_method = {
            title: mean(epochs[title]) if title in epochs else cost * mean(per_cost)
            for title, cost in methods.items()
        }
    elif (one := spec.resources.seconds_per_epoch) is not None:
        source = "by resources.seconds_per_epoch"
        of_method = {title: cost * one for title, cost in methods.items()}
    else:
        return None
    arms = {n: max(of_method[m.title] for m in arm.methods) for n, arm in spec.arms.items()}
    return Seconds(arms, source)


def _studies(out: Path) -> Iterator[tuple[str, Contents, Spec]]:
    for path in sorted(out.expanduser().glob("*/journal.jsonl")):
        try:
            spec, contents = Home(out, path.parent.name).begun()
        except (SpecError, ValueError):  # damaged, or of a version with other specs
            continue
        yield path.parent.name, contents, spec


def _same_training(one: Spec, other: Spec) -> bool:
    """Whether an epoch of a method takes as long in both."""
    unlike = {"epochs", "schedule", "budget"}
    resources = {"cpu", "gpu"}
    return (
        one.workload.model_dump(exclude=unlike) == other.workload.model_dump(exclude=unlike)
        and one.resources.model_dump(include=resources)
        == other.resources.model_dump(include=resources)
        and one.engine == other.engine
    )


def _by_method(spec: Spec, contents: Contents) -> Iterator[tuple[str, float]]:
    """The method and the seconds of every epoch."""
    for name, epochs in contents.epochs.items():
        trial = contents.trials[name]
        title = spec.arms[trial.arm].method(trial.hyperparameters).title
        for epoch in epochs:
            if (seconds := epoch.metrics.get("seconds_per_epoch")) is not None:
                yield title, seconds
