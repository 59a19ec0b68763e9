"""Augmentation against a loop over images, and its statistics."""

from __future__ import annotations

import pytest
import torch

from tests.reference import augment as reference
from trainables.augment import Augmentation, cropped, cutout, mixup, normalise, padding_for
from trainables.data import Facts


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(*shape: int) -> torch.Tensor:
    """Without zeros, so that the border can be told from a picture."""
    return torch.randint(1, 256, shape, dtype=torch.uint8, generator=generator(1))


@pytest.mark.parametrize("kind", ["crop", "crop_flip"])
@pytest.mark.parametrize("shape", [(64, 1, 8, 8), (16, 3, 32, 32), (5, 2, 6, 9)])
@pytest.mark.parametrize("padding", [0, 1, 4])
def test_a_batch_equals_the_loop_over_images(
    kind: str, shape: tuple[int, ...], padding: int
) -> None:
    batch = images(*shape)
    got = cropped(batch, kind, padding, generator())
    assert got.dtype == torch.uint8
    assert torch.equal(got, reference.augment(batch, kind, padding, generator()))


def test_none_returns_the_images_and_draws_nothing() -> None:
    batch, draws = images(4, 1, 8, 8), generator()
    before = draws.get_state()
    assert cropped(batch, "none", 1, draws) is batch
    assert torch.equal(draws.get_state(), before)


@pytest.mark.parametrize("kind", ["crop", "crop_flip"])
def test_the_input_is_left_as_it_is(kind: str) -> None:
    batch = images(4, 3, 8, 8)
    copy = batch.clone()
    cropped(batch, kind, 1, generator())
    assert torch.equal(batch, copy)


def test_the_generator_decides_everything() -> None:
    batch = images(32, 1, 8, 8)
    first = cropped(batch, "crop_flip", 1, generator(3))
    assert torch.equal(first, cropped(batch, "crop_flip", 1, generator(3)))
    assert not torch.equal(first, cropped(batch, "crop_flip", 1, generator(4)))


def test_half_of_the_images_are_mirrored() -> None:
    ramp = torch.arange(8, dtype=torch.uint8).expand(4000, 1, 8, 8)
    mirrored = cropped(ramp, "crop_flip", 0, generator())[:, 0, 0, 0] == 7
    assert 0.46 < mirrored.float().mean() < 0.54  # five standard deviations


def test_every_offset_is_equally_likely_and_rows_do_not_follow_columns() -> None:
    grid = torch.arange(1, 65, dtype=torch.uint8).view(1, 1, 8, 8).expand(9000, 1, 8, 8)
    corner = cropped(grid, "crop", 1, generator())[:, 0, 1, 1].long()
    counts = corner.bincount(minlength=20)
    # The pixel at (1, 1) is one of the 3 x 3 at the corner of the image.
    places = [1, 2, 3, 9, 10, 11, 17, 18, 19]
    assert counts[places].sum() == 9000
    assert counts[places].min() > 840  # expected 1000, standard deviation 30
    assert counts.max() < 1160


def test_an_unknown_kind_is_refused_with_the_allowed_ones() -> None:
    with pytest.raises(ValueError, match="'flip' is not one of none, crop, crop_flip"):
        cropped(images(1, 1, 8, 8), "flip", 1, generator())


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


def test_a_square_around_a_random_pixel_becomes_zero() -> None:
    batch = torch.ones(4000, 2, 8, 8)
    found = cutout(batch, 4, generator())
    assert batch.min() == 1
    assert torch.equal(found[:, 0], found[:, 1])
    gone = (found[:, 0] == 0).float()
    rows, columns = gone.amax(2).sum(1), gone.amax(1).sum(1)
    assert torch.equal(gone.sum((1, 2)), rows * columns)  # a rectangle
    # 4 of 8 rows, fewer where the border cuts it off: 5 of 8 centres leave all four.
    assert set(rows.tolist()) == {2, 3, 4}
    assert abs((rows == 4).float().mean() - 5 / 8) < 0.04
    assert torch.equal(found, cutout(batch, 4, generator()))


def test_images_and_labels_are_mixed_alike() -> None:
    labels = torch.arange(6) % 3
    batch = torch.nn.functional.one_hot(labels, 3).float()[:, :, None, None].expand(6, 3, 2, 2)
    mixed, probabilities = mixup(batch, labels, 3, generator())
    assert mixed.shape == batch.shape
    torch.testing.assert_close(mixed[:, :, 0, 0], probabilities)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(6))
    share = torch.rand((), generator=generator())
    assert set(probabilities.flatten().tolist()) <= {0.0, float(share), float(1 - share), 1.0}


def test_the_share_of_a_mixture_is_uniform() -> None:
    draws, batch = generator(), torch.zeros(2, 1, 1, 1)
    labels = torch.tensor([0, 1])
    found = [float(mixup(batch, labels, 2, draws)[1][0, 0]) for _ in range(2000)]
    mixed = torch.tensor([share for share in found if share != 1.0])
    assert abs(len(mixed) / 2000 - 0.5) < 0.06  # half of the time an image meets itself
    assert abs(mixed.mean() - 0.5) < 0.05
    assert mixed.min() < 0.05
    assert mixed.max() > 0.95


@pytest.mark.parametrize(
    "kind",
    ["crop", "crop_flip+autoaugment", "none+randaugment+cutout", "crop+cutout+mixup", "none+mixup"],
)
def test_what_a_process_trains_on_does_not_depend_on_how_many_there_are(kind: str) -> None:
    facts = Facts(("a", "b"), (3, 16, 16), 8, None, "", (), (0.4,) * 3, (0.2,) * 3)
    batch, labels = images(8, 3, 16, 16), torch.arange(8) % 2

    def made(part: slice, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
        made = Augmentation(kind, facts, torch.device("cpu"), seed)
        return made(batch, labels, lambda each: each[part])

    whole, halves = made(slice(None)), [made(slice(4)), made(slice(4, None))]
    for i in range(2):
        assert torch.equal(whole[i], torch.cat([half[i] for half in halves]))
    assert whole[0].dtype == torch.float32
    assert whole[1].shape == ((8, 2) if "mixup" in kind else (8,))
    assert not torch.equal(whole[0], made(slice(None), 1)[0])


@pytest.mark.parametrize(
    ("kind", "channels", "told"),
    [
        (
            "flip",
            3,
            "unknown augmentation 'flip'; allowed: none, crop, crop_flip, resized_crop_flip, foll",
        ),
        ("crop+mixup+cutout", 3, "in this order"),
        ("crop+autoaugment+randaugment", 3, r"\+autoaugment or \+randaugment"),
        ("crop+cutout+cutout", 3, "unknown augmentation"),
        ("crop+autoaugment", 2, "autoaugment needs images with 1 or 3 channels, these have 2"),
    ],
)
def test_what_is_no_augmentation_is_refused(kind: str, channels: int, told: str) -> None:
    facts = Facts(("a",), (channels, 8, 8), 8, None, "", (), (0.4,) * 3, (0.2,) * 3)
    with pytest.raises(ValueError, match=told):
        Augmentation(kind, facts, torch.device("cpu"), 0)
