"""A database whose answers get lost after it did what it was asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from study.patient_storage import PatientStorage


class Lossy:
    """Loses the answer to each commit of `storage` for which `when` says so of its number, from 0.
    The commit is made; what the driver then raises is what it says of a broken connection."""

    def __init__(self, storage: PatientStorage, when: Callable[[int], bool]) -> None:
        self.commits = 0
        self.lost = 0
        dialect: Any = storage.engine.dialect
        commit, error = dialect.do_commit, dialect.loaded_dbapi.OperationalError

        def lossy(connection: Any) -> None:
            commit(connection)
            number, self.commits = self.commits, self.commits + 1
            if when(number):
                self.lost += 1
                raise error("server closed the connection unexpectedly")

        dialect.do_commit = lossy
