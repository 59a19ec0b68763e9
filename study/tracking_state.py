"""How far the mirror of a study got, and that only one process mirrors it. Imports no mlflow."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from study.home import Home
from study.tracking_uri import masked

STATE = "mlflow.json"

_AGAIN = 0.2  # seconds between two looks at a lock that another process holds


class TrackingError(Exception):
    """The mirror cannot go on until the user does something; the text says what."""


@dataclass(frozen=True)
class State:
    """How far the mirror got. uri: without secrets; experiment: MLflow's id; offset: in bytes;
    finished: whether the verdict is there and nothing more will come."""

    uri: str
    experiment: str
    offset: int
    finished: bool = False


def read_state(folder: Path) -> State | None:
    """How far the mirror of the study in `folder` got; None if unknown, which is never wrong."""
    try:
        state = State(**json.loads((folder / STATE).read_bytes()))
    except (FileNotFoundError, ValueError, TypeError):
        return None
    kinds = (str, str, int, bool)
    return state if tuple(map(type, vars(state).values())) == kinds else None


def write_state(folder: Path, state: State) -> None:
    """Replaces the remembered state as one step."""
    draft = folder / f"{STATE}.draft"
    draft.write_text(json.dumps(vars(state)) + "\n")
    os.replace(draft, folder / STATE)


def is_finished(home: Home, uri: str) -> bool:
    """Whether all of a study that has ended is in the store at `uri`."""
    state = read_state(home.folder)
    if state is None or state.uri != masked(uri):
        return False
    return state.finished and state.offset == home.journal.stat().st_size


@contextmanager
def only_one(folder: Path, patience: float = 0.0) -> Iterator[None]:
    """Holds the right to mirror the study in `folder`. TrackingError: another process has it, and
    keeps it for `patience` seconds."""
    deadline = time.monotonic() + patience
    with (folder / "mlflow.lock").open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    message = "another process mirrors this study, as a running study does"
                    raise TrackingError(f"{message} by itself") from None
                time.sleep(_AGAIN)
        yield
