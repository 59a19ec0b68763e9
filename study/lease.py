"""One driver for each study: a row in the ledger's database that its holder keeps alive.

A row outlives what a lock on a connection does not: a restart of the server. A holder that is not
heard of for a minute loses it; one that ended on this machine, at once.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Connection,
    DateTime,
    Engine,
    Integer,
    MetaData,
    Table,
    Text,
    delete,
    extract,
    func,
    inspect,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import SQLAlchemyError

from study.holder import Holder, has_ended, this_process

BEAT = 10.0
"""Seconds between two signs of life."""
EXPIRY = 60
"""Seconds after the last sign of life when a lease is free."""

_RETRY = 2.0
_LOCK = 0x5A4D57D9  # of the table being made and dropped; any number that others do not use

_TABLE = Table(
    "study_lease",
    MetaData(),
    Column("name", Text, primary_key=True),
    Column("holder", Text, nullable=False),
    Column("host", Text, nullable=False),
    Column("machine", Text, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("started", BigInteger, nullable=False),
    Column("beat", DateTime(timezone=True), nullable=False),
)
_NOW: ColumnElement[Any] = func.clock_timestamp()  # the server's: the only clock that all share


class Lease:
    """The lease of the study `name`, for one execution of it.

    lost: whether another process took it, which can happen to one that was out of touch for a
    minute. taker: who, as far as known.
    """

    def __init__(self, engine: Engine, name: str) -> None:
        self._engine = engine
        self._name = name
        self._id = uuid.uuid4().hex
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._on_lost: list[Callable[[], None]] = []
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)
        self.lost = False
        self.taker = "another process"

    def take(self, problem: Callable[[Connection], str | None]) -> str | None:
        """Takes the lease; or says in one line why not, and then makes nothing.

        problem: what else keeps the study from this database, asked while nobody else takes a lease
        there. Raises what SQLAlchemy raises.
        """
        with self._engine.connect() as connection, connection.begin() as transaction:
            _alone(connection)
            refused = _make_table(connection) or self._claim(connection) or problem(connection)
            if refused is not None:
                transaction.rollback()
            return refused

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Keeps the lease that was taken while the context lasts, and then frees it."""
        self._thread.start()
        try:
            yield
        finally:
            self._over.set()
            self._thread.join()
            self._leave()

    def when_lost(self, call: Callable[[], None]) -> None:
        """Has `call` called, once, when the lease is lost, or at once if it is."""
        with self._lock:
            if not self.lost:
                self._on_lost.append(call)
                return
        call()

    def _claim(self, connection: Connection) -> str | None:
        row: dict[str, Any] = {"holder": self._id, **vars(this_process()), "beat": _NOW}
        wanted = insert(_TABLE).values(name=self._name, **row)
        expired = _TABLE.c.beat < _NOW - timedelta(seconds=EXPIRY)
        free = wanted.on_conflict_do_update(index_elements=["name"], set_=row, where=expired)
        if connection.scalar(free.returning(_TABLE.c.name)) is not None:
            return None
        fields = [_TABLE.c[name] for name in Holder.__dataclass_fields__]
        age = extract("epoch", _NOW - _TABLE.c.beat)
        there = select(age, _TABLE.c.holder, *fields).where(_TABLE.c.name == self._name)
        seconds, other, *rest = connection.execute(there).one()
        holder = Holder(*rest)
        if has_ended(holder):
            dead = update(_TABLE).where(_TABLE.c.name == self._name, _TABLE.c.holder == other)
            connection.execute(dead.values(**row))
            return None
        return (
            f"another process runs a study '{self._name}' with this ledger: {holder}, heard of "
            f"{seconds:.0f} s ago; wait for it, or stop it first; if it is dead, the study is free "
            f"in {max(EXPIRY - seconds, 0):.0f} s"
        )

    def _beat(self) -> None:
        pause = BEAT
        while not self._over.wait(pause):
            try:
                ours = self._renew()
            except SQLAlchemyError:  # the storage tells the user; whose the lease is shows later
                pause = _RETRY
                continue
            pause = BEAT
            if not ours:
                self._lose()
                return

    def _renew(self) -> bool:
        """Gives a sign of life; whether the lease is still ours."""
        ours = update(_TABLE).where(_TABLE.c.name == self._name, _TABLE.c.holder == self._id)
        with self._engine.begin() as connection:
            if connection.execute(ours.values(beat=_NOW)).rowcount:
                return True
            taker = select(_TABLE.c.host, _TABLE.c.pid).where(_TABLE.c.name == self._name)
            if (row := connection.execute(taker).one_or_none()) is not None:
                self.taker = f"{row.host}, pid {row.pid}"
            return False

    def _lose(self) -> None:
        with self._lock:
            self.lost = True
            calls = [*self._on_lost]
        for call in calls:
            call()

    def _leave(self) -> None:
        """Frees the lease; without the ledger's tables, its own goes too: nothing had begun."""
        ours = delete(_TABLE).where(_TABLE.c.name == self._name, _TABLE.c.holder == self._id)
        # Where the server is away the lease runs out on its own.
        with suppress(SQLAlchemyError), self._engine.begin() as connection:
            _alone(connection)
            connection.execute(ours)
            held = connection.scalar(select(func.count()).select_from(_TABLE))
            if not held and not inspect(connection).has_table("studies"):
                _TABLE.drop(connection)


def _alone(connection: Connection) -> None:
    """Waits until no other process takes or leaves a lease in this database, for a transaction."""
    connection.execute(select(func.pg_advisory_xact_lock(_LOCK)))


def _make_table(connection: Connection) -> str | None:
    """Makes the table of the leases, if need be; why that is not possible, or None."""
    if inspect(connection).has_table(_TABLE.name):
        return None
    may_create = func.has_schema_privilege(func.current_schema(), "CREATE")
    if not connection.scalar(select(may_create)):
        return "its user may not make tables there; GRANT it CREATE"
    _TABLE.create(connection)
    return None
