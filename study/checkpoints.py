"""The storage of checkpoints, seen from the study: it deletes those that nobody needs."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable

from study.home import Home

# By path, because nothing of `trainables` but the catalog is known here; it imports no torch.
_storage = importlib.import_module("trainables.storage")
open_storage = _storage.open_storage


class Checkpoints:
    """The checkpoints of a study, seen from where its results are written down."""

    def __init__(self, home: Home) -> None:
        self._study = home.name
        self._uri = home.storage_uri
        self._files = open_storage(self._uri)

    def of_trial(self, trial: str) -> None:
        """Deletes those of a trial, whose end is on disk: nobody goes on with it."""
        # What fails here is met again at the end of the study.
        with contextlib.suppress(OSError):
            self._files.delete(_storage.checkpoints_of(trial))

    def all(self, warn: Callable[[str], None]) -> None:
        """Deletes what is left of them: the study is over. warn: told where that fails."""
        folder = f"{self._study}/{_storage.CHECKPOINTS}"
        try:
            self._files.delete(folder)
        except OSError as error:
            warn(f"{self._uri}: {folder} could not be deleted and is of no use: {error}")
