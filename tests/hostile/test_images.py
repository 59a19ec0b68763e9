"""Hostile folders of images: images and a count of what was left out, or one line that says why."""

from __future__ import annotations

import resource
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.hostile import Folder, image_folders
from tests.hostile.images import png, well_formed
from tests.hostile.patience import no_hang
from tests.study.command import run
from trainables import decoding
from trainables.data import DataError, load_pool, load_test
from trainables.decoding import decode

FOLDERS = list(image_folders(7, 100))


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def loaded(root: Path) -> tuple[int, tuple[str, ...], tuple[str, ...]] | str:
    """Images and left-out files of the training part, those of the test part; or what is told."""
    with no_hang(), warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            pool, facts = load_pool("imagefolder", root=root, image_size=8)
            test, left_out = load_test("imagefolder", root=root, image_size=8)
        except DataError as error:
            return str(error)
    assert pool.images.shape == (facts.pool, 3, 8, 8)
    assert np.unique(pool.labels).tolist() == list(range(len(facts.classes)))
    assert np.unique(test.labels).tolist() == list(range(len(facts.classes)))
    return facts.pool, facts.undecodable, left_out


def check(folder: Folder, root: Path) -> None:
    folder.make(root)
    found = loaded(root)
    if isinstance(found, str):
        assert not folder.usable, found
        assert found.isprintable()
        assert len(found) <= 1000
        return
    assert folder.usable
    pool, left_out, of_test = found
    assert all(name.isprintable() for name in (*left_out, *of_test))
    assert pool >= 2
    if folder.bad is not None:
        assert len(left_out) == folder.bad


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.title)
def test_every_hostile_folder_gives_images_or_one_line(folder: Folder, tmp_path: Path) -> None:
    check(folder, tmp_path / "data")


def test_the_same_seed_makes_the_same_folders(tmp_path: Path) -> None:
    again = list(image_folders(7, 100))
    assert [folder.title for folder in again] == [folder.title for folder in FOLDERS]
    for i, folders in enumerate((FOLDERS, again)):
        folders[-1].make(tmp_path / str(i))
    first, second = (
        [path.read_bytes() for path in sorted((tmp_path / name).rglob("*")) if path.is_file()]
        for name in "01"
    )
    assert first == second


def test_a_bomb_costs_no_memory(tmp_path: Path) -> None:
    for title in ("60,000 x 60,000", "header of 100,000 x 100,000", "a text of 8 GB"):
        [folder] = [folder for folder in FOLDERS if folder.title == title]
        folder.make(tmp_path / title)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        loaded(tmp_path / title)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # KB


def test_large_images_are_decoded_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "_LARGE_PIXELS", 100)
    inside, most = [0], {"large": 0, "small": 0}
    convert = decoding._rgb

    def slowly(image: Image.Image) -> Image.Image:
        inside[0] += 1
        time.sleep(0.01)
        kind = "large" if image.width > 10 else "small"
        most[kind] = max(most[kind], inside[0])
        inside[0] -= 1
        return convert(image)

    monkeypatch.setattr(decoding, "_rgb", slowly)
    for side in (11, 10):
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(lambda data: decode(data, 4), [png(side, side)] * 24))
    assert most["large"] == 1
    assert most["small"] > 1


@pytest.mark.parametrize("root", ["~nobody-of-this-name/x", "x" * 5000, "a\0b", "a\nb\x1b[31m", ""])
def test_a_root_that_is_no_path_is_one_line(root: str) -> None:
    with pytest.raises(DataError) as caught:
        load_pool("imagefolder", root=root)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 12_000


def test_a_folder_that_may_not_be_listed_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    well_formed(tmp_path / "data")
    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(DataError, match=r"^cannot read .*data/train: Permission denied$"):
        load_pool("imagefolder", root=tmp_path / "data")


def test_the_command_tells_it_in_one_line_and_makes_nothing(tmp_path: Path) -> None:
    [folder] = [folder for folder in FOLDERS if folder.title == "class without images"]
    folder.make(tmp_path / "data")
    spec = Path(__file__).parents[2] / "search_spaces" / "cifar10_images.yaml"
    settings = [f"workload.data.root={tmp_path}/data", "workload.data.validation_size=1"]
    settings += ["workload.data.train_size=2", "workload.batch_size=1", "resources.gpu=0"]
    ended = run(tmp_path, settings, spec=spec)
    assert ended.code == 2, (ended.out, ended.err)
    [line] = ended.err.splitlines()
    assert "workload.data: class " in line
    assert not (tmp_path / "studies").exists()
