"""Mirrors a study into MLflow: once to catch up, or, with --follow, as long as the study runs."""

from __future__ import annotations

import argparse
import os
import select
import sys
import time
import traceback
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from study import tracking, tracking_state
from study.home import Home
from study.journal import lines
from study.tracking_process import CAUGHT_UP
from study.tracking_uri import (
    VARIABLE,
    absolute_uri,
    check_uri,
    default_uri,
    is_masked,
    masked,
    scrubbed,
)
from study.yamlfile import SpecError

if TYPE_CHECKING:
    from mlflow import MlflowClient

ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # the default blocks for minutes
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",  # errors are told here, in one line
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "GIT_PYTHON_REFRESH": "quiet",
    # the cores belong to the training
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}
"""Set in the mirroring process only, unless the user has set them."""

_SHARE = 0.01  # of one core while following, so that the training keeps it
_SHORTEST, _LONGEST = 2.0, 6.0  # seconds between two looks at the journal
_RETRY = 60.0  # seconds between two tries in a long outage
_HAND_OVER = 60.0  # seconds that the child of a study that was killed may take to end
_ERROR_TEXT = 400
_STORES = ("mlflow", "psycopg", "requests", "sqlalchemy", "sqlite3", "urllib3")  # raise errors


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 mirrored, 1 the store cannot be written, 2 wrong input, 130 interrupted."""
    parser = argparse.ArgumentParser(prog="python -m study.sync", description=__doc__)
    parser.add_argument("name", help="the study")
    parser.add_argument("--out", type=Path, default=Path("studies"), help="folder of all studies")
    parser.add_argument(
        "--tracking-uri",
        help=f"default: ${VARIABLE}, where the study was last mirrored, or mlflow.db here",
    )
    parser.add_argument(
        "--follow", action="store_true", help="go on until the end of standard input"
    )
    arguments = parser.parse_args(argv)
    home = Home(arguments.out, arguments.name)
    try:
        if not arguments.follow:
            home.begun()
        uri = _chosen_uri(home, arguments.tracking_uri)
    except SpecError as error:
        print(error, file=sys.stderr)
        return 2
    for key, value in ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    try:
        return _follow(home, uri) if arguments.follow else _once(home, uri)
    except KeyboardInterrupt:
        return 130


def _chosen_uri(home: Home, given: str | None) -> str:
    state = tracking_state.read_state(home.folder)
    given = given or os.environ.get(VARIABLE)
    uri = given or (state.uri if state else default_uri(Path.cwd()))
    if given is None and is_masked(uri):
        raise SpecError(
            f"{home.folder / tracking_state.STATE}: keeps no passwords; give --tracking-uri again "
            f"({uri})"
        )
    if problem := check_uri(uri):
        raise SpecError(problem)
    return absolute_uri(uri, Path.cwd())


def _once(home: Home, uri: str) -> int:
    try:
        with tracking_state.only_one(home.folder):
            mirror = tracking.Mirror(tracking.open_store(uri), home, uri)
            mirror.catch_up()
            mirror.finish()
    except Exception as error:  # stores raise what they like; all of it is told
        print(told(error, uri), file=sys.stderr)
        return 1
    print(f"{home.name} is mirrored in {masked(uri)}")
    return 0


def _follow(home: Home, uri: str) -> int:
    os.nice(10)
    with ExitStack() as held:
        follower = _Follower(home, uri, held)
        wait = 0.0
        while not _input_ends(wait):
            wait = follower.look(last=False)
        follower.look(last=True)
        return 1 if follower.problem else 0


class _Follower:
    """Looks at the journal again and again, through outages of the store.

    problem: why the last look failed, in one line; empty when it did not.
    """

    def __init__(self, home: Home, uri: str, held: ExitStack) -> None:
        self._home = home
        self._uri = uri
        self._held = held
        self._locked = False
        self._reached = False
        self._failures = 0
        self._client: MlflowClient | None = None
        self._mirror: tracking.Mirror | None = None
        self.problem = ""

    def look(self, *, last: bool) -> float:
        """Writes what is new; last: the study has ended. Returns seconds to wait now."""
        begun = time.process_time()
        try:
            self._write(last)
        except Exception as error:  # stores raise what they like; all of it is told
            return self._fail(error)
        if self.problem or not self._reached:
            _say(CAUGHT_UP)
        self._reached = True
        self.problem, self._failures = "", 0
        return min(_LONGEST, max(_SHORTEST, (time.process_time() - begun) / _SHARE))

    def _write(self, last: bool) -> None:
        if not self._locked:
            patience = _HAND_OVER if last else 0.0
            self._held.enter_context(tracking_state.only_one(self._home.folder, patience))
            self._locked = True
        if self._client is None:
            self._client = tracking.open_store(self._uri)
        if self._mirror is None and _has_begun(self._home.journal):
            self._mirror = tracking.Mirror(self._client, self._home, self._uri)
            self._mirror.reopen()
        if self._mirror is not None:
            self._mirror.catch_up()
            if last:
                self._mirror.finish()

    def _fail(self, error: Exception) -> float:
        problem = told(error, self._uri)
        if problem != self.problem:
            if not _is_expected(error):
                _say(scrubbed(traceback.format_exc(), self._uri))
            _say(problem)
        self.problem = problem
        self._failures += 1
        self._client = self._mirror = None
        return min(_RETRY, 2.0**self._failures)


def _has_begun(journal: Path) -> bool:
    return journal.exists() and any(True for _ in lines(journal))


def _input_ends(seconds: float) -> bool:
    """Waits, and tells whether standard input has come to its end meanwhile."""
    stdin = sys.stdin.fileno()
    ready, _, _ = select.select([stdin], [], [], seconds)
    return bool(ready) and not os.read(stdin, 4096)


def _is_expected(error: BaseException) -> bool:
    return isinstance(error, (tracking_state.TrackingError, OSError)) or any(
        kind.__module__.partition(".")[0] in _STORES for kind in type(error).__mro__
    )


def told(error: Exception, uri: str) -> str:
    """What a store did wrong, in one line without secrets."""
    inner = _innermost(error)
    said = inner if _is_expected(inner) else error
    text = " ".join(str(said).split()) or type(said).__name__
    if not _is_expected(said):
        text = f"{type(said).__name__}: {text}"
    return scrubbed(f"MLflow at {masked(uri)}: {text[:_ERROR_TEXT]}", uri)


def _innermost(error: BaseException) -> BaseException:
    """What the operating system or the database said, without the libraries around it."""
    while inner := error.__cause__ or (None if error.__suppress_context__ else error.__context__):
        error = inner
    return error


def _say(text: str) -> None:
    print(time.strftime("%Y-%m-%d %H:%M:%S"), text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
