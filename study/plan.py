"""What a study would run and what it costs, without starting anything."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from study import algorithms, costs, stages, standing
from study.costs import Seconds
from study.spec import Arm, Span, Spec
from study.yamlfile import SpecError
from trainables import catalog


def show(spec: Spec, console: Console, out: Path, *, timed: bool) -> None:
    """Prints arms, budgets, trials, epochs, gradient evaluations, and hours and money where known.

    out: of earlier studies, whose epochs tell how long one takes. timed: measures a few steps of
    every arm first, in a child process.
    """
    seconds = _measured(spec) if timed else costs.known(spec, out)
    images = _training_images(spec)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("arm", "method", "search space"):
        table.add_column(title, overflow="fold")
    for title in ("trials", "epochs", "gradient evaluations", *(["hours"] if seconds else [])):
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
        if seconds:
            of_arm = trials * epochs * seconds.of_epoch[name] / 3600
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
    if spec.engine.batched_trials > 1:
        console.print(_groups(spec))
    console.print(_cost(spec, hours, seconds))
    for text in algorithms.doubts(spec):
        console.print(f"warning: {text}")


def _groups(spec: Spec) -> str:
    """Groups and processes in a line."""
    size = spec.engine.batched_trials
    search = sum(math.ceil(stages.budget(spec, name) / size) for name in spec.arms)
    confirm = len(spec.arms) * math.ceil(spec.confirm.seeds / size)
    return (
        f"{size} trials of an arm and stage train as one in a process: {search} search and "
        f"{confirm} confirm groups"
    )


def _cost(spec: Spec, hours: float, seconds: Seconds | None) -> str:
    """Hours and money in a line."""
    if seconds is None:
        return "hours are not known; --plan --time measures a few steps of every arm"
    gpu = spec.resources.gpu
    told = (
        f"{hours:.2f} hours of training steps {seconds.source}, to be divided by the "
        f"{'trials' if spec.engine.batched_trials == 1 else 'groups'} that run side by side (each "
        f"with {spec.resources.amounts})"
    )
    if gpu:
        told += f"; {hours * gpu:.2f} GPU hours"
    if (cost := standing.price(spec.resources, 3600 * hours)) is not None:
        told += f"; cost {cost:,.2f} by resources.price_per_hour"
    return told


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


def _measured(spec: Spec) -> Seconds:
    """From a few steps of every arm. Raises SpecError for data or model problems."""
    request = {
        "place": stages.data_place(spec),
        "configs": stages.example_configs(spec),
        "threads": spec.resources.cpu,
        "gpu": spec.resources.gpu > 0,
        "workers": spec.resources.workers,
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
    seconds = {
        name: max(
            answer[title]["seconds"] * answer[title]["steps"] for title in stages.titles(spec, name)
        )
        for name in spec.arms
    }
    alone = "" if spec.engine.batched_trials == 1 else ", of trials one by one"
    return Seconds(seconds, f"on this machine{alone}")
