"""Every storage keeps the same promises: a folder, and an object store behind a real server."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.trainables import object_store
from trainables.storage import Storage, check_uri, checkpoints_of, open_storage, weights_of


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    with object_store.serving() as uri:
        yield uri


@pytest.fixture(params=["folder", "file URI", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "s3":
        uri = request.getfixturevalue("s3").replace("/team", f"/{tmp_path.name}")
        return open_storage(uri)
    return open_storage(str(tmp_path) if request.param == "folder" else tmp_path.as_uri())


def test_what_is_written_is_read(storage: Storage) -> None:
    assert list(storage.names("study/checkpoints/arm")) == []
    storage.write("study/checkpoints/arm/2.pt", b"two")
    storage.write("study/checkpoints/arm/1.pt", bytes(3_000_000))
    storage.write("study/checkpoints/arm/2.pt", b"two again")
    assert list(storage.names("study/checkpoints/arm")) == ["1.pt", "2.pt"]
    assert storage.read("study/checkpoints/arm/2.pt") == b"two again"
    assert storage.read("study/checkpoints/arm/1.pt") == bytes(3_000_000)


def test_what_is_deleted_is_gone(storage: Storage) -> None:
    for name in ("a/b/1", "a/b/2", "a/c"):
        storage.write(name, b"x")
    storage.delete("a/b/1")
    storage.delete("a/b/1")
    assert list(storage.names("a/b")) == ["2"]
    storage.delete("a/b")
    storage.delete("a/b")
    assert list(storage.names("a/b")) == []
    assert storage.read("a/c") == b"x"
    with pytest.raises(FileNotFoundError):
        storage.read("a/b/2")


def test_a_folder_shows_no_draft_and_keeps_none_after_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = open_storage(str(tmp_path))
    storage.write("a/1", b"whole")

    def full(*_: object) -> None:
        assert list(storage.names("a")) == ["1"]
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        storage.write("a/1", b"half")
    assert storage.read("a/1") == b"whole"
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["1"]


@pytest.mark.parametrize(
    ("uri", "problem"),
    [
        ("/a/b", None),
        ("file:///a/b", None),
        ("s3://bucket/a?region=x", None),
        ("gs://bucket", None),
        ("a/b", "is no absolute path"),
        ("file://host/a", "is no absolute path"),
        ("s3:///a", "names no bucket, as in s3://BUCKET/FOLDER"),
        (
            "s3://key:secret@bucket/a",
            "holds credentials; leave them out, they are read from the environment",
        ),
        (
            "http://x/y",
            "unknown kind of storage 'http'; allowed: an absolute path, s3://BUCKET/FOLDER, "
            "gs://BUCKET/FOLDER",
        ),
    ],
)
def test_a_uri_says_what_it_is(uri: str, problem: str | None) -> None:
    assert check_uri(uri) == problem
    if problem:
        with pytest.raises(ValueError, match=r"^" + problem[:10]):
            open_storage(uri)


def test_a_trial_has_one_place() -> None:
    assert checkpoints_of("s/sam_on/search/3.1") == "s/checkpoints/sam_on/search/3.1"
    assert weights_of("s/sam_on/confirm/3") == "s/weights/sam_on/confirm/3.pt"
