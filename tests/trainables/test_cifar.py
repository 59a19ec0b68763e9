"""CIFAR-10 and CIFAR-100: torchvision's own code on small files of the real format.

The real archives cannot be had everywhere, so these have their own checksums and come from a server
of the test. The download from the real one is not tried.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import pickle
import shutil
import socket
import tarfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torchvision import datasets

from trainables import cifar
from trainables.data import DataError, load_pool, load_test

NOWHERE = "http://127.0.0.1:9/cifar.tar.gz"
NAMES = ("cifar10", "cifar100")


@dataclass(frozen=True)
class Source:
    """What a server holds, and what must come out of it. pixels: uint8 [n, 3072] by part."""

    name: str
    reader: Any
    archive: Path
    pixels: dict[str, np.ndarray]
    labels: dict[str, list[int]]
    classes: tuple[str, ...]

    def unpack(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        with tarfile.open(self.archive) as archive:
            archive.extractall(folder, filter="data")


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


class Handler(SimpleHTTPRequestHandler):
    """Serves files and says nothing."""

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address at which the folder `server` can be read."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    handler = functools.partial(Handler, directory=str(tmp_path / "server"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


@pytest.fixture(params=NAMES)
def source(
    request: pytest.FixtureRequest, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Source:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    name: str = request.param
    reader = getattr(datasets, cifar.SOURCES[name])
    count, key = {"cifar10": (10, "labels"), "cifar100": (100, "fine_labels")}[name]
    draw = np.random.default_rng(count)
    top = tmp_path / "server" / reader.base_folder
    top.mkdir(parents=True)

    def write(file: str, content: dict[str, object]) -> str:
        (top / file).write_bytes(pickle.dumps(content, protocol=2))
        return md5(top / file)

    pixels: dict[str, np.ndarray] = {}
    labels: dict[str, list[int]] = {}
    for part, files in (("pool", reader.train_list), ("test", reader.test_list)):
        batches = draw.integers(0, 256, (len(files), 6, 3072), dtype=np.uint8)
        truth = draw.integers(0, count, (len(files), 6))
        sums = [
            [file, write(file, {"data": batch, key: label.tolist(), "coarse_labels": [0] * 6})]
            for (file, _), batch, label in zip(files, batches, truth, strict=True)
        ]
        monkeypatch.setattr(reader, "train_list" if part == "pool" else "test_list", sums)
        pixels[part], labels[part] = batches.reshape(-1, 3072), truth.flatten().tolist()
    classes = tuple(f"class {i}" for i in range(count))
    meta = reader.meta
    content: dict[str, object] = {meta["key"]: list(classes)}
    monkeypatch.setattr(reader, "meta", {**meta, "md5": write(meta["filename"], content)})
    archive = tmp_path / "server" / reader.filename
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(top, reader.base_folder)
    monkeypatch.setattr(reader, "tgz_md5", md5(archive))
    monkeypatch.setattr(reader, "url", f"{server}/{archive.name}")
    return Source(name, reader, archive, pixels, labels, classes)


@pytest.fixture
def offline(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source.reader, "url", NOWHERE)


def refused(source: Source, root: Path) -> str:
    with pytest.raises(DataError) as caught:
        load_pool(source.name, root=root)
    message = str(caught.value)
    assert message.isprintable()
    assert message.startswith(f"{source.name}: no whole copy in {root}")
    assert f"put {source.reader.filename} from {NOWHERE}, or the folder " in message
    assert message.endswith(f"{source.reader.base_folder} unpacked from it, into {root}")
    return message


def test_images_are_channel_row_column_and_each_part_holds_its_own(source: Source) -> None:
    pool, facts = load_pool(source.name)
    test, undecodable = load_test(source.name)
    for part, got in (("pool", pool), ("test", test)):
        assert got.images.dtype == np.uint8
        assert got.labels.dtype == np.int64
        assert got.images.flags.c_contiguous
        for image, raw in zip(got.images, source.pixels[part], strict=True):
            for channel, row, column in ((0, 0, 1), (1, 5, 0), (2, 31, 30)):
                assert image[channel, row, column] == raw[1024 * channel + 32 * row + column]
        assert got.labels.tolist() == source.labels[part]
    assert undecodable == ()
    assert facts.classes == source.classes
    assert (facts.shape, facts.pool, facts.test) == ((3, 32, 32), len(pool.labels), 10_000)


def test_the_first_use_downloads_into_the_cache_and_the_next_needs_no_server(
    source: Source, tmp_path: Path
) -> None:
    _, first = load_pool(source.name)
    folder = tmp_path / "cache/sam-study/data"
    assert (folder / source.reader.filename).is_file()
    assert (folder / source.reader.base_folder).is_dir()
    shutil.rmtree(tmp_path / "server")
    assert load_pool(source.name)[1] == first
    assert load_pool(source.name, root=folder)[1] == first


def test_a_folder_that_is_whole_is_only_read(source: Source, offline: None, tmp_path: Path) -> None:
    source.unpack(tmp_path / "root")
    load_pool(source.name, root=tmp_path / "root")
    assert [path.name for path in (tmp_path / "root").iterdir()] == [source.reader.base_folder]


def test_an_archive_put_there_by_hand_is_unpacked_offline(
    source: Source, offline: None, tmp_path: Path
) -> None:
    (tmp_path / "root").mkdir()
    shutil.copy(source.archive, tmp_path / "root")
    assert load_pool(source.name, root=tmp_path / "root")[1].classes == source.classes


def test_offline_the_folder_and_the_files_to_put_there_are_named(
    source: Source, offline: None, tmp_path: Path
) -> None:
    message = refused(source, tmp_path / "root")
    assert "Connection refused" in message
    assert "damaged" not in message


def cut_archive(source: Source, root: Path) -> str:
    root.mkdir()
    whole = source.archive.read_bytes()
    (root / source.reader.filename).write_bytes(whole[: len(whole) // 2])
    return str(source.reader.filename)


def cut_batch(source: Source, root: Path) -> str:
    source.unpack(root)
    batch = root / source.reader.base_folder / source.reader.train_list[0][0]
    batch.write_bytes(batch.read_bytes()[:-1])
    return str(source.reader.base_folder)


def lost_test(source: Source, root: Path) -> str:
    source.unpack(root)
    (root / source.reader.base_folder / source.reader.test_list[0][0]).unlink()
    return str(source.reader.base_folder)


def changed_names(source: Source, root: Path) -> str:
    source.unpack(root)
    (root / source.reader.base_folder / source.reader.meta["filename"]).write_bytes(b"?")
    return str(source.reader.base_folder)


DAMAGES = (cut_archive, cut_batch, lost_test, changed_names)


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_damaged_is_named_offline_and_fetched_again_online(
    source: Source,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    damage: Callable[[Source, Path], str],
) -> None:
    root = tmp_path / "root"
    damaged = damage(source, root)
    with monkeypatch.context() as server_down:
        server_down.setattr(source.reader, "url", NOWHERE)
        assert f" (damaged or incomplete there: {damaged})," in refused(source, root)
    assert load_pool(source.name, root=root)[1].classes == source.classes


def test_a_server_that_sends_something_else_is_told(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source.reader, "tgz_md5", "0" * 32)
    with pytest.raises(DataError, match=r"failed: File not found or corrupted\.; put "):
        load_pool(source.name, root=tmp_path / "root")


def test_a_folder_that_cannot_be_made_is_told(source: Source, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="Not a directory"):
        load_pool(source.name, root=tmp_path / "file" / "root")


def test_without_a_home_a_folder_is_asked_for(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "here")
    with pytest.raises(DataError, match=r"absolute path, or name a folder: workload\.data\.root"):
        load_pool(source.name)


def test_one_waits_while_another_downloads_and_then_downloads_nothing(
    source: Source, offline: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, looked = tmp_path / "root", threading.Event()
    classes: list[str] = []
    read = cifar._read

    def looking(*arguments: Any) -> Any:
        found = read(*arguments)
        looked.set()
        return found

    monkeypatch.setattr(cifar, "_read", looking)
    root.mkdir()
    waiting = threading.Thread(
        target=lambda: classes.extend(load_pool(source.name, root=root)[1].classes)
    )
    with (root / f"{source.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        waiting.start()
        assert looked.wait(60)  # it found nothing, and with no server it could only fail
        source.unpack(root)
    waiting.join(60)
    assert classes == list(source.classes)


def test_the_patience_with_servers_is_as_before_afterwards(source: Source) -> None:
    before = socket.getdefaulttimeout()
    load_pool(source.name)
    assert socket.getdefaulttimeout() == before
