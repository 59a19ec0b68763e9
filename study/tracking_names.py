"""The names under which a study stands in MLflow, as pure functions of the journal's lines."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from study.journal_lines import Line, parse_end, parse_epoch, parse_measurement
from study.records import Trial
from study.spec import METHOD_KEYS, Arm, Method
from trainables import catalog

MAX_TAG = 8000
"""Characters of a tag's value that MLflow keeps."""
MAX_PARAM = 500
"""Characters of a param's value that every MLflow server of the last years takes."""
TEST_SCORES = ("test_accuracy", "test_loss")
STATUS = {
    "finished": "FINISHED",
    "pruned": "KILLED",
    "diverged": "KILLED",
    "failed": "FAILED",
}
"""MLflow's word for each way in which a trial ends."""

_USUAL: Mapping[str, object] = {
    "decay_norm_and_bias": True,
    "nesterov": False,
    "schedule_per": "epoch",
    "warmup": 0.0,
    "train": "all",
    "accumulate": 1,
    "precision": "float32",
}
_SHARE = "perturbed_share"
Point = tuple[str, float, int, int]
"""A metric: key, value, timestamp in milliseconds, step."""


def millis(seconds: float) -> int:
    """Milliseconds since 1970, MLflow's unit, of seconds since 1970."""
    return int(seconds * 1000)


def text(value: object, limit: int = MAX_TAG) -> str:
    """`value` as text that every store takes: without NUL and lone surrogates, cut at `limit`."""
    plain = str(value).lower() if isinstance(value, bool) else str(value)
    plain = plain.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode()
    return plain if len(plain) <= limit else plain[: limit - 1] + "…"


def trial_title(trial: Trial) -> str:
    """The run name of a trial: ARM/STAGE/INDEX."""
    return trial.name.removeprefix(f"{trial.study}/")


def study_tags(header: Line) -> dict[str, str]:
    """Tags of a study's parent run but for the verdict."""
    question = header["spec"]["question"]
    own = {"stage": "study", "question": question, "mlflow.note.content": question}
    return _tags({**_common(header), **own})


def study_params(header: Line) -> dict[str, str]:
    """Params of a study's parent run: its planned budgets."""
    spec = header["spec"]
    planned = {
        "confirm_seeds": spec["confirm"]["seeds"],
        "trials_per_arm": spec["tune"]["trials_per_arm"],
    }
    return {key: text(value, MAX_PARAM) for key, value in planned.items() if value is not None}


def trial_tags(header: Line, trial: Trial, parent: str) -> dict[str, str]:
    """Tags of a trial's run, nested under the run `parent`."""
    method = _method(header, trial)
    offset = header["spec"]["arms"][trial.arm]["seed_offset"] if trial.stage == "confirm" else 0
    own = {
        "stage": trial.stage,
        "arm": trial.arm,
        "variant": method.variant,
        "perturb": method.perturb,
        "approximate": ", ".join(method.approximations(trial.hyperparameters)) or None,
        "seed": trial.seed,
        "seed_offset": offset or None,
        "trial": trial.name,
        "mlflow.parentRunId": parent,
    }
    return _tags({**_common(header), **own})


def verdict_tags(line: Line, after_looking: str | None, note: str) -> dict[str, str]:
    """Tags that the planned verdict, and that of the last extension, add to the parent run.

    line: of the planned one. note: in Markdown, which MLflow shows as the run's description.
    """
    return _tags(
        {
            "verdict": line["verdict"]["sentence"],
            "verdict_after_looking": after_looking,
            "mlflow.note.content": note,
        }
    )


def trial_params(header: Line, trial: Trial) -> dict[str, str]:
    """Params of a trial: its workload, the options of its variant, its hyperparameters last.

    What is as in most studies is left out (`_USUAL`), so that a reader sees what is not.
    """
    workload = dict(header["spec"]["workload"])
    data, model, optimizer = (dict(workload.pop(k)) for k in ("data", "model", "optimizer"))
    data.pop("root", None)  # a place, not a setting
    names = {"dataset": data.pop("name"), "model": model.pop("name")}
    names["optimizer"] = optimizer.pop("name")
    method = _method(header, trial)
    known = catalog.VARIANTS[method.variant].options
    # Those at their default would be a dozen more in every run.
    options = {k: v for k, v in method.options.items() if v != known[k].default}
    schedule = dict(workload.pop("schedule", {}))  # absent in journals of earlier versions
    names["schedule"], names["schedule_per"] = schedule.pop("name", None), schedule.pop("per", None)
    workload.pop("diagnostics", None)  # what they measure stands among the metrics
    tuned = {key: v for key, v in trial.hyperparameters.items() if key not in METHOD_KEYS}
    fixed = {**names, **data, **model, **optimizer, **schedule, **workload}
    unusual = {key: v for key, v in fixed.items() if key not in _USUAL or v != _USUAL[key]}
    values = {**unusual, **options, **tuned}
    return {key: text(value, MAX_PARAM) for key, value in values.items() if value is not None}


def epoch_params(line: Line) -> dict[str, str]:
    """Params known once the first epoch is done: the share of parameters that was perturbed."""
    share = line["metrics"].get(_SHARE)
    return {_SHARE: text(share, MAX_PARAM)} if line["epoch"] == 1 and share is not None else {}


def epoch_metrics(line: Line) -> Iterator[Point]:
    """Metrics of an epoch line; NaN for a number that was not finite."""
    epoch = parse_epoch(line)
    for key, value in epoch.metrics.items():
        if key != _SHARE:
            yield key, value, millis(epoch.time), epoch.epoch


def end_metrics(line: Line, trial: Trial) -> Iterator[Point]:
    """Test scores of an end line: in the confirm stage only, at the last epoch."""
    end = parse_end(line)
    if trial.stage == "confirm":
        for key in TEST_SCORES:
            if key in end.scores:
                yield key, end.scores[key], millis(end.time), end.epochs


def measured_metrics(line: Line) -> Iterator[Point]:
    """The headlines of what was measured on a run."""
    for key, headline in catalog.HEADLINES.items():
        found = [v for v in parse_measurement(line).values if (v.measure, v.part) == headline]
        for value in found[:1]:
            yield key, value.value, millis(line["time"]), 0


def end_tags(line: Line) -> dict[str, str]:
    """Tags that tell how a trial ended, none for one that finished."""
    if line["status"] == "finished":
        return {}
    diverged = {"diverged": True} if line["status"] == "diverged" else {}
    return _tags({"reason": line["reason"], **diverged})


def summary_metrics(line: Line) -> Iterator[Point]:
    """The verdict in numbers, for the parent run: per arm and per comparison."""
    verdict, at = line["verdict"], millis(line["time"])
    values: dict[str, float | None] = {}
    for name, arm in verdict["arms"].items():
        for key in ("test_accuracy", "validation_accuracy"):
            if arm[key] is not None:
                values[f"{key}.{name}"] = arm[key]["mean"]
        if arm["test_accuracy"] is not None:
            values[f"standard_error.{name}"] = arm["test_accuracy"]["standard_error"]
    for comparison in verdict["comparisons"]:
        pair = f"{comparison['arm']}_vs_{comparison['against']}"
        values[f"difference.{pair}"] = comparison["difference"]
        values[f"p.{pair}"] = comparison["p_holm"]
    for key, value in values.items():
        yield key, math.nan if value is None else value, at, 0


def _method(header: Line, trial: Trial) -> Method:
    return Arm.model_validate(header["spec"]["arms"][trial.arm]).method(trial.hyperparameters)


def _common(header: Line) -> dict[str, Any]:
    return {
        "study": header["spec"]["study"],
        "spec_hash": header["hash"],
        "data_hash": header["data"]["hash"],
        "commit": header["commit"],
    }


def _tags(values: Mapping[str, Any]) -> dict[str, str]:
    return {key: text(value) for key, value in values.items() if value is not None}
