"""The lines of a journal as types, and the check that bytes are one of them.

Values of another type, or out of range, make a line damaged, and so do missing keys. A number that
was not finite is null.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, NotRequired

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    with_config,
)
from typing_extensions import TypedDict  # pydantic takes the one of `typing` from Python 3.12 on

from study.records import (
    Correct,
    End,
    Epoch,
    Failure,
    Measured,
    Measurement,
    Stage,
    Status,
    Trial,
    Value,
)

Line = Mapping[str, Any]

Time = Annotated[float, Field(ge=0, lt=253_402_300_800)]
"""Seconds since 1970, to the end of the year 9999."""
LIMIT = 1e100
"""Of what training measures: below it sums and squares are finite."""
Number = Annotated[float, Field(gt=-LIMIT, lt=LIMIT)]
Percent = Annotated[float, Field(ge=0, lt=100.5)]  # a mean of 100 may be rounded up
Count = Annotated[int, Field(ge=0, lt=2**63)]
Ordinal = Annotated[int, Field(ge=1, lt=2**63)]

_strict = with_config(ConfigDict(strict=True, allow_inf_nan=False))
_open = with_config(ConfigDict(strict=True, allow_inf_nan=False, extra="allow"))


@_open
class Data(TypedDict):
    """What a header says of the data set, among other things."""

    hash: str


@_open
class Header(TypedDict):
    """The first line: what the study is and what it began with; also plan, ledger and storage."""

    kind: Literal["header"]
    version: int
    time: Time
    spec: dict[str, Any]
    hash: str
    commit: str
    versions: dict[str, str]
    data: Data


@_strict
class Start(TypedDict):
    """A trial starts."""

    kind: Literal["start"]
    trial: str
    arm: str
    stage: Stage
    index: Count
    repeat: Count | None
    seed: Count
    hyperparameters: dict[str, Value]
    time: Time


@_strict
class EpochLine(TypedDict):
    """An epoch of a trial, from 1."""

    kind: Literal["epoch"]
    trial: str
    epoch: Ordinal
    metrics: dict[str, Number | None]
    time: Time


@_strict
class FailureLine(TypedDict):
    """An attempt at a trial failed, for the number-th time, with so many epochs reported."""

    kind: Literal["failure"]
    trial: str
    number: Ordinal
    reason: str
    epochs: Count
    time: Time


@_strict
class Scores(TypedDict, total=False):
    """Of a trial that ended; accuracies in percent."""

    validation_accuracy: Percent
    test_accuracy: Percent
    test_loss: Number | None


@_strict
class CorrectImages(TypedDict):
    """As records.Correct, in base64."""

    images: Ordinal
    bits: str


def _fit(correct: CorrectImages) -> CorrectImages:
    """Raises ValueError where the bits are not one for each image, filled up with zeros."""
    found = decoded(correct)
    spare = -correct["images"] % 8
    if len(found.bits) * 8 != correct["images"] + spare or found.bits[-1] % 2**spare:
        raise ValueError("not a bit for each image")
    if encoded(found) != correct:
        raise ValueError("not base64 as it is written here")
    return correct


@_strict
class EndLine(TypedDict):
    """A trial ended after so many epochs. correct: of a confirm trial that finished."""

    kind: Literal["end"]
    trial: str
    status: Status
    reason: str
    scores: Scores
    epochs: Count
    time: Time
    correct: NotRequired[Annotated[CorrectImages, AfterValidator(_fit)]]


@_strict
class MeasuredValue(TypedDict):
    """As records.Measured."""

    measure: str
    part: str
    at: Number | None
    value: Number | None


@_strict
class MeasurementLine(TypedDict):
    """Something was measured on the weights of a confirm run."""

    kind: Literal["measurement"]
    trial: str
    what: str
    against: str | None
    values: list[MeasuredValue]
    time: Time


@_strict
class Note(TypedDict):
    """Something a reader of the result should know."""

    kind: Literal["note"]
    text: str
    time: Time


@_open
class Mean(TypedDict):
    """What a verdict says of a sample, among other things."""

    mean: float | None
    standard_error: float | None


@_open
class ArmVerdict(TypedDict):
    """What a verdict says of an arm."""

    validation_accuracy: Mean | None
    test_accuracy: Mean | None


@_open
class ComparisonVerdict(TypedDict):
    """What a verdict says of two arms."""

    arm: str
    against: str
    difference: float | None
    p_holm: float | None


@_open
class Verdict(TypedDict):
    """As verdict.json."""

    sentence: str
    arms: dict[str, ArmVerdict]
    comparisons: list[ComparisonVerdict]


@_strict
class VerdictLine(TypedDict):
    """The verdict: number 0 is the planned one, then one for each extension."""

    kind: Literal["verdict"]
    number: Count
    verdict: Verdict
    time: Time


@_strict
class Extend(TypedDict):
    """Budgets raised after the verdict before it was seen."""

    kind: Literal["extend"]
    number: Ordinal
    spec: dict[str, Any]
    time: Time


_ANY = TypeAdapter[Line](
    Annotated[
        Header
        | Start
        | EpochLine
        | FailureLine
        | EndLine
        | MeasurementLine
        | Note
        | VerdictLine
        | Extend,
        Field(discriminator="kind"),
    ]
)


def parse(raw: bytes) -> Line | None:
    """The line that `raw` is, without keys that it need not have; None: it is damaged."""
    try:
        return _ANY.validate_json(raw)
    except ValidationError:
        return None


def key_of(line: Line) -> tuple[object, ...]:
    """What a line is known by: of two with the same key, the first counts."""
    return line["kind"], *map(line.get, ("trial", "epoch", "text", "number", "what", "against"))


def parse_start(line: Line, study: str) -> Trial:
    """The trial of a start line."""
    return Trial(
        study,
        line["arm"],
        line["stage"],
        line["index"],
        line["seed"],
        line["hyperparameters"],
        line["repeat"],
    )


def parse_epoch(line: Line) -> Epoch:
    """The record of an epoch line."""
    return Epoch(line["trial"], line["epoch"], _numbers(line["metrics"]), line["time"])


def parse_failure(line: Line) -> Failure:
    """The record of a failure line."""
    number, reason = line["number"], line["reason"]
    return Failure(line["trial"], number, reason, line["epochs"], line["time"])


def parse_end(line: Line) -> End:
    """The record of an end line."""
    scores, epochs, time = _numbers(line["scores"]), line["epochs"], line["time"]
    correct = decoded(line["correct"]) if "correct" in line else None
    return End(line["trial"], line["status"], line["reason"], scores, epochs, time, correct)


def encoded(correct: Correct) -> Line:
    """As the journal holds it."""
    return {"images": correct.images, "bits": base64.b64encode(correct.bits).decode()}


def decoded(correct: Line) -> Correct:
    """The record of what the journal holds. Raises ValueError where that is not base64."""
    return Correct(correct["images"], base64.b64decode(correct["bits"], validate=True))


def parse_measurement(line: Line) -> Measurement:
    """The record of a measurement line."""
    values = tuple(
        Measured(v["measure"], v["part"], v["at"], math.nan if v["value"] is None else v["value"])
        for v in line["values"]
    )
    return Measurement(line["trial"], line["what"], line["against"], values, line["time"])


def _numbers(values: Mapping[str, float | None]) -> dict[str, float]:
    return {key: math.nan if value is None else value for key, value in values.items()}
