"""Random windows cut out of image files."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import RandomResizedCrop

from tests.trainables.test_images import saved
from trainables.augment import windows
from trainables.decoding import WINDOW_DRAWS, decode, window

SIZE = 12


def test_windows_differ_by_image_epoch_and_seed_and_not_by_who_asks() -> None:
    one = windows(1, 0, 0, 8)
    assert one.shape == (8, WINDOW_DRAWS)
    assert np.array_equal(one, windows(1, 0, 0, 8))
    for other in (windows(2, 0, 0, 8), windows(1, 1, 0, 8), windows(1, 0, 1, 8), one[::-1]):
        assert not (one == other).any()


def test_a_window_is_cut_from_the_file_and_brought_to_size() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 70, 3), np.uint8))
    for draws in np.random.default_rng(1).random((20, WINDOW_DRAWS)):
        box = window(70, 90, draws)
        wanted = image.crop(box).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
        assert np.array_equal(
            decode(saved(image), SIZE, draws), np.asarray(wanted).transpose(2, 0, 1)
        )


def test_a_large_jpeg_is_cut_as_a_png_nearly_is() -> None:
    across, down = np.meshgrid(np.linspace(0, 255, 900), np.linspace(0, 255, 700))
    image = Image.fromarray(np.stack([across, down, (across + down) / 2], 2).astype(np.uint8))
    for draws in np.random.default_rng(2).random((20, WINDOW_DRAWS)):
        jpeg = decode(saved(image, "JPEG", quality=98), SIZE, draws).astype(int)
        assert np.abs(jpeg - decode(saved(image), SIZE, draws)).max() < 5


def test_a_window_turns_with_the_orientation_of_its_photograph() -> None:
    image = Image.fromarray(np.random.default_rng(3).integers(0, 256, (40, 30, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 270 degrees
    draws = np.random.default_rng(4).random(WINDOW_DRAWS)
    turned = decode(saved(image, exif=exif), SIZE, draws).astype(int)
    # Pillow resizes in one direction after the other, and rounds in between.
    assert np.abs(turned - np.rot90(decode(saved(image), SIZE, draws), 3, (1, 2))).max() <= 1


@pytest.mark.parametrize("size", [(500, 375), (1, 1), (3, 400), (400, 3), (64, 64)])
def test_windows_are_distributed_as_those_of_torchvision(size: tuple[int, int]) -> None:
    width, height = size
    count = 4000
    ours = np.array(
        [window(width, height, d) for d in np.random.default_rng(5).random((count, WINDOW_DRAWS))]
    )
    torch.manual_seed(0)
    blank, theirs = torch.empty(3, height, width), []
    for _ in range(count):
        top, left, h, w = RandomResizedCrop.get_params(blank, [0.08, 1.0], [3 / 4, 4 / 3])
        theirs.append((left, top, left + w, top + h))
    assert (ours >= 0).all()
    assert (ours[:, 2] > ours[:, 0]).all()
    assert (ours[:, 3] > ours[:, 1]).all()
    assert (ours[:, 2:] <= size).all()
    other = np.array(theirs)
    for column in range(4):
        a, b = ours[:, column], other[:, column]
        for level in (10, 50, 90):  # a share of either side of a quantile of theirs
            at = np.percentile(b, level)
            assert abs((a <= at).mean() - (b <= at).mean()) < 0.05
