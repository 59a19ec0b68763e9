"""Asks a tracking store, before a study starts, whether it answers. Imports no mlflow."""

from __future__ import annotations

import os
import queue
import threading
from base64 import b64encode
from dataclasses import dataclass
from pathlib import Path

from study.database import PATIENCE, reason, root
from study.tracking_uri import sqlite_path

_EXPERIMENTS = "/api/2.0/mlflow/experiments/search?max_results=1"  # /health needs no password
_OWN_WAYS = (
    "MLFLOW_TRACKING_AUTH",
    "MLFLOW_TRACKING_AWS_SIGV4",
    "MLFLOW_TRACKING_CLIENT_CERT_PATH",
    "MLFLOW_TRACKING_INSECURE_TLS",
    "MLFLOW_TRACKING_SERVER_CERT_PATH",
)
_REFUSALS = ("password authentication failed", "no password supplied", "Access denied for user")
"""How PostgreSQL, its driver and MySQL say that user or password is wrong."""


@dataclass(frozen=True)
class Problem:
    """Why a store does not answer. lasting: it will not by itself, as with a wrong password."""

    text: str
    lasting: bool = False


_SILENCE = Problem(f"no answer within {PATIENCE} s")


def problem(uri: str) -> Problem | None:
    """What is wrong with the store at `uri`, an absolute one that may work; None if it answers.

    Takes at most PATIENCE seconds, whatever name servers and drivers make of their own limits.
    """
    if sqlite_path(uri) is not None:
        return None
    ask = _ask_server if uri.startswith("http") else _ask_database
    answers: queue.SimpleQueue[Problem | None] = queue.SimpleQueue()
    threading.Thread(target=lambda: answers.put(ask(uri)), daemon=True).start()
    try:
        return answers.get(timeout=PATIENCE)
    except queue.Empty:
        return _SILENCE


def _ask_server(uri: str) -> Problem | None:
    import requests

    if _only_mlflow_can_sign_in():
        return None
    try:
        answer = requests.get(uri.rstrip("/") + _EXPERIMENTS, headers=_sign_in(), timeout=PATIENCE)
    except requests.Timeout:
        return _SILENCE
    except requests.RequestException as error:
        return Problem(reason(_innermost(error), uri))
    if answer.ok:
        return None
    if answer.status_code in (401, 403):
        return Problem(
            f"refuses user name or password (HTTP {answer.status_code} {answer.reason})",
            lasting=True,
        )
    return Problem(f"answers HTTP {answer.status_code} {answer.reason}")


def _innermost(error: BaseException) -> BaseException:
    """What the operating system said, without the three libraries around it."""
    while error.__context__ is not None:
        error = error.__context__
    return error


def _sign_in() -> dict[str, str]:
    """The header that MLflow makes of its environment variables; what stands in the URL goes before
    it there too."""
    user = os.environ.get("MLFLOW_TRACKING_USERNAME")
    password = os.environ.get("MLFLOW_TRACKING_PASSWORD")
    token = os.environ.get("MLFLOW_TRACKING_TOKEN")
    if user and password:
        return {"Authorization": f"Basic {b64encode(f'{user}:{password}'.encode()).decode()}"}
    return {"Authorization": f"Bearer {token}"} if token else {}


def _only_mlflow_can_sign_in() -> bool:
    """Whether the user set up one of MLflow's other ways to sign in, not repeated here."""
    there = any(os.environ.get(name) for name in _OWN_WAYS)
    return there or Path(os.path.expanduser("~/.mlflow/credentials")).exists()


def _ask_database(uri: str) -> Problem | None:
    from sqlalchemy import NullPool, create_engine
    from sqlalchemy.exc import SQLAlchemyError

    try:
        create_engine(uri, poolclass=NullPool).connect().close()
    except SQLAlchemyError as error:
        lasting = any(refusal in root(error) for refusal in _REFUSALS)
        return Problem(reason(error, uri), lasting)
    return None
