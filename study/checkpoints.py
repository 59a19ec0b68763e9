"""Deletes the checkpoints of trials that have ended."""

from __future__ import annotations

import contextlib
import importlib

from study.home import Home

# By path, because nothing of `trainables` but the catalog is known here; it imports no torch.
_storage = importlib.import_module("trainables.storage")


class Checkpoints:
    """The checkpoints of a study, seen from where its results are written down."""

    def __init__(self, home: Home) -> None:
        self._study = home.name
        self._files = _storage.open_storage(home.storage_uri)

    def of_trial(self, trial: str) -> None:
        """Deletes those of a trial, whose end is on disk: nobody goes on with it."""
        # What fails here is met again at the end of the study.
        with contextlib.suppress(OSError):
            self._files.delete(_storage.checkpoints_of(trial))

    def all(self) -> None:
        """Deletes what is left of them: the study is over."""
        with contextlib.suppress(OSError):
            self._files.delete(f"{self._study}/{_storage.CHECKPOINTS}")
