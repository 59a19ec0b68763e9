"""What a study would run and what it costs, without starting anything."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from study import algorithms, stages
from study.spec import Arm, Span, Spec
from study.yamlfile import SpecError
from trainables import catalog


def show(spec: Spec, console: Console, *, timed: bool) -> None:
    """Prints arms, budgets, trials, epochs, gradient evaluations, and hours where known.

    timed: measures a few steps of every arm first, in a child process.
    """
    times = _measured(spec) if timed else {}
    images = _training_images(spec)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("arm", "method", "search space"):
        table.add_column(title, overflow="fold")
    for title in ("trials", "epochs", "gradient evaluations", *(["hours"] if timed else [])):
        table.add_column(title, justify="right")
    evaluations, hours, total = 0.0, 0.0, 0
    for name, arm in spec.arms.items():
        searched_runs = stages.search_runs(spec, name)
        trials = searched_runs + spec.confirm.seeds
        epochs = max(stages.epochs(spec, name, method) for method in arm.methods)
        cost = stages.gradient_evaluations(spec, name, images)
        evaluations += trials * (cost or 0)
        row = [
            name,
            arm.title,
            ", ".join(_searched(arm)) or "seeds only",
            f"{searched_runs} + {spec.confirm.seeds}",
            f"{trials * epochs:,}",
            "unknown" if cost is None else f"{trials * cost:,.0f}",
        ]
        if timed:
            measured = [times[title] for title in stages.titles(spec, name)]
            epoch = max(each["seconds"] * each["steps"] for each in measured)
            of_arm = trials * epochs * epoch / 3600
            hours += of_arm
            row.append(f"{of_arm:.3f}")
        table.add_row(*row)
        total += trials * epochs
    searched = sum(stages.search_runs(spec, name) for name in spec.arms)
    confirmed = spec.confirm.seeds * len(spec.arms)
    workload = spec.workload
    console.print(f"{spec.study}: {spec.question}" if spec.question else spec.study)
    console.print(table)
    matched = (
        f" (gradient evaluations match those of {workload.budget.of})"
        if workload.budget and workload.budget.match == "gradient_evaluations"
        else ""
    )
    console.print(
        f"{workload.data.name}, {workload.model.name}, {workload.epochs} epochs of batch "
        f"{workload.batch_size}{matched}; sampler {spec.tune.sampler}, pruner {spec.tune.pruner}, "
        f"baseline {spec.verdict.baseline}"
    )
    console.print(
        f"{searched} search and {confirmed} confirm trials (search + confirm above), "
        f"{total:,} epochs"
        + ("" if images is None else f", {evaluations:,.0f} gradient evaluations")
    )
    console.print(
        f"{hours:.2f} hours of training steps on this machine, to be divided by the trials that "
        f"run side by side ({spec.resources.cpu} CPU each)"
        if timed
        else "hours are not known; --plan --time measures a few steps of every arm"
    )
    for text in algorithms.doubts(spec):
        console.print(f"warning: {text}")


def _training_images(spec: Spec) -> int | None:
    data = spec.workload.data
    if data.train_size is not None:
        return data.train_size
    pool = catalog.data_set(data.name).pool
    return None if pool is None else pool - data.validation_size


def _searched(arm: Arm) -> Iterator[str]:
    for key, span in arm.search.items():
        if key == "rho" and arm.methods[0].rho is not None:
            yield "rho as suggested for the method"
        else:
            yield f"{key} {_span(span)}"


def _span(span: Span) -> str:
    if span.choices is not None:
        return "{" + ", ".join(str(choice) for choice in span.choices) + "}"
    ends = f"{span.low:g}-{span.high:g}" + (" log" if span.log else "")
    return ends + (f", {span.points} points" if span.points else "")


def _measured(spec: Spec) -> Mapping[str, Mapping[str, float]]:
    """Seconds of a step and steps an epoch, by arm. Raises SpecError for data or model problems."""
    request = {
        "place": stages.data_place(spec),
        "configs": stages.example_configs(spec),
        "threads": spec.resources.cpu,
        "gpu": spec.resources.gpu > 0,
    }
    done = subprocess.run(
        [sys.executable, "-m", "trainables.timing"],
        input=json.dumps(request),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    answer: dict[str, Any] = json.loads(done.stdout)
    if (problem := answer.get("error")) is not None:
        raise SpecError(f"{spec.study}: {problem}")
    return answer
