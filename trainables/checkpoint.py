"""The checkpoints of one trial: written beside the training, the last two kept, any damage told."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch

from trainables.storage import Storage

_KEPT = 2
_SUFFIX = ".pt"


class Checkpoints:
    """Checkpoints below `folder` of a storage.

    of: what the trial is: a checkpoint of anything else is never loaded. notes: what the user
    should know of files that could be neither read nor written; whoever tells them empties it.
    """

    def __init__(self, storage: Storage, folder: str, of: Mapping[str, Any]) -> None:
        self._storage = storage
        self._folder = folder
        self._of = dict(of)
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future[None] | None = None
        self.notes: list[str] = []

    def load(self) -> Mapping[str, Any] | None:
        """The newest content that can be read and is of this trial; None where there is none."""
        try:
            names = self._storage.names(self._folder)
        except OSError as error:
            self.notes.append(f"checkpoints of {self._folder} cannot be listed: {error}")
            return None
        for name in reversed(names):
            try:
                found = unpacked(self._storage.read(f"{self._folder}/{name}"))
            except (OSError, ValueError) as error:
                self.notes.append(f"checkpoint {self._folder}/{name} was not used: {error}")
                continue
            if found.get("of") == self._of:
                content: Mapping[str, Any] = found["content"]
                return content
        return None

    @property
    def busy(self) -> bool:
        """Whether one is being written."""
        return self._writing is not None and not self._writing.done()

    def save(self, name: str, content: Mapping[str, Any]) -> None:
        """Writes one while the caller goes on, and deletes all but the last two.

        name: its position in the trial, so that names sort as checkpoints follow. content: tensors
        and plain values that nobody changes any more.
        """
        self.wait()
        self._writing = self._thread.submit(self._write, name, content)

    def wait(self) -> None:
        """Waits until what was saved is written, or has failed."""
        if self._writing is not None:
            self._writing.result()

    def _write(self, name: str, content: Mapping[str, Any]) -> None:
        try:
            packed_content = packed({"of": self._of, "content": content})
            self._storage.write(f"{self._folder}/{name}{_SUFFIX}", packed_content)
            for old in self._storage.names(self._folder)[:-_KEPT]:
                self._storage.delete(f"{self._folder}/{old}")
        except OSError as error:
            # A trial without checkpoints is still a trial; a full disk ends the study elsewhere.
            self.notes.append(f"checkpoint {self._folder}/{name} was not written: {error}")


def packed(content: Mapping[str, Any]) -> bytes:
    """Tensors and plain values as a file of torch.save."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def unpacked(data: bytes) -> Mapping[str, Any]:
    """What `packed` made. Raises ValueError for anything else; runs no code of it."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise ValueError(f"damaged at {damaged}")
        content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise ValueError("holds more than tensors and plain values") from None
    except (zipfile.BadZipFile, RuntimeError, EOFError, KeyError) as error:
        raise ValueError(f"damaged: {str(error).splitlines()[0]}") from None
    if not isinstance(content, Mapping):
        raise ValueError("not a checkpoint")
    return content
