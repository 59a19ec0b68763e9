"""A request to stop a study, left in its ledger: whoever runs the study looks there each second."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

_ATTRIBUTE = "stop"
_LOOK = 1.0  # seconds between two looks


def request(storage: BaseStorage, study: str) -> None:
    """Asks whoever runs the study to stop. Does nothing where the ledger holds nothing of it yet,
    or was asked already."""
    _set(storage, study, True)


@contextmanager
def heard(storage: BaseStorage, study: str, stop: Callable[[], None]) -> Iterator[None]:
    """While the context lasts, `stop` is called once a request is there. One that was left for an
    earlier execution is withdrawn first."""
    _set(storage, study, False)
    over = threading.Event()

    def look() -> None:
        places: list[int] = []
        while not over.wait(_LOOK):
            # A ledger that fails ends the study elsewhere, where it is told.
            with suppress(Exception, KeyboardInterrupt):
                places = places or _places(storage, study)
                # A request is left in all of them.
                if places and storage.get_study_user_attrs(places[0]).get(_ATTRIBUTE):
                    stop()
                    return

    # Nobody waits for it: a look may last as long as a database is away.
    threading.Thread(target=look, name="stop", daemon=True).start()
    try:
        yield
    finally:
        over.set()


def _set(storage: BaseStorage, study: str, wanted: bool) -> None:
    for place in _places(storage, study):
        if storage.get_study_user_attrs(place).get(_ATTRIBUTE, False) != wanted:
            storage.set_study_user_attr(place, _ATTRIBUTE, wanted)


def _places(storage: BaseStorage, study: str) -> list[int]:
    """The Optuna studies of a study: one an arm and stage, so it is not known which is there."""
    return [
        each._study_id
        for each in storage.get_all_studies()
        if each.study_name.startswith(f"{study}/")
    ]
