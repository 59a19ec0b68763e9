"""Augmentation against a loop over images, and its statistics."""

from __future__ import annotations

from typing import cast

import pytest
import torch

from tests.reference import augment as reference
from trainables.augment import Augmentation, augment, normalise, padding_for


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(*shape: int) -> torch.Tensor:
    """Without zeros, so that the border can be told from a picture."""
    return torch.randint(1, 256, shape, dtype=torch.uint8, generator=generator(1))


@pytest.mark.parametrize("kind", ["crop", "crop_flip"])
@pytest.mark.parametrize("shape", [(64, 1, 8, 8), (16, 3, 32, 32), (5, 2, 6, 9)])
@pytest.mark.parametrize("padding", [0, 1, 4])
def test_a_batch_equals_the_loop_over_images(
    kind: Augmentation, shape: tuple[int, ...], padding: int
) -> None:
    batch = images(*shape)
    got = augment(batch, kind, padding, generator())
    assert got.dtype == torch.uint8
    assert torch.equal(got, reference.augment(batch, kind, padding, generator()))


def test_none_returns_the_images_and_draws_nothing() -> None:
    batch, draws = images(4, 1, 8, 8), generator()
    before = draws.get_state()
    assert augment(batch, "none", 1, draws) is batch
    assert torch.equal(draws.get_state(), before)


@pytest.mark.parametrize("kind", ["crop", "crop_flip"])
def test_the_input_is_left_as_it_is(kind: Augmentation) -> None:
    batch = images(4, 3, 8, 8)
    copy = batch.clone()
    augment(batch, kind, 1, generator())
    assert torch.equal(batch, copy)


def test_the_generator_decides_everything() -> None:
    batch = images(32, 1, 8, 8)
    first = augment(batch, "crop_flip", 1, generator(3))
    assert torch.equal(first, augment(batch, "crop_flip", 1, generator(3)))
    assert not torch.equal(first, augment(batch, "crop_flip", 1, generator(4)))


def test_half_of_the_images_are_mirrored() -> None:
    ramp = torch.arange(8, dtype=torch.uint8).expand(4000, 1, 8, 8)
    mirrored = augment(ramp, "crop_flip", 0, generator())[:, 0, 0, 0] == 7
    assert 0.46 < mirrored.float().mean() < 0.54  # five standard deviations


def test_every_offset_is_equally_likely_and_rows_do_not_follow_columns() -> None:
    grid = torch.arange(1, 65, dtype=torch.uint8).view(1, 1, 8, 8).expand(9000, 1, 8, 8)
    corner = augment(grid, "crop", 1, generator())[:, 0, 1, 1].long()
    counts = corner.bincount(minlength=20)
    # The pixel at (1, 1) is one of the 3 x 3 at the corner of the image.
    places = [1, 2, 3, 9, 10, 11, 17, 18, 19]
    assert counts[places].sum() == 9000
    assert counts[places].min() > 840  # expected 1000, standard deviation 30
    assert counts.max() < 1160


def test_an_unknown_kind_is_refused_with_the_allowed_ones() -> None:
    with pytest.raises(ValueError, match="'flip' is not one of none, crop, crop_flip"):
        augment(images(1, 1, 8, 8), cast(Augmentation, "flip"), 1, generator())


def test_padding_is_an_eighth_of_the_size() -> None:
    assert [padding_for(size) for size in (4, 8, 32, 64)] == [0, 1, 4, 8]


def test_normalise_subtracts_the_mean_and_divides_by_the_deviation_of_each_channel() -> None:
    batch = images(10, 3, 4, 4)
    mean, std = torch.tensor([0.1, 0.5, 0.2]), torch.tensor([0.3, 0.2, 0.9])
    got = normalise(batch, mean, std)
    assert got.dtype == torch.float32
    for channel in range(3):
        expected = (batch[:, channel].double() / 255 - mean[channel]) / std[channel]
        torch.testing.assert_close(got[:, channel], expected.float())


def test_a_constant_channel_becomes_zero_not_nan() -> None:
    batch = torch.full((2, 1, 4, 4), 51, dtype=torch.uint8)
    assert torch.equal(
        normalise(batch, torch.tensor([0.2]), torch.tensor([0.0])), torch.zeros(2, 1, 4, 4)
    )
