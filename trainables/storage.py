"""Where checkpoints and weights are kept: a folder that all nodes share, or an object store."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Protocol
from urllib.parse import urlsplit

from trainables.whole import written_whole

SCHEMES = ("s3", "gs", "file")
CHECKPOINTS, WEIGHTS = "checkpoints", "weights"
"""Folders below that of a study."""


def checkpoints_of(trial: str) -> str:
    """The folder of a trial's checkpoints. trial: STUDY/ARM/STAGE/INDEX."""
    study, _, rest = trial.partition("/")
    return f"{study}/{CHECKPOINTS}/{rest}"


def weights_of(trial: str) -> str:
    """The file of a trial's final weights."""
    study, _, rest = trial.partition("/")
    return f"{study}/{WEIGHTS}/{rest}.pt"


class Storage(Protocol):
    """Files by name, a path relative to the storage with `/`. All raise OSError."""

    def write(self, name: str, content: bytes) -> None:
        """Writes a file: a reader finds all of it, or what was there before."""

    def read(self, name: str) -> bytes:
        """A file's content; FileNotFoundError where it is not there."""

    def names(self, folder: str) -> Sequence[str]:
        """Names of the files that lie in a folder, sorted; none where there is no folder."""

    def delete(self, name: str) -> None:
        """Deletes a file or a folder with all that it holds, if it is there."""


def open_storage(uri: str) -> Storage:
    """The storage at an absolute path, or at a URI such as s3://BUCKET/FOLDER.

    Credentials come from the environment. Raises ValueError for a URI that can be none.
    """
    if problem := check_uri(uri):
        raise ValueError(problem)
    parts = urlsplit(uri)
    return _Folder(Path(parts.path)) if parts.scheme in ("", "file") else _ObjectStore(uri)


def check_uri(uri: str) -> str | None:
    """Why `uri` can name no storage, or None. Nothing is opened."""
    parts = urlsplit(uri)
    if parts.scheme not in ("", *SCHEMES):
        allowed = "an absolute path, s3://BUCKET/FOLDER, gs://BUCKET/FOLDER"
        return f"unknown kind of storage {parts.scheme!r}; allowed: {allowed}"
    if "@" in parts.netloc:
        return "holds credentials; leave them out, they are read from the environment"
    if parts.scheme in ("", "file"):
        return None if parts.path.startswith("/") and not parts.netloc else "is no absolute path"
    return None if parts.netloc else f"names no bucket, as in {parts.scheme}://BUCKET/FOLDER"


class _Folder:
    def __init__(self, root: Path) -> None:
        self._root = root

    def write(self, name: str, content: bytes) -> None:
        path = self._root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as file:
            file.write(content)

    def read(self, name: str) -> bytes:
        return (self._root / name).read_bytes()

    def names(self, folder: str) -> Sequence[str]:
        path = self._root / folder
        if not path.is_dir():
            return ()
        return sorted(p.name for p in path.iterdir() if not p.name.startswith("."))

    def delete(self, name: str) -> None:
        path = self._root / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


class _ObjectStore:
    def __init__(self, uri: str) -> None:
        from pyarrow.fs import FileSystem

        self._files, root = FileSystem.from_uri(uri)
        self._root = PurePosixPath(root)

    def write(self, name: str, content: bytes) -> None:
        # An object appears when its stream is closed, whole.
        with self._files.open_output_stream(str(self._root / name)) as stream:
            stream.write(content)

    def read(self, name: str) -> bytes:
        with self._files.open_input_stream(str(self._root / name)) as stream:
            content: bytes = stream.read()
        return content

    def names(self, folder: str) -> Sequence[str]:
        from pyarrow.fs import FileSelector

        selector = FileSelector(str(self._root / folder), allow_not_found=True)
        return sorted(found.base_name for found in self._files.get_file_info(selector))

    def delete(self, name: str) -> None:
        from pyarrow.fs import FileType

        path = str(self._root / name)
        kind = self._files.get_file_info(path).type
        if kind == FileType.Directory:
            self._files.delete_dir(path)
        elif kind == FileType.File:
            self._files.delete_file(path)
