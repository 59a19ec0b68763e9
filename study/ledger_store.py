"""Where a study keeps its ledger: a file in its folder, or a database that studies share.

A database is PostgreSQL, through Optuna's RDBStorage. As the lock of the folder keeps two processes
from one file, a lease keeps them from studies of one name in one database.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from study.database import CONNECTION, reason
from study.home import Home
from study.journal import Contents, RecordError
from study.patience import ALONE, Driver, Patience
from study.tracking_uri import database_problem, masked
from study.yamlfile import SpecError

if TYPE_CHECKING:
    from optuna.storages import BaseStorage
    from sqlalchemy import ColumnElement, Connection

    from study.lease import Lease

_SCHEME = "postgresql://"


@dataclass(frozen=True)
class Store:
    """A ledger to be. recorded: how the journal names it, without secrets; None for the file in the
    study's folder. open: opens it for an execution, and makes it if need be."""

    recorded: str | None
    open: Callable[[Driver], BaseStorage]


@contextmanager
def reserved(home: Home, contents: Contents | None, url: str | None) -> Iterator[Store]:
    """Keeps the study's ledger from other processes. Without opening it nothing is left behind.

    contents: of the study's journal, None where it has not begun. url: of a database, None for the
    file. Raises SpecError where the ledger cannot be used or is not the one that the study began
    with, RecordError where the database fails later.
    """
    recorded = None if url is None else masked(url)
    if contents is not None:
        _check_same(home, contents.header.get("ledger"), recorded)
    if url is None:
        from study.ledger import open_file

        yield Store(None, lambda driver: open_file(home.ledger))
        return
    if problem := _problem(url):
        raise SpecError(f"--ledger: {problem}")
    with _leased(home, url, begun=contents is not None) as lease, _told(url, lease):

        def opened(driver: Driver) -> BaseStorage:
            lease.when_lost(driver.stop)
            return open_url(url, driver, lambda: lease.lost)

        yield Store(recorded, opened)


def open_url(
    url: str, driver: Driver = ALONE, lost: Callable[[], bool] = lambda: False
) -> BaseStorage:
    """An Optuna storage in the database at `url`, its tables made if need be. It waits where the
    database is away. lost: whether the right to write there was.

    Raises SpecError where another version of Optuna made them, and what SQLAlchemy raises.
    """
    from study.patient_storage import PatientStorage

    template = url.replace("{", "{{").replace("}", "}}")  # Optuna fills in braces
    # pre_ping: a connection that the server closed while a trial took its time is made anew
    options = {"pool_pre_ping": True, "connect_args": CONNECTION}
    ledger = f"the ledger {masked(url)}"
    patience = Patience(ledger, driver, lambda error: reason(error, url), lost)
    try:
        return PatientStorage(template, options, patience)
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
def _leased(home: Home, url: str, *, begun: bool) -> Iterator[Lease]:
    """Holds the lease of the study in the database. begun: its journal has. Raises SpecError."""
    from sqlalchemy import NullPool, create_engine
    from sqlalchemy.exc import SQLAlchemyError

    from study.lease import Lease

    lease = Lease(create_engine(url, poolclass=NullPool, connect_args=CONNECTION), home.name)
    try:
        problem = lease.take(lambda connection: _not_for(home, connection, begun))
    except SQLAlchemyError as error:
        problem = reason(error, url)
    if problem is not None:
        raise SpecError(f"--ledger {masked(url)}: {problem}")
    with lease.kept():
        yield lease


def _not_for(home: Home, connection: Connection, begun: bool) -> str | None:
    """Why the database holds no ledger for the study, or None. begun: its journal has."""
    from sqlalchemy import column, inspect, select, table

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
    return None


@contextmanager
def _told(url: str, lease: Lease) -> Iterator[None]:
    """Turns an error of the database, wherever it came up, or a lost lease into one line."""
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
    except KeyboardInterrupt:
        if not lease.lost:
            raise
        raise RecordError(
            f"the ledger {masked(url)}: {lease.taker} took the study over while this process was "
            "out of touch with it"
        ) from None
