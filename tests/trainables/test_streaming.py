"""Images that stay in their files: facts, batches and weights as in memory."""

from __future__ import annotations

import copy
import dataclasses
import gc
import json
import pickle
import shutil
import threading
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.trainables.test_training import digest
from trainables import data, folder
from trainables.augment import cropped
from trainables.config import Config
from trainables.data import Facts, Images
from trainables.data_error import DataError
from trainables.decoding import decoded_batches
from trainables.images import list_part
from trainables.loading import Loader
from trainables.measures.robustness import corruptions
from trainables.measures.subject import Subject
from trainables.streaming import Streamed, StreamedImages
from trainables.training import Training

SIZE = 12
CONFIG = Config(
    model="resnet8",
    model_options={"width": 4, "norm": "bn", "affine": True},
    lr=0.05,
    momentum=0.9,
    weight_decay=5e-4,
    epochs=2,
    batch_size=8,
    label_smoothing=0.1,
    variant="sam",
    perturb="norm",
    rho=0.5,
    train_size=40,
    validation_size=11,
    label_noise=0.2,
    augment="crop_flip",
    seed=3,
    eval_batch=4,
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 JPEG photographs of noise in several sizes to train on, 20 to test, and a broken file."""
    top = tmp_path_factory.mktemp("folder")
    rng = np.random.default_rng(0)
    for part, count in (("train", 30), ("test", 10)):
        for label in ("cat", "dog"):
            place = top / part / label
            place.mkdir(parents=True)
            for i in range(count):
                height, width = rng.integers(10, 40, 2)
                pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
                Image.fromarray(pixels).save(place / f"{i:02}.jpg", quality=90)
    (top / "train" / "cat" / "15.broken.jpg").write_bytes(b"no image")
    return top


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "sam-study"


def held(root: Path) -> tuple[Images, Facts]:
    return data.load_pool("imagefolder", root=root, image_size=SIZE)


def streamed(root: Path) -> tuple[StreamedImages, Facts]:
    return folder.stream_pool("imagefolder", root, SIZE, None)


def test_facts_and_images_are_those_of_memory(root: Path) -> None:
    (images, facts), (files, of_files) = held(root), streamed(root)
    assert of_files == facts
    assert facts.undecodable == ("train/cat/15.broken.jpg",)
    assert files.images.shape == images.images.shape
    assert np.array_equal(files.labels, images.labels)
    assert np.array_equal(files.images[:], images.images)
    chosen = np.array([59, 0, 31, 31])
    assert np.array_equal(files.images[chosen], images.images[chosen])
    test, left_out = folder.stream_test("imagefolder", root, SIZE, None)
    in_memory, _ = data.load_test("imagefolder", root=root, image_size=SIZE)
    assert not left_out
    assert np.array_equal(test.images[3:9], in_memory.images[3:9])


def test_a_folder_is_looked_at_once(
    root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = streamed(root)[1]
    [kept] = cache.iterdir()

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("decoded again")

    with monkeypatch.context() as patch:
        patch.setattr(folder, "decoded_batches", refuse)
        assert streamed(root)[1] == first
    content = kept.read_text()
    fields = json.loads(content)
    changes: list[dict[str, object]] = [{"undecodable": [99999]}, {"undecodable": [-1]}]
    changes += [{"undecodable": True}, {"hash": 5}, {"mean": "abc"}, {"std": [0.1]}]
    wrong = [json.dumps(fields | change) for change in changes]
    for damaged in ("", "[]", "{", content.replace("undecodable", "x"), *wrong):
        kept.write_text(damaged)
        assert streamed(root)[1] == first
    assert json.loads(kept.read_text()) == json.loads(content)


def test_where_nothing_can_be_kept_a_warning_says_so(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="looks again"):
        assert streamed(root)[1] == held_facts(root)


def held_facts(root: Path) -> Facts:
    with pytest.warns(UserWarning, match="decodes again"):
        return held(root)[1]


@pytest.mark.parametrize("threads", [1, 5])
@pytest.mark.parametrize("size", [1, 7, 60])
def test_batches_come_in_order_whatever_the_threads(root: Path, threads: int, size: int) -> None:
    images, files = held(root)[0].images, streamed(root)[0].images
    order = np.random.default_rng(1).permutation(60)
    positions = [order[i : i + size] for i in range(0, 60, size)]
    got = list(files.batches(positions, threads))
    assert len(got) == len(positions)
    for each, wanted in zip(got, positions, strict=True):
        assert np.array_equal(each, images[wanted])


def test_who_stops_asking_leaves_no_thread(root: Path) -> None:
    files = streamed(root)[0].images
    before = set(threading.enumerate())
    batches = files.batches([np.arange(60)] * 50, 3)
    next(batches)
    begun = set(threading.enumerate()) - before
    assert begun
    batches.close()  # type: ignore[attr-defined]
    for thread in begun:
        thread.join(10)
    assert not any(thread.is_alive() for thread in begun)


@pytest.mark.parametrize("in_files", [False, True])
@pytest.mark.parametrize("steps", [2, 5])
def test_a_trial_that_is_dropped_gives_its_memory_back_at_once(
    root: Path, in_files: bool, steps: int
) -> None:
    images, facts = streamed(root) if in_files else held(root)
    training = Training(CONFIG, images, facts)
    left = iter([False] * (steps - 1) + [True])
    training.advance(lambda: next(left))  # all 5 steps are an epoch
    gone = weakref.ref(training._images)
    gc.disable()
    try:
        del training
        assert gone() is None
    finally:
        gc.enable()


def test_a_file_that_changed_since_is_named(root: Path, tmp_path: Path) -> None:
    files = streamed(root)[0].images
    missing = replace(files, files=replace(files.files, root=str(tmp_path)))  # type: ignore[type-var]
    with pytest.raises(DataError, match=r"cat/00.jpg is missing or no longer the image") as caught:
        next(missing.batches([np.arange(4)], 2))
    assert "every node" in str(caught.value)


def test_another_image_in_the_place_of_one_is_noticed(root: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(root, other)
    files = streamed(other)[0].images
    Image.new("RGB", (20, 20), (9, 9, 9)).save(other / "train" / "cat" / "03.jpg")
    with pytest.raises(DataError, match=r"cat/03.jpg is missing or no longer the image"):
        next(files.batches([np.arange(5)], 2))


def test_a_file_that_breaks_while_the_folder_is_looked_at_is_left_out(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    shutil.copytree(root, other)
    look = decoded_batches
    passes = [0]

    def breaking(*arguments: Any) -> Any:
        passes[0] += 1
        if passes[0] == 2:  # the first found a broken file, so all are looked at again
            (other / "train" / "dog" / "07.jpg").write_bytes(b"broken now")
        return look(*arguments)

    monkeypatch.setattr(folder, "decoded_batches", breaking)
    found = folder._surveyed(list_part(other, "train"), SIZE)
    monkeypatch.undo()
    assert passes[0] == 3
    again = folder._surveyed(list_part(other, "train"), SIZE)
    assert found[1] == again[1]
    assert np.array_equal(found[0], again[0])


def test_windows_are_cut_of_files_alone(root: Path) -> None:
    images, facts = held(root)
    training = Training(replace(CONFIG, augment="resized_crop_flip"), images, facts)
    with pytest.raises(ValueError, match="these images lie in memory"):
        training.epoch()
    with pytest.raises(ValueError, match="augmentation 'resized_crop_flip' is not one of"):
        cropped(torch.zeros(1, 3, 8, 8), "resized_crop_flip", 1, torch.Generator())


def test_what_is_measured_is_that_of_memory(root: Path) -> None:
    found = []
    few, _ = data.load_test("imagefolder", root=root, image_size=SIZE)
    in_files, _ = folder.stream_test("imagefolder", root, SIZE, None)
    for (images, facts), test in ((held(root), few), (streamed(root), in_files)):
        model = Training(CONFIG, images, facts).model.eval()
        mean, std = torch.tensor(facts.mean), torch.tensor(facts.std)
        train, labels = np.arange(40), images.labels[:40]
        one = Subject(model, {}, CONFIG, torch.device("cpu"), mean, std, images, train, labels)
        rows = list(corruptions(one, test))
        found.append((rows, one.score(one.training_batches(40)), one.score(one.test_batches(test))))
    assert found[0] == found[1]


def test_what_ray_sends_is_small_and_the_same(root: Path) -> None:
    files = streamed(root)[0]
    sent = pickle.dumps(files)
    assert len(sent) < 5_000
    assert np.array_equal(pickle.loads(sent).images[:5], files.images[:5])


@pytest.mark.parametrize("extra", ["", "+cutout+mixup"])
def test_weights_and_metrics_are_those_of_memory(root: Path, extra: str) -> None:
    config = replace(CONFIG, augment=CONFIG.augment + extra)
    (images, facts), (files, _) = held(root), streamed(root)
    found = []
    for source in (images, files):
        training = Training(config, source, facts)
        metrics = [training.epoch() for _ in range(2)]
        for each in metrics:
            del each["seconds_per_epoch"]
        tested, correct = training.test(source)
        found.append((digest(training), metrics, tested, correct))
    assert found[0] == found[1]


@pytest.mark.parametrize("augment", ["crop_flip", "resized_crop_flip"])
@pytest.mark.parametrize("steps", [1, 3, 5, 7])
def test_a_checkpoint_in_the_middle_of_an_epoch_goes_on_bit_for_bit(
    root: Path, augment: str, steps: int
) -> None:
    files, facts = streamed(root)
    config = replace(CONFIG, augment=augment)
    whole = Training(config, files, facts)
    for _ in range(2):
        whole.epoch()
    first = Training(config, files, facts)
    left = [steps]

    def pause() -> bool:
        left[0] -= 1
        return left[0] == 0

    while left[0] > 0:
        first.advance(pause)
    state = copy.deepcopy(first.state_dict())
    second = Training(config, files, facts)
    second.load_state_dict(state)
    while second.done < 2:
        second.advance(lambda: True)
    assert digest(second) == digest(whole)


def test_the_loader_streams_and_a_stand_in_takes_the_same_way(root: Path) -> None:
    place: dict[str, Any] = {"name": "imagefolder", "root": str(root), "image_size": SIZE}
    loader = Loader({**place, "split_seed": 0, "stream": True, "stand_in": None})
    pool, facts, problem = loader.pool({"sam": dataclasses.asdict(CONFIG)})
    assert isinstance(pool.images, Streamed)
    assert facts == held(root)[1]
    assert problem is None
    assert isinstance(loader.test()[0].images, Streamed)
    place |= {"root": "never-read", "split_seed": 0, "stand_in": 50}
    files, of_files = Loader({**place, "stream": True}).pool({})[:2]
    arrays, of_arrays = Loader({**place, "stream": False}).pool({})[:2]
    assert of_files == of_arrays
    assert np.array_equal(files.images[:], arrays.images[:])
    assert len(Loader({**place, "stream": True}).test()[0].labels) == 64
