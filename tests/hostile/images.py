"""Folders of images that are wrong in every way that came to mind, and small on disk."""

from __future__ import annotations

import io
import os
import random
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from tests.hostile.names import NAMES


@dataclass(frozen=True)
class Folder:
    """title: what is wrong. make: writes the folder; root/train and root/test are its parts.

    usable: whether it holds what a study needs once bad files are left out. bad: how many files of
    the training part cannot be decoded, None where that is for the decoder to say.
    """

    title: str
    make: Callable[[Path], None]
    usable: bool = True
    bad: int | None = 0


def image_folders(seed: int, count: int) -> Iterator[Folder]:
    """`count` hostile folders, the same for the same seed: known traps first, then mutations."""
    draw = random.Random(seed)
    traps = [*_files(), *_layouts(), *_names()]
    yield from traps[:count]
    for number in range(len(traps), count):
        yield _mutated(number, random.Random(draw.random()))


def picture(kind: str = "PNG", size: tuple[int, int] = (8, 8), mode: str = "RGB") -> bytes:
    """A small image file of noise."""
    width, height = size
    bands = len(mode) if mode in ("RGB", "RGBA", "CMYK", "LA") else 1
    shape = (height, width, bands) if bands > 1 else (height, width)
    noise = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    image = Image.fromarray(noise)
    if image.mode != mode:
        image = Image.frombytes(mode, size, noise.tobytes()) if bands == 4 else image.convert(mode)
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def png(width: int, height: int, rows: int | None = None, colour: int = 6, depth: int = 8) -> bytes:
    """A PNG of zeros, however large: a few KB for each hundred million pixels.

    rows: how many of them the file really holds. colour: 0 grey, 2 RGB, 6 RGBA.
    """
    channels = {0: 1, 2: 3, 6: 4}[colour]
    row = b"\0" * (1 + width * channels * depth // 8)
    packer = zlib.compressobj(9)
    data = b"".join(packer.compress(row) for _ in range(height if rows is None else rows))
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", data + packer.flush()), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*chunk) for chunk in chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def well_formed(root: Path) -> None:
    """Two classes with two training images and one test image each."""
    for part, number in (("train", 2), ("test", 1)):
        for label in ("cat", "dog"):
            folder = root / part / label
            folder.mkdir(parents=True)
            for i in range(number):
                (folder / f"good{i}.png").write_bytes(picture())


def _with(title: str, name: str, data: bytes, *, bad: int = 1) -> Folder:
    """A good folder with one more training file."""

    def make(root: Path) -> None:
        well_formed(root)
        (root / "train/cat" / name).write_bytes(data)

    return Folder(title, make, bad=bad)


def _done(title: str, act: Callable[[Path], object], usable: bool = True, bad: int = 0) -> Folder:
    """A good folder to which something was done."""

    def make(root: Path) -> None:
        well_formed(root)
        act(root)

    return Folder(title, make, usable, bad)


def _files() -> Iterator[Folder]:
    whole = picture(size=(64, 64))
    yield _with("truncated", "x.png", whole[: len(whole) // 2])
    yield _with("truncated JPEG", "x.jpg", picture("JPEG", (64, 64))[:400])
    yield _with("empty", "x.png", b"")
    yield _with("text", "x.jpg", b"these are cats\n" * 1000)
    yield _with("HTML", "x.jpg", b"<!doctype html><script>alert(1)</script>")
    yield _with("zip", "x.png", b"PK\x03\x04" + b"\0" * 100)
    yield _with("PostScript", "x.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    yield _with("SVG", "x.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>")
    yield _with("wrong checksum", "x.png", whole[:60] + b"\xff" + whole[61:])
    yield _with("only a header", "x.png", whole[:33])
    yield _with("header of no pixels", "x.png", png(0, 0))
    yield _with("header of 100,000 x 100,000", "x.png", png(100_000, 100_000, rows=0))
    yield _with("60,000 x 60,000", "x.png", png(60_000, 60_000, rows=400, colour=0))
    yield _with("5,000 x 5,000", "x.png", png(5_000, 5_000), bad=0)
    yield _with("another name", "x.gif", picture("JPEG"), bad=0)
    yield _with("no suffix", "x", picture(), bad=0)
    yield _with("1 x 1", "x.png", picture(size=(1, 1)), bad=0)
    yield _with("1 x 20,000", "x.png", png(1, 20_000), bad=0)
    yield _with("20,000 x 1", "x.png", png(20_000, 1), bad=0)
    yield _with("16 bit RGB", "x.png", png(9, 9, colour=2, depth=16), bad=0)
    yield _with("16 bit grey", "x.png", png(9, 9, colour=0, depth=16), bad=0)
    yield _with("CMYK", "x.jpg", picture("JPEG", mode="CMYK"), bad=0)
    yield _with("palette", "x.gif", picture("GIF", mode="P"), bad=0)
    yield _with("bits", "x.png", picture(mode="1"), bad=0)
    yield _with("float", "x.tiff", picture("TIFF", mode="F"))
    yield _with("animated", "x.gif", _animation(), bad=0)
    yield _with("ten times itself", "x.png", whole * 10, bad=0)
    yield _done("a text of 8 GB", lambda root: _sparse(root / "train/cat/x.jpg", 8 << 30), bad=1)
    yield _done("a test image is bad", lambda root: (root / "test/cat/x.png").write_bytes(b"no"))


def _animation() -> bytes:
    file = io.BytesIO()
    frames = [Image.new("RGB", (8, 8), (i, 0, 0)) for i in range(50)]
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    return file.getvalue()


def _sparse(path: Path, size: int) -> None:
    with path.open("wb") as file:
        file.write(b"not an image\n" * 100)
        file.truncate(size)


def _emptied(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


def _moved(root: Path, old: str, new: str) -> None:
    (root / old).rename(root / new)


def _with_one_class(root: Path) -> None:
    _moved(root, "train/dog", "x")
    _moved(root, "test/dog", "y")


def _with_train_a_file(root: Path) -> None:
    _moved(root, "train", "x")
    (root / "train").touch()


def _layouts() -> Iterator[Folder]:
    cat = "train/cat"

    def link(name: str, target: str | Path) -> Callable[[Path], None]:
        return lambda root: (root / name).symlink_to(target)

    yield _done("link to nowhere", link(f"{cat}/x.png", "missing.png"), bad=1)
    yield _done("link to itself", link(f"{cat}/x.png", "x.png"), bad=1)
    yield _done("link out of the root", link(f"{cat}/x.png", "/etc/passwd"), bad=1)
    yield _done("link to an endless device", link(f"{cat}/x.png", "/dev/zero"), bad=1)
    yield _done("link to a log that waits", link(f"{cat}/x.png", "/proc/kmsg"), bad=1)
    yield _done("link to the folder above", link(f"{cat}/loop", ".."))
    yield _done("link to the root of the disk", link(f"{cat}/disk", "/"))
    yield _done("class that is a link to train", link("train/loop", "."))
    yield _done("class that is a link to itself", link("train/loop", "loop"))
    yield _done("class that is a link to the root", link("train/loop", "../.."))
    yield _done("pipe", lambda root: os.mkfifo(root / cat / "x.png"), bad=1)
    yield _done("class without images", lambda root: _emptied(root / cat), usable=False)
    yield _done("class without test images", lambda r: _emptied(r / "test/dog"), usable=False)
    yield _done("class more in train", lambda r: (r / "train/emu").mkdir(), usable=False)
    yield _done("other classes in test", lambda r: _moved(r, "test/dog", "test/emu"), usable=False)
    yield _done("one class", _with_one_class, usable=False)
    yield _done("no test", lambda root: _moved(root, "test", "rest"), usable=False)
    yield _done("train is a file", _with_train_a_file, usable=False)
    yield _done("files beside classes", lambda r: (r / "train/x.png").write_bytes(picture()))
    yield Folder("nothing", lambda root: root.mkdir(), usable=False)
    yield Folder("no folder", lambda root: None, usable=False)
    yield Folder("a file", lambda root: root.touch(), usable=False)
    yield _done("nested", lambda r: _nested(r / cat))
    yield _done("nested 60 deep", lambda r: _nested(r / cat, 60))
    yield _done("a folder named like an image", lambda root: (root / cat / "x.png").mkdir())
    yield _done("all files of a class are bad", lambda r: _spoiled(r / cat), usable=False)
    yield _done("hidden files", lambda r: (r / cat / ".x.png").write_bytes(b"no"))
    yield _done("hidden class", lambda r: (r / "train/.git").mkdir())
    yield _done("500 bad files", lambda r: _many(r / cat), bad=500)


def _nested(folder: Path, depth: int = 3) -> None:
    for _ in range(depth):
        folder /= "deeper"
    folder.mkdir(parents=True)
    (folder / "x.png").write_bytes(picture())


def _spoiled(folder: Path) -> None:
    for path in folder.iterdir():
        path.write_bytes(b"no image")


def _many(folder: Path) -> None:
    for i in range(500):
        (folder / f"x{i}.jpg").write_bytes(b"no image")


def _names() -> Iterator[Folder]:
    possible = [n for n in NAMES if n not in ("", ".", "..") and "/" not in n and "\0" not in n]
    possible = [n for n in possible if len(n.encode()) <= 200]

    def classes(root: Path) -> None:
        well_formed(root)
        for name in possible:
            for part in ("train", "test"):
                if not name.startswith("."):
                    (root / part / name).mkdir()
                    (root / part / name / "x.png").write_bytes(picture())

    def files(root: Path) -> None:
        for name in possible:
            (root / "train/cat" / name).write_bytes(b"no image")

    shown = sum(not name.startswith(".") for name in possible)
    yield Folder("hostile class names", classes)
    yield _done("hostile file names", files, bad=shown)
    yield _done("a name that is no text", lambda r: _raw(r, b"train/cat/\xff\xfe\n.png"), bad=1)
    yield _done("a class that is no text", lambda r: _raw(r, b"train/\xff\x1b[31m/x.png"), False)
    long = "x" * 250
    yield _done("a long name", lambda r: (r / "train/cat" / long).write_bytes(b""), bad=1)
    composed, apart = "\u00e9", "e\u0301"
    yield _done("two names of one look", lambda r: _twins(r, composed, apart), usable=False)


def _raw(root: Path, name: bytes) -> None:
    path = os.path.join(os.fsencode(root), name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(b"no image")


def _twins(root: Path, *names: str) -> None:
    for part in ("train", "test"):
        for name in names:
            (root / part / name).mkdir()
            (root / part / name / "x.png").write_bytes(picture())


def _mutated(number: int, draw: random.Random) -> Folder:
    """A good folder with three images whose bytes were changed."""
    kind = draw.choice(["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"])
    contents = []
    for _ in range(3):
        raw = bytearray(picture(kind, (draw.randint(1, 40), draw.randint(1, 40))))
        for _ in range(draw.randint(1, 12)):
            raw[draw.randrange(len(raw))] = draw.randrange(256)
        contents.append(bytes(raw[: draw.randint(1, len(raw))] if draw.random() < 0.3 else raw))

    def make(root: Path) -> None:
        well_formed(root)
        for i, data in enumerate(contents):
            (root / "train/cat" / f"x{i}").write_bytes(data)

    return Folder(f"{kind} with changed bytes {number}", make, bad=None)
