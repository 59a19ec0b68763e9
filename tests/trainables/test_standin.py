"""Digits that stand in for another data set."""

from __future__ import annotations

import numpy as np
import pytest

from trainables import standin
from trainables.catalog import DATASETS
from trainables.data import load_pool, load_test


def test_the_digits_stand_in_for_themselves() -> None:
    few, facts = load_pool("digits", stand_in=100)
    every, _ = load_pool("digits")
    assert np.array_equal(few.images, every.images[:100])
    assert np.array_equal(few.labels, every.labels[:100])
    assert (facts.shape, facts.pool, facts.classes) == ((1, 8, 8), 100, tuple("0123456789"))


def test_a_folder_that_is_not_there_has_coloured_images_of_its_size() -> None:
    pool, facts = load_pool("imagefolder", image_size=20, stand_in=1500)
    test, left_out = load_test("imagefolder", image_size=20, stand_in=1500)
    assert facts.shape == pool.images.shape[1:] == test.images.shape[1:] == (3, 20, 20)
    assert pool.images.dtype == test.images.dtype == np.uint8
    assert pool.labels.dtype == test.labels.dtype == np.int64
    assert (len(pool.images), len(pool.labels), facts.pool) == (1500, 1500, 1500)
    assert facts.test == len(test.images) == len(test.labels) == standin.TEST
    assert left_out == ()
    assert set(pool.labels) == set(range(len(facts.classes))) == set(range(10))


@pytest.mark.parametrize("size", [4, 8, 20, 32])
def test_every_pixel_is_the_nearest_one_in_every_channel(size: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 1, 8, 8), dtype=np.uint8)
    got = standin.resized(images, "imagefolder", size, 5)
    for i in range(5):
        for row in range(size):
            for column in range(size):
                expected = images[i % 3, 0, row * 8 // size, column * 8 // size]
                assert got[i, :, row, column].tolist() == [expected] * 3


@pytest.mark.parametrize("classes", [2, 7, 10, 13, 100])
def test_labels_depend_on_the_digit_and_every_class_occurs(classes: int) -> None:
    digits = np.random.default_rng(0).integers(0, 10, 300)
    got = standin.relabelled(digits, classes, 400)
    assert set(got.tolist()) == set(range(classes))
    assert np.array_equal(got[:300] % min(classes, 10), digits % min(classes, 10))
    assert np.array_equal(standin.relabelled(digits, classes, 120), got[:120])


def test_a_data_set_of_known_classes_has_as_many() -> None:
    assert standin.class_names("my_package.sets:birds") == tuple("0123456789")
    for name, facts in DATASETS.items():
        if facts.classes is not None:
            assert len(standin.class_names(name)) == facts.classes
