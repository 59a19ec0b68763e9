"""Where a study keeps its ledger: a file in its folder, or a database that studies share.

A database is PostgreSQL, through Optuna's RDBStorage. As the lock of the folder keeps two processes
from one file, an advisory lock keeps them from studies of one name in one database.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from study.database import PATIENCE, reason
from study.home import Home
from study.journal import Contents, RecordError
from study.tracking_uri import database_problem, masked
from study.yamlfile import SpecError

if TYPE_CHECKING:
    from optuna.storages import BaseStorage
    from sqlalchemy import ColumnElement, Connection

_SCHEME = "postgresql://"
_ARGUMENTS = {"connect_timeout": PATIENCE}


@dataclass(frozen=True)
class Store:
    """A ledger to be. recorded: how the journal names it, without secrets; None for the file in the
    study's folder. open: opens it, and makes it if need be."""

    recorded: str | None
    open: Callable[[], BaseStorage]


@contextmanager
def reserved(home: Home, contents: Contents | None, url: str | None) -> Iterator[Store]:
    """Keeps the study's ledger from other processes. Creates nothing: opening it does.

    contents: of the study's journal, None where it has not begun. url: of a database, None for the
    file. Raises SpecError where the ledger cannot be used or is not the one that the study began
    with, RecordError where the database fails later.
    """
    recorded = None if url is None else masked(url)
    if contents is not None:
        _check_same(home, contents.header.get("ledger"), recorded)
    if url is None:
        from study.ledger import open_file

        yield Store(None, lambda: open_file(home.ledger))
        return
    if problem := _problem(url):
        raise SpecError(f"--ledger: {problem}")
    with _locked(home, url, begun=contents is not None), _told(url):
        yield Store(recorded, lambda: open_url(url))


def open_url(url: str) -> BaseStorage:
    """An Optuna storage in the database at `url`, its tables made if need be.

    Raises SpecError where another version of Optuna made them, and what SQLAlchemy raises.
    """
    from optuna.storages import RDBStorage

    template = url.replace("{", "{{").replace("}", "}}")  # Optuna fills in braces
    # pre_ping: a connection that the server closed while a trial took its time is made anew
    options = {"pool_pre_ping": True, "connect_args": _ARGUMENTS}
    try:
        return RDBStorage(template, engine_kwargs=options)
    except RuntimeError as error:
        raise SpecError(f"--ledger {masked(url)}: {error}") from None


def _check_same(home: Home, before: str | None, now: str | None) -> None:
    if before == now:
        return
    if before is None:
        raise SpecError(
            f"{home.folder}: this study began with the ledger in its folder; leave out --ledger"
        )
    raise SpecError(
        f"{home.folder}: this study began with the ledger {before}; name it again with --ledger"
    )


def _problem(url: str) -> str | None:
    """Why `url` can never be a ledger, or None."""
    if not url.startswith(_SCHEME):
        return f"{masked(url)!r}: unknown kind of ledger; allowed: {_SCHEME}USER@HOST:PORT/NAME"
    return database_problem(url, repr(masked(url)))


@contextmanager
def _locked(home: Home, url: str, *, begun: bool) -> Iterator[None]:
    """Holds the lock of the study in the database. begun: its journal has. Raises SpecError."""
    from sqlalchemy import NullPool, create_engine
    from sqlalchemy.exc import SQLAlchemyError

    # AUTOCOMMIT: the connection idles as long as the study runs, never inside a transaction
    engine = create_engine(
        url, poolclass=NullPool, isolation_level="AUTOCOMMIT", connect_args=_ARGUMENTS
    )
    with ExitStack() as held:
        try:
            connection = held.enter_context(engine.connect())
            problem = _lock(connection, home, begun)
        except SQLAlchemyError as error:
            problem = reason(error, url)
        if problem is not None:
            raise SpecError(f"--ledger {masked(url)}: {problem}")
        yield


def _lock(connection: Connection, home: Home, begun: bool) -> str | None:
    """Takes the lock of the study; why the database is none for it, or None."""
    from sqlalchemy import column, func, inspect, select, table

    key = int.from_bytes(hashlib.sha256(home.name.encode()).digest()[:8], signed=True)
    if not connection.scalar(select(func.pg_try_advisory_lock(key))):
        return (
            f"another process runs a study '{home.name}' with this ledger; wait for it, or stop it "
            "first"
        )
    tables = inspect(connection).get_table_names()
    if "studies" in tables:
        name: ColumnElement[str] = column("study_name")
        of_this_name = name.startswith(f"{home.name}/", autoescape=True)
        there = select(name).select_from(table("studies")).where(of_this_name)
        if begun or connection.scalar(there) is None:
            return None
        return (
            f"holds a study '{home.name}' already, which is not the one of {home.folder}; give "
            "this one a name of its own with --set study=NAME"
        )
    if "alembic_version" in tables:
        return (
            "the database holds the tables of another program, such as MLflow; give the ledger one "
            "of its own"
        )
    may_create = func.has_schema_privilege(func.current_schema(), "CREATE")
    if not connection.scalar(select(may_create)):
        return "its user may not make tables there; GRANT it CREATE"
    return None


@contextmanager
def _told(url: str) -> Iterator[None]:
    """Turns an error of the database, wherever it came up, into one line."""
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (SQLAlchemyError, StorageInternalError, RecordError) as error:
        cause = error.__cause__ if isinstance(error, RecordError) else error
        if not isinstance(cause, (SQLAlchemyError, StorageInternalError)):
            raise
        text = f"the ledger {masked(url)} cannot be written: {reason(cause, url)}"
        raise RecordError(text) from error
