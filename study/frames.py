"""A study as tidy pandas frames, for people who go on with it: study.load("norm_vs_all")."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import cast, get_args

import pandas as pd

from study import analysis, crossed, tables
from study.home import Home
from study.journal import Contents
from study.records import End, Result, Stage, Status
from study.rounds import Round, judge
from study.spec import Spec


@dataclass(frozen=True)
class Frames:
    """Four frames; accuracies and differences in percent, times in UTC, durations in seconds.

    trials: a row a trial that started, status 'running' where it has not ended; a column a
    hyperparameter, missing where the arm does not tune it. epochs: a row an epoch of a trial, a
    column a metric. verdict: a row a planned comparison, with the numbers of verdict.json; of an
    unfinished study those so far. extension: 0 as planned, from 1 on found after looking. images: a
    row a test image, a column a confirm trial that finished, by its name: whether it got it right.
    """

    trials: pd.DataFrame
    epochs: pd.DataFrame
    verdict: pd.DataFrame
    images: pd.DataFrame


def load(name: str, out: str | PathLike[str]) -> Frames:
    """The frames of the study `name` in the folder `out`. Raises SpecError where there is none."""
    return frames(*Home(Path(out), name).rounds())


def frames(rounds: Sequence[Spec], contents: Contents) -> Frames:
    """The frames of what a journal holds. rounds: the planned study and its extensions."""
    spec = rounds[0]
    started = tables.in_order(spec, [*contents.results, *_running(contents)])
    return Frames(
        trials=_trials(spec, started),
        epochs=_epochs(spec, started),
        verdict=_verdict(judge(rounds, contents)),
        images=_images(started),
    )


_BEFORE = ("study", "trial", "arm", "variant", "perturb", "stage", "index", "seed")
_BEHIND = (
    *("status", "reason", "epochs", "validation_accuracy", "test_accuracy", "test_loss"),
    *("gradient_evaluations", "perturbed_share", "started", "ended", "seconds"),
)
"""Columns of trials before and behind the hyperparameters."""


def _running(contents: Contents) -> list[Result]:
    """Trials without an end, with what stands for one; so far is all that they have."""
    return [
        Result(
            trial,
            End(name, cast(Status, "running"), "", {}, len(epochs), math.nan),
            epochs,
            contents.started[name],
        )
        for name, trial in contents.trials.items()
        if name not in contents.ends
        for epochs in [contents.epochs.get(name, ())]
    ]


def _trials(spec: Spec, started: Sequence[Result]) -> pd.DataFrame:
    rows = [
        {
            "study": spec.study,
            **{key: None if value == "" else value for key, value in row.items()},
            "reason": row["reason"],
            "perturbed_share": next(iter(analysis.metric(result, "perturbed_share")), None),
            "started": result.started,
            "ended": result.end.time,
            "seconds": result.end.time - result.started,
        }
        for row, result in zip(tables.trials_rows(spec, started), started, strict=True)
    ]
    searched = [key for key in (rows[0] if rows else {}) if key not in (*_BEFORE, *_BEHIND)]
    frame = pd.DataFrame(rows, columns=[*_BEFORE, *searched, *_BEHIND], dtype=object)
    for key in searched:
        frame[key] = _inferred(frame[key])
    for key in ("started", "ended"):
        frame[key] = _utc(frame[key])
    return frame.astype(
        {
            **dict.fromkeys(("study", "trial", "reason"), "str"),
            **dict.fromkeys(("variant", "perturb", "status"), "category"),
            "arm": _arms(spec),
            "stage": _STAGES,
            **dict.fromkeys(("index", "seed", "epochs"), "Int64"),
            **dict.fromkeys(("validation_accuracy", "test_accuracy", "test_loss"), "float64"),
            **dict.fromkeys(("gradient_evaluations", "perturbed_share", "seconds"), "float64"),
        }
    )


def _epochs(spec: Spec, started: Sequence[Result]) -> pd.DataFrame:
    rows = [
        {
            "trial": result.trial.name,
            "arm": result.trial.arm,
            "stage": result.trial.stage,
            "epoch": epoch.epoch,
            **epoch.metrics,
            "time": epoch.time,
        }
        for result in started
        for epoch in result.epochs
    ]
    metrics = list(dict.fromkeys(key for r in started for e in r.epochs for key in e.metrics))
    frame = pd.DataFrame(rows, columns=["trial", "arm", "stage", "epoch", *metrics, "time"])
    frame["time"] = _utc(frame["time"])
    return frame.astype(
        {
            "trial": "str",
            "arm": _arms(spec),
            "stage": _STAGES,
            "epoch": "Int64",
            **dict.fromkeys(metrics, "float64"),
        }
    )


def _verdict(judged: Sequence[Round]) -> pd.DataFrame:
    spec, rows = judged[0].spec, []
    for number, each in enumerate(judged):
        for comparison in each.verdict.plain()["comparisons"]:
            row = {"study": spec.study, "extension": number, **comparison}
            row["diverged"] = len(comparison["diverged"])
            del row["differences"]  # those of the trials with one seed
            row["low"], row["high"] = row.pop("interval")
            rows.append(row)
    words = ("study", "test")
    exact: dict[str, str | pd.CategoricalDtype] = {
        "arm": _arms(spec),
        "against": _arms(spec),
        "word": "category",
        "by_less_than_margin": "bool",
        "n": "Int64",
        "extension": "Int64",
        "diverged": "Int64",
    }
    frame = pd.DataFrame(rows)
    numbers = [key for key in frame.columns if key not in exact and key not in words]
    return frame.astype(
        {**dict.fromkeys(words, "str"), **exact, **dict.fromkeys(numbers, "float64")}
    )


def _images(started: Sequence[Result]) -> pd.DataFrame:
    columns = {
        result.trial.name: pd.Series(crossed.right(result.end.correct).astype(bool))
        for result in started
        if result.end.correct is not None
    }
    return pd.DataFrame(columns)


_STAGES = pd.CategoricalDtype(list(get_args(Stage)))


def _arms(spec: Spec) -> pd.CategoricalDtype:
    """In the order of the spec, so that grouped and sorted rows are too."""
    return pd.CategoricalDtype(list(spec.arms))


def _utc(seconds: pd.Series) -> pd.Series:
    return pd.to_datetime(seconds.astype("float64"), unit="s", utc=True)


def _inferred(values: pd.Series) -> pd.Series:
    """Values of one hyperparameter by what they are; decimals as float64, as all measurements."""
    column = values.convert_dtypes()
    return column.astype("float64") if pd.api.types.is_float_dtype(column) else column
