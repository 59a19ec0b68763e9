"""Pools, test sets and the splits of trials."""

from __future__ import annotations

import dataclasses
import itertools
import json
import pickle
import subprocess
import sys
from typing import get_args

import numpy as np
import pytest
from sklearn.datasets import load_digits

from trainables.catalog import DATASETS
from trainables.data import DataError, Purpose, Split, load_pool, load_test, split, stream

STREAMS_OF_SEED_0 = [
    7896617691693857887,
    2918264622725855778,
    8597659618385908031,
    3291213472928352369,
    2494635221133837528,
    6102389744414414618,
    3656545308831359172,
    4625441644015172652,
    71300412144211962,
    5949034261645103510,
]
LABELS = np.random.default_rng(0).integers(0, 10, 1100)


def drawn(
    seed: int = 0,
    train_size: int | None = 800,
    validation_size: int = 300,
    label_noise: float = 0.0,
) -> Split:
    return split(
        LABELS,
        classes=10,
        seed=seed,
        train_size=train_size,
        validation_size=validation_size,
        label_noise=label_noise,
    )


def rows(images: np.ndarray) -> list[bytes]:
    return sorted(image.tobytes() for image in images)


def test_pool_and_test_together_are_the_digits_scaled_to_255() -> None:
    pool, _ = load_pool("digits")
    test, undecodable = load_test("digits")
    assert undecodable == ()
    expected = np.round(load_digits().images * 255 / 16).astype(np.uint8)
    assert pool.images.dtype == test.images.dtype == np.uint8
    assert pool.images.shape == (1100, 1, 8, 8)
    assert rows(np.concatenate([pool.images, test.images])[:, 0]) == rows(expected)


def test_digits_keep_their_labels() -> None:
    source = load_digits()
    names = {
        image.tobytes(): label
        for image, label in zip(
            np.round(source.images * 255 / 16).astype(np.uint8), source.target, strict=True
        )
    }
    for part in (load_pool("digits")[0], load_test("digits")[0]):
        assert part.labels.dtype == np.int64
        assert [names[image.tobytes()] for image in part.images] == part.labels.tolist()


@pytest.mark.parametrize("split_seed", [0, 1, 7])
def test_the_test_set_is_the_first_697_of_the_permutation_of_split_seed(split_seed: int) -> None:
    order = np.random.default_rng(split_seed).permutation(1797)
    test, _ = load_test("digits", split_seed=split_seed)
    assert test.labels.tolist() == load_digits().target[order[:697]].tolist()


def test_the_test_set_does_not_depend_on_settings_of_other_data_sets() -> None:
    test, _ = load_test("digits")
    other, _ = load_test("digits", image_size=64)
    assert np.array_equal(test.images, other.images)
    assert len(test.labels) == DATASETS["digits"].test == 697


def test_facts_describe_the_pool() -> None:
    pool, facts = load_pool("digits")
    assert facts.classes == tuple("0123456789")
    assert facts.shape == (1, 8, 8)
    assert (facts.pool, facts.test, facts.undecodable) == (1100, 697, ())
    assert facts.mean == pytest.approx([(pool.images / 255).mean()])
    assert facts.std == pytest.approx([(pool.images / 255).std()])


def test_facts_go_through_pickle_and_json() -> None:
    _, facts = load_pool("digits")
    assert pickle.loads(pickle.dumps(facts)) == facts
    assert json.loads(json.dumps(dataclasses.asdict(facts)))["hash"] == facts.hash


def test_the_hash_is_that_of_the_pool() -> None:
    hashes = {load_pool("digits", split_seed=seed)[1].hash for seed in (0, 0, 1)}
    assert len(hashes) == 2
    assert all(len(value) == 64 for value in hashes)


def test_an_unknown_data_set_is_refused_with_the_names() -> None:
    for load in (load_pool, load_test):
        with pytest.raises(
            DataError, match=r"'mnist' is not one of digits, cifar10, cifar100, im.*, MODU"
        ):
            load("mnist")


def test_data_imports_no_torch() -> None:
    code = "import sys, trainables.data; sys.exit('torch' in sys.modules or 'PIL' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_split_has_the_sizes_asked_for_and_no_image_twice() -> None:
    got = drawn(train_size=700, validation_size=200)
    assert (len(got.train), len(got.train_labels), len(got.validation)) == (700, 700, 200)
    assert len({*got.train, *got.validation}) == 900
    assert got.train.dtype == got.validation.dtype == got.train_labels.dtype == np.int64


def test_without_a_train_size_training_gets_what_validation_leaves() -> None:
    got = drawn(train_size=None, validation_size=300)
    assert sorted([*got.train, *got.validation]) == list(range(1100))


def test_a_seed_repeats_its_split_and_another_seed_draws_another() -> None:
    one, again, other = drawn(5, label_noise=0.4), drawn(5, label_noise=0.4), drawn(6)
    for name in ("train", "train_labels", "validation"):
        assert np.array_equal(getattr(one, name), getattr(again, name))
    assert not np.array_equal(one.train, other.train)


def test_a_larger_training_set_contains_the_smaller_and_leaves_validation_alone() -> None:
    small, large = drawn(train_size=100), drawn(train_size=500)
    assert np.array_equal(large.train[:100], small.train)
    assert np.array_equal(large.validation, small.validation)


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.333, 0.4, 1.0])
def test_exactly_the_asked_fraction_of_training_labels_is_wrong(noise: float) -> None:
    got = drawn(label_noise=noise)
    assert (got.train_labels != LABELS[got.train]).sum() == round(noise * 800)
    assert got.train_labels.min() >= 0
    assert got.train_labels.max() < 10


def test_the_wrong_labels_are_uniform_over_the_other_classes() -> None:
    labels = np.full(45_000, 3)
    got = split(
        labels, classes=10, seed=0, train_size=None, validation_size=0, label_noise=1.0
    ).train_labels
    counts = np.bincount(got, minlength=10)
    assert counts[3] == 0
    others = np.delete(counts, 3)
    assert np.abs(others - 5000).max() < 5 * 67  # standard deviation 67


def test_the_wrong_labels_are_spread_over_the_training_set() -> None:
    got = drawn(label_noise=0.5)
    wrong = np.flatnonzero(got.train_labels != LABELS[got.train])
    assert 400 - 5 * 8 < wrong.mean() < 400 + 5 * 8  # standard deviation of the mean 8


def test_more_noise_adds_wrong_labels_and_changes_nothing_else() -> None:
    clean, some, more = (drawn(label_noise=noise) for noise in (0.0, 0.2, 0.4))
    for got in (some, more):
        assert np.array_equal(got.train, clean.train)
        assert np.array_equal(got.validation, clean.validation)
    wrong = some.train_labels != clean.train_labels
    assert np.array_equal(more.train_labels[wrong], some.train_labels[wrong])


def test_a_split_leaves_the_labels_of_the_pool_alone() -> None:
    before = LABELS.copy()
    drawn(label_noise=0.4)
    assert np.array_equal(LABELS, before)


@pytest.mark.parametrize(
    ("train_size", "validation_size", "message"),
    [
        (900, 300, "train_size 900 and validation_size 300 do not fit into 1100 images"),
        (None, 1100, "train_size the rest and validation_size 1100 do not fit into 1100"),
        (0, 10, "train_size must be at least 1"),
        (10, -1, "validation_size -1"),
    ],
)
def test_sizes_that_do_not_fit_are_refused_with_the_numbers(
    train_size: int | None, validation_size: int, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        drawn(train_size=train_size, validation_size=validation_size)


@pytest.mark.parametrize("noise", [-0.1, 1.1, float("nan")])
def test_label_noise_is_a_fraction(noise: float) -> None:
    with pytest.raises(DataError, match=r"outside 0 \.\.\. 1"):
        drawn(label_noise=noise)


def test_the_streams_of_seeds_and_purposes_all_differ() -> None:
    keys = list(itertools.product(range(200), get_args(Purpose)))
    values = {stream(seed, purpose) for seed, purpose in keys}
    assert len(values) == len(keys)
    assert all(0 <= value < 2**63 for value in values)


def test_streams_never_change() -> None:
    # Results of finished studies depend on these numbers.
    assert [stream(0, purpose) for purpose in get_args(Purpose)] == STREAMS_OF_SEED_0


def test_the_streams_of_a_seed_are_uncorrelated() -> None:
    draws = np.array(
        [np.random.default_rng(stream(3, name)).random(4000) for name in get_args(Purpose)]
    )
    correlation = np.corrcoef(draws) - np.eye(len(draws))
    assert np.abs(correlation).max() < 5 / 4000**0.5
