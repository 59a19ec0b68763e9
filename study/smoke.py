"""Pure: from a study to the smallest one that takes the same way through the code, on digits.

A smoke run shows in seconds, on any machine and without the data set, that a study would run. It
answers nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path

from study import resolve, yamlfile
from study.part import Count
from study.space import grid
from study.spec import Arm, Method, Resources, Span, Spec
from study.workload import Data, Model, Workload
from study.yamlfile import Document
from trainables import catalog

_LONGEST_NAME = 64
_TRIALS, _SEEDS, _EPOCHS = 2, 2, 2
_BATCHES, _BATCH, _VALIDATION, _WIDTH = 4, 32, 64, 4
_LARGE, _FEW = 64, 8
"""Height of images above which a batch holds no more than these, and validation twice as many."""


class StandIn(Data):
    """A data set that digits stand in for. stand_in: how many of them, without those for test."""

    stand_in: Count


def load(path: Path, assignments: Iterable[str] = ()) -> Spec:
    """The smoke run of the YAML file `path`; its data set may be missing, with its root.

    Raises SpecError as resolve.load.
    """
    document = yamlfile.override(yamlfile.read(path), assignments)
    return smoke(resolve.resolve(_with_root(document)))


def smoke(spec: Spec) -> Spec:
    """The study `smoke_NAME`: the baseline and another arm, with few trials, seeds, epochs and
    batches, on one core each; of a grid, two values of each axis.

    The other arm is the one whose budget is matched, or else the first with the most methods.
    """
    baseline, budget = spec.verdict.baseline, spec.workload.budget
    others = [name for name in spec.arms if name != baseline]
    other = max(others, key=lambda name: len(spec.arms[name].methods))
    if budget is not None and budget.of != baseline:
        other = budget.of
    arms = {
        name: _arm(arm, spec.tune.sampler, min(spec.workload.batch_size, _most(spec.workload)))
        for name, arm in spec.arms.items()
        if name in (baseline, other)
    }
    trials = None if spec.tune.sampler == "grid" else _TRIALS
    return spec.model_copy(
        update={
            "study": f"smoke_{spec.study}"[:_LONGEST_NAME],
            "workload": _workload(spec.workload, arms),
            "arms": arms,
            "tune": spec.tune.model_copy(
                update={"trials_per_arm": trials, "search_seeds": min(2, spec.tune.search_seeds)}
            ),
            "confirm": spec.confirm.model_copy(update={"seeds": _SEEDS}),
            "verdict": spec.verdict.model_copy(update={"also": []}),
            "reference": None,
            "resources": Resources(cpu=1, gpu=0.0, max_trials=_TRIALS),
        }
    )


def _with_root(document: Document) -> Document:
    """The document with a root where its data set needs one and it gives none."""
    match document.data:
        case {"workload": {"data": {"name": str(name)} as data}} if "root" not in data:
            if name in catalog.DATASETS and catalog.DATASETS[name].needs_root:
                return yamlfile.override(document, ["workload.data.root=never-read"])
    return document


def _arm(arm: Arm, sampler: str, batch: int) -> Arm:
    arm = arm.model_copy(update={"methods": [_method(method, batch) for method in arm.methods]})
    if sampler == "grid" and arm.search:
        arm = arm.model_copy(update={"search": {k: _axis(s) for k, s in arm.search.items()}})
        return arm.model_copy(update={"trials": len(grid(arm))})
    return arm.model_copy(update={"trials": _TRIALS})


def _method(method: Method, batch: int) -> Method:
    """The method, its chunks no larger than the smaller batch."""
    chunk = method.options.get("m")
    if chunk is None:
        return method
    options = {**method.options, "m": math.gcd(int(chunk), batch)}
    return method.model_copy(update={"options": options})


def _axis(span: Span) -> Span:
    if span.choices is not None:
        return span.model_copy(update={"choices": span.choices[:2]})
    return span.model_copy(update={"points": 2})


def _workload(workload: Workload, arms: Mapping[str, Arm]) -> Workload:
    most = _most(workload)
    batch = min(workload.batch_size, most)
    train = max(_BATCHES * batch, *(_largest_batch(arm) for arm in arms.values()))
    validation = min(workload.data.validation_size, _VALIDATION, 2 * most)
    data = workload.data.model_dump()
    data |= {"train_size": train, "validation_size": validation, "stand_in": train + validation}
    epochs = min(workload.epochs, _EPOCHS)
    warmup = workload.schedule.warmup * epochs / workload.epochs
    return workload.model_copy(
        update={
            "data": StandIn(**data),
            "model": _model(workload.model),
            "epochs": epochs,
            "batch_size": batch,
            "schedule": workload.schedule.model_copy(update={"warmup": warmup}),
            "accumulate": math.gcd(workload.accumulate, batch),
            # A smoke run has no GPU, and float16 needs one.
            "precision": "bfloat16" if workload.precision == "float16" else workload.precision,
        }
    )


def _most(workload: Workload) -> int:
    """Images of a batch at most."""
    size = catalog.data_set(workload.data.name).size or workload.data.image_size
    return _BATCH if size <= _LARGE else _FEW


def _model(model: Model) -> Model:
    """The model, or a small one of its kind with the same normalization."""
    declared = catalog.MODELS.get(model.name)
    if declared is not None and declared.small is not None:
        model = model.model_copy(update={"name": declared.small})
    # A model of the user's own may need the width that it has.
    if "width" in (catalog.model_options(model.name) or ()):
        model = model.model_copy(update={"width": min(model.width or _WIDTH, _WIDTH)})
    return model


def _largest_batch(arm: Arm) -> int:
    """The largest batch size that the arm's search may try, 0 where it searches for none."""
    span = arm.search.get("batch_size")
    if span is None:
        return 0
    return int(max(float(size) for size in (span.choices or [span.high or 0])))
