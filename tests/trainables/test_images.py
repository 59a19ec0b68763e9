"""Image folders: every kind of file, what is refused, and the cache."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import unicodedata
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from trainables.data import Images, load_pool, load_test
from trainables.data_error import DataError
from trainables.decoding import decode

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "sam-study"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes, two training and one test image each, all of one colour."""
    for part, names in (("train", ("a.png", "b.png")), ("test", ("c.png",))):
        for shade, label in ((50, "cat"), (200, "dog")):
            for i, name in enumerate(names):
                path = tmp_path / "data" / part / label / name
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (10, 10), (shade + i, 0, 0)).save(path)
    return tmp_path / "data"


def pool(root: Path, image_size: int = 4) -> Images:
    return load_pool("imagefolder", root=root, image_size=image_size)[0]


def saved(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def colour(image: Image.Image, kind: str = "PNG", **options: object) -> tuple[int, ...]:
    """The colour that an image of a single colour decodes to."""
    pixels = decode(saved(image, kind, **options), 4)
    assert pixels.shape == (3, 4, 4)
    assert pixels.dtype == np.uint8
    assert (pixels == pixels[:, :1, :1]).all()
    return tuple(pixels[:, 0, 0].tolist())


def test_pool_and_test_hold_the_images_and_labels_of_their_folders(root: Path) -> None:
    images, facts = load_pool("imagefolder", root=root, image_size=4)
    assert images.images.shape == (4, 3, 4, 4)
    assert images.images.dtype == np.uint8
    assert images.images[:, 0, 0, 0].tolist() == [50, 51, 200, 201]
    assert images.labels.tolist() == [0, 0, 1, 1]
    assert images.labels.dtype == np.int64
    assert (facts.classes, facts.shape) == (("cat", "dog"), (3, 4, 4))
    assert (facts.pool, facts.test, facts.undecodable) == (4, 2, ())
    assert facts.mean == pytest.approx([125.5 / 255, 0, 0])
    assert facts.std == pytest.approx([np.std([50, 51, 200, 201]) / 255, 0, 0])
    test, undecodable = load_test("imagefolder", root=root, image_size=4)
    assert test.images[:, 0, 0, 0].tolist() == [50, 200]
    assert test.labels.tolist() == [0, 1]
    assert undecodable == ()


def test_loading_the_pool_opens_no_test_image(root: Path) -> None:
    before = load_pool("imagefolder", root=root)[1]
    for path in (root / "test").rglob("*.png"):
        path.write_bytes(b"not an image")
    assert load_pool("imagefolder", root=root)[1] == before


def test_grey_and_bilevel_images_become_grey_rgb() -> None:
    assert colour(Image.new("L", (8, 8), 90)) == (90, 90, 90)
    assert colour(Image.new("1", (8, 8), 1)) == (255, 255, 255)


def test_sixteen_bit_greys_are_scaled_not_clipped() -> None:
    for value, expected in ((65535, 255), (32896, 128), (257, 1), (0, 0)):
        grey = Image.fromarray(np.full((8, 8), value, np.uint16))
        assert colour(grey) == (expected,) * 3
        assert colour(grey, "TIFF") == (expected,) * 3
    big_endian = b"P5 8 8 65535\n" + np.full(64, 32896, ">u2").tobytes()
    assert (decode(big_endian, 4) == 128).all()


@pytest.mark.parametrize("mode", ["F", "I"])
def test_pixels_without_an_agreed_scale_are_refused(mode: str) -> None:
    image = Image.new(mode, (8, 8), 70_000)
    with pytest.raises(ValueError, match=f"mode {mode} has no agreed scale"):
        decode(saved(image, "TIFF"), 4)


def test_transparency_shows_white() -> None:
    assert colour(Image.new("RGBA", (8, 8), (*RED, 255))) == RED
    assert colour(Image.new("RGBA", (8, 8), (*RED, 0))) == WHITE
    assert colour(Image.new("RGBA", (8, 8), (0, 0, 0, 127))) == (128, 128, 128)
    assert colour(Image.new("LA", (8, 8), (40, 255))) == (40, 40, 40)
    assert colour(Image.new("LA", (8, 8), (40, 0))) == WHITE
    assert colour(Image.new("RGB", (8, 8), BLUE), transparency=BLUE) == WHITE
    assert colour(Image.new("L", (8, 8), 7), transparency=7) == WHITE


def test_palettes_show_their_colours_and_their_transparency() -> None:
    image = Image.new("P", (8, 8), 1)
    image.putpalette([*RED, *GREEN])
    for kind in ("PNG", "GIF"):
        assert colour(image, kind) == GREEN
        assert colour(image, kind, transparency=0) == GREEN
        assert colour(image, kind, transparency=1) == WHITE
    assert colour(image, "PNG", transparency=bytes([255, 127])) == (128, 255, 128)


def test_cmyk_becomes_rgb() -> None:
    assert colour(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "TIFF") == RED
    red, green, blue = colour(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG")
    assert red > 245
    assert max(green, blue) < 10


def quadrants(width: int, height: int) -> Image.Image:
    """Red, green over blue, white."""
    image = Image.new("RGB", (width, height))
    for place, fill in zip(
        ((0, 0), (1, 0), (0, 1), (1, 1)), (RED, GREEN, BLUE, WHITE), strict=True
    ):
        left, top = place[0] * width // 2, place[1] * height // 2
        image.paste(fill, (left, top, left + width // 2, top + height // 2))
    return image


def corners(pixels: np.ndarray) -> list[tuple[int, ...]]:
    return [tuple(pixels[:, y, x].tolist()) for y, x in ((0, 0), (0, -1), (-1, 0), (-1, -1))]


def test_the_exif_orientation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # "rotate by 90 degrees clockwise to show"
    pixels = decode(saved(quadrants(8, 8), "PNG", exif=exif), 4)
    assert corners(pixels) == [BLUE, RED, WHITE, GREEN]


def test_a_damaged_exif_block_takes_nothing_from_the_image() -> None:
    data = saved(quadrants(32, 32), "JPEG", exif=b"Exif\0\0garbage", quality=95)
    red, *_ = corners(decode(data, 8))
    assert np.abs(np.subtract(red, RED)).max() < 8


@pytest.mark.parametrize("size", [(4, 4), (40, 30), (30, 41), (3, 2), (1, 9), (400, 300)])
def test_any_size_becomes_the_size_asked_for(size: tuple[int, int]) -> None:
    assert colour(Image.new("RGB", size, RED)) == RED


def test_images_of_the_right_size_keep_their_pixels() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    assert np.array_equal(decode(saved(Image.fromarray(noise)), 8), noise.transpose(2, 0, 1))


def test_the_centre_of_a_wide_and_of_a_tall_image_is_kept() -> None:
    band = np.zeros((8, 24, 3), np.uint8)
    band[:, 8:16] = RED
    assert corners(decode(saved(Image.fromarray(band)), 8)) == [RED] * 4
    assert corners(decode(saved(Image.fromarray(band.transpose(1, 0, 2).copy())), 8)) == [RED] * 4


def test_resizing_then_cropping_gives_nearly_the_same_pixels() -> None:
    waves = np.add.outer(np.sin(np.arange(60) / 9), np.cos(np.arange(90) / 7)) * 60 + 120
    image = Image.fromarray(np.stack([waves] * 3, 2).astype(np.uint8))
    two_steps = image.resize((30, 20), Image.Resampling.BILINEAR).crop((5, 0, 25, 20))
    difference = decode(saved(image), 20).transpose(1, 2, 0) - np.asarray(two_steps, float)
    assert np.abs(difference).max() <= 3  # the border sees no pixels outside the square


def test_a_large_jpeg_decoded_at_reduced_scale_stays_close_to_the_full_one() -> None:
    photo = quadrants(1024, 1024)
    full = np.asarray(photo.resize((16, 16), Image.Resampling.BILINEAR), float)
    difference = decode(saved(photo, "JPEG", quality=95), 16).transpose(1, 2, 0) - full
    assert np.abs(difference).mean() < 3


def test_of_an_animation_the_first_frame_counts() -> None:
    frames = [Image.new("RGB", (8, 8), fill) for fill in (RED, BLUE)]
    assert colour(frames[0], "GIF", save_all=True, append_images=frames[1:]) == RED


def bomb() -> bytes:
    """A PNG whose header promises 100,000 x 100,000 pixels."""
    file = io.BytesIO()
    file.write(b"\x89PNG\r\n\x1a\n")
    header = (100_000).to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])
    PngImagePlugin.putchunk(file, b"IHDR", header)
    return file.getvalue()


def test_files_that_cannot_be_decoded_are_named_and_left_out(root: Path) -> None:
    good = pool(root)
    whole = saved(Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)))
    eps = saved(Image.new("RGB", (8, 8)), "EPS")
    broken = {
        "bomb.png": bomb(),
        "drawing.eps": eps,
        "empty.jpg": b"",
        "notes.txt": b"these are cats",
        "truncated.png": whole[: len(whole) // 2],
    }
    for name, data in broken.items():
        (root / "train" / "cat" / name).write_bytes(data)
    (root / "train" / "cat" / "nowhere.png").symlink_to("missing.png")
    (root / "train" / "cat" / "itself.png").symlink_to("itself.png")
    os.mkfifo(root / "train" / "cat" / "pipe")
    (root / "test" / "dog" / "empty.png").touch()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        images, facts = load_pool("imagefolder", root=root, image_size=4)
    names = sorted([*broken, "nowhere.png", "itself.png", "pipe"])
    assert facts.undecodable == tuple(f"train/cat/{name}" for name in names)
    assert facts.pool == 4
    assert np.array_equal(images.images, good.images)
    assert np.array_equal(images.labels, good.labels)
    again = load_pool("imagefolder", root=root, image_size=4)
    assert again[1] == facts
    assert np.array_equal(again[0].images, good.images)
    test, undecodable = load_test("imagefolder", root=root, image_size=4)
    assert undecodable == ("test/dog/empty.png",)
    assert test.labels.tolist() == [0, 1]


def test_the_decompression_limit_of_pillow_holds_below_its_error(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("RGB", (15, 10)).save(root / "train" / "cat" / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 120)  # Pillow alone only warns up to 240
    _, facts = load_pool("imagefolder", root=root)
    assert facts.undecodable == ("train/cat/large.png",)


def test_a_file_that_may_not_be_read_is_an_error_not_an_undecodable_image(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(DataError, match=r"cannot read .*train/cat/a.png: Permission denied"):
        pool(root)


def test_hidden_files_and_thumbnails_are_skipped_silently(root: Path) -> None:
    before = load_pool("imagefolder", root=root)[1]
    for name in (".DS_Store", "._a.png", "Thumbs.db", "thumbs.db", "desktop.ini"):
        (root / "train" / "cat" / name).write_bytes(b"x")
    for place in (root / "train" / ".cache", root / "train" / "cat" / ".thumbnails"):
        place.mkdir()
        (place / "x.png").write_bytes(b"x")
    (root / "train" / "README.txt").write_text("hello")
    assert load_pool("imagefolder", root=root)[1] == before


def test_folders_inside_a_class_belong_to_it(root: Path) -> None:
    (root / "train" / "cat" / "more").mkdir()
    Image.new("RGB", (10, 10), (60, 0, 0)).save(root / "train" / "cat" / "more" / "z.png")
    images = pool(root)
    assert images.images[images.labels == 0][:, 0, 0, 0].tolist() == [50, 51, 60]


def test_links_that_lead_in_a_circle_change_nothing(root: Path) -> None:
    before = load_pool("imagefolder", root=root)[1]
    (root / "train" / "loop").symlink_to(root / "train")
    (root / "train" / "up").symlink_to("../..")
    (root / "train" / "itself").symlink_to("itself")
    (root / "train" / "cat" / "loop").symlink_to("..")
    assert load_pool("imagefolder", root=root)[1] == before


def test_a_class_folder_may_be_a_link(root: Path) -> None:
    before = load_pool("imagefolder", root=root)[1]
    (root / "train" / "cat").rename(root / "elsewhere")
    (root / "train" / "cat").symlink_to(root / "elsewhere")
    assert load_pool("imagefolder", root=root)[1] == before


def test_names_with_spaces_and_accents_agree_whatever_their_unicode_form(root: Path) -> None:
    for part, form in (("train", "NFC"), ("test", "NFD")):
        name = unicodedata.normalize(form, "épagneul breton")  # type: ignore[arg-type]
        (root / part / "dog").rename(root / part / name)
    _, facts = load_pool("imagefolder", root=root)
    assert facts.classes == ("cat", unicodedata.normalize("NFC", "épagneul breton"))
    assert load_test("imagefolder", root=root)[0].labels.tolist() == [0, 1]


def test_file_names_that_are_no_utf8_are_shown_as_escapes(root: Path) -> None:
    name = os.path.join(os.fsencode(root / "train" / "cat"), b"caf\xe9.png")
    Path(os.fsdecode(name)).write_bytes(b"x")
    _, facts = load_pool("imagefolder", root=root)
    assert facts.undecodable == ("train/cat/caf\\xe9.png",)


def remove(folder: Path) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    folder.rmdir()


def test_a_missing_root_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="needs root"):
        load_pool("imagefolder")
    with pytest.raises(DataError, match=r"nowhere is no folder; expected ROOT/train/CLASS/"):
        pool(tmp_path / "nowhere")


@pytest.mark.parametrize("part", ["train", "test"])
def test_a_missing_part_is_an_error_that_says_what_is_there(
    root: Path, part: Literal["train", "test"]
) -> None:
    (root / part).rename(root / "val")
    with pytest.raises(DataError, match=rf"no folder .*/{part}: .* holds (test|train), .*val; exp"):
        pool(root)


def test_a_train_folder_without_classes_is_an_error(root: Path) -> None:
    for label in ("cat", "dog"):
        remove(root / "train" / label)
    Image.new("RGB", (4, 4)).save(root / "train" / "loose.png")
    with pytest.raises(DataError, match=r"at least two class folders, it holds loose\.png"):
        pool(root)


@pytest.mark.parametrize("part", ["train", "test"])
def test_an_empty_class_is_an_error_that_names_it(root: Path, part: str) -> None:
    remove(root / part / "dog")
    (root / part / "dog").mkdir()
    (root / part / "dog" / ".DS_Store").touch()
    with pytest.raises(DataError, match=f"class 'dog' has no files: .*{part}/dog"):
        pool(root)


def test_classes_that_differ_between_train_and_test_are_named(root: Path) -> None:
    (root / "test" / "dog").rename(root / "test" / "wolf")
    for load in (load_pool, load_test):
        with pytest.raises(DataError, match="only in train: 'dog'; only in test: 'wolf'"):
            load("imagefolder", root=root)


def test_a_class_without_a_decodable_image_is_an_error(root: Path) -> None:
    for path in (root / "train" / "dog").iterdir():
        path.write_bytes(b"x")
    with pytest.raises(DataError, match=r"class 'dog' of .*train: nothing decodable"):
        pool(root)


def test_an_image_size_below_one_is_refused(root: Path) -> None:
    with pytest.raises(DataError, match="image_size 0 is below 1"):
        pool(root, image_size=0)


def damage_without_a_trace(root: Path) -> None:
    """Overwrite every training image, keeping size and time of change."""
    for path in (root / "train").rglob("*.png"):
        status = path.stat()
        path.write_bytes(b"x" * status.st_size)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_the_second_load_comes_from_the_cache(root: Path) -> None:
    first = load_pool("imagefolder", root=root)
    damage_without_a_trace(root)
    second = load_pool("imagefolder", root=root)
    assert second[1] == first[1]
    assert np.array_equal(second[0].images, first[0].images)
    assert not second[0].images.flags.writeable
    assert type(second[0].images) is np.ndarray


def test_a_changed_file_and_another_size_are_decoded_anew(root: Path) -> None:
    pool(root)
    Image.new("RGB", (10, 10), (90, 0, 0)).save(root / "train" / "cat" / "a.png")
    os.utime(root / "train" / "cat" / "a.png", ns=(0, 0))
    assert pool(root).images[0, 0, 0, 0] == 90
    assert pool(root, image_size=6).images.shape == (4, 3, 6, 6)


@pytest.mark.parametrize("kind", ["images", "decoded"])
@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "pickle", "other shape"])
def test_a_damaged_cache_is_rebuilt(root: Path, cache: Path, kind: str, damage: str) -> None:
    first = pool(root).images.copy()
    (path,) = cache.glob(f"*.{kind}.npy")
    if damage == "pickle":
        np.save(path, np.array([{}], object), allow_pickle=True)
    elif damage == "other shape":
        np.save(path, np.zeros(3, np.uint8))
    else:
        whole = path.read_bytes()
        path.write_bytes({"truncated": whole[:-1], "empty": b"", "text": b"hello"}[damage])
    assert np.array_equal(pool(root).images, first)
    damage_without_a_trace(root)
    assert np.array_equal(pool(root).images, first)


def test_a_cache_that_cannot_be_written_is_done_without(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="decoded images are not kept") as caught:
        assert len(pool(root).images) == 4
    assert len(caught) == 1


def test_without_a_home_folder_the_cache_is_done_without(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    with pytest.warns(UserWarning, match="no home folder; set XDG_CACHE_HOME"):
        assert len(pool(root).images) == 4


def test_a_failed_write_leaves_no_file_behind(
    root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.warns(UserWarning, match="No space left"):
        pool(root)
    assert list(cache.iterdir()) == []


def test_two_processes_may_load_at_once(root: Path, cache: Path) -> None:
    code = (
        "import sys; from trainables.data import load_pool;"
        "print(load_pool('imagefolder', root=sys.argv[1])[1].hash)"
    )

    def load() -> str:
        run = subprocess.run(
            [sys.executable, "-c", code, str(root)], check=True, capture_output=True, text=True
        )
        return run.stdout

    with ThreadPoolExecutor(2) as threads:
        hashes = {future.result() for future in [threads.submit(load) for _ in range(2)]}
    assert len(hashes) == 1
    assert len(list(cache.iterdir())) == 2
