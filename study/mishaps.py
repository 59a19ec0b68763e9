"""What Ray says of an attempt at a trial that failed, in the user's words."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import ray
from ray.exceptions import (
    ActorUnavailableError,
    OutOfMemoryError,
    RayActorError,
    RayError,
    RayTaskError,
)
from ray.tune.experiment import Trial as TuneTrial

_OF_A_WORKER = (RayActorError, OutOfMemoryError)
"""What the process that leads a trial's workers says where one of them went away."""
_COLOUR = re.compile(r"\x1b\[\d*m")


@dataclass(frozen=True)
class Mishap:
    """reason: in a word or two, to be counted by; text: one line; trace: of an exception."""

    reason: str
    text: str
    trace: str


def mishap(trial: TuneTrial) -> Mishap:
    """What a Tune trial failed of, as Tune noted it in this process's scratch folder."""
    told = _read(trial.error_file)
    error = _unpickled(trial.pickled_error_file)
    if isinstance(error, RayTaskError) and isinstance(error.cause, _OF_A_WORKER):
        error = error.cause
    if isinstance(error, RayTaskError):
        cause = error.cause or error
        kind = type(cause).__name__
        reason = "out of memory (GPU)" if kind == "OutOfMemoryError" else kind
        return Mishap(reason, _last_line(str(cause)) or kind, _COLOUR.sub("", str(error)))
    if isinstance(error, OutOfMemoryError) or "running low on memory" in told:
        return Mishap("out of memory", "its node ran out of memory", "")
    if "its node has died" in told or "node was terminated" in told:
        return Mishap("node lost", "its node went away", "")
    if isinstance(error, ActorUnavailableError):
        # How a node goes away without a word, before Ray itself knows that it did.
        return Mishap("out of reach", "its process, or its node, no longer answers", "")
    if isinstance(error, RayActorError):
        return Mishap("process died", "its process died", "")
    return Mishap("unknown", _last_line(told), told)


def told(error: RayError) -> str:
    """What Ray says of a task that failed, in one line."""
    cause = error.cause or error if isinstance(error, RayTaskError) else error
    return _last_line(str(cause)) or type(cause).__name__


def _unpickled(path: str | None) -> BaseException | None:
    """An exception of a trial; None where there is none, or it is of a kind that is not here."""
    try:
        error: BaseException = ray.cloudpickle.loads(Path(path or "").read_bytes())
    except Exception:  # whatever unpickling somebody's exception raises
        return None
    return error


def _read(path: str | None) -> str:
    return Path(path).read_text(errors="replace") if path and Path(path).exists() else ""


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[-1]
