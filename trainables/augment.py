"""Augmentation and normalisation of a whole batch, on the device that holds it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from trainables.catalog.augmentations import IN_MEMORY, POLICIES, parts
from trainables.data import Facts, stream
from trainables.decoding import WINDOW_DRAWS


class Augmentation:
    """What a trial makes of its batches of training images.

    kind: words of catalog.augmentations. facts: of the data set. seed: of the trial; every image
    gets draws of its own. Raises ValueError for another kind, and where a policy finds images
    with neither 1 nor 3 channels.
    """

    def __init__(self, kind: str, facts: Facts, device: torch.device, seed: int) -> None:
        self._base, *extras = parts(kind)
        self._extras = set(extras)
        channels, height, _ = facts.shape
        self._policy: Callable[[Tensor, torch.Generator], Tensor] | None = None
        for word in self._extras & set(POLICIES):
            if channels not in (1, 3):
                raise ValueError(f"{word} needs images with 1 or 3 channels, these have {channels}")
            from trainables import policies  # with torchvision, which takes a while

            self._policy = getattr(policies, word)
        self.cuts_windows = self._base == "resized_crop_flip"
        self._padding, self._square = padding_for(height), height // 2
        if self.cuts_windows:  # done when the files are decoded
            self._base, self._padding = "crop_flip", 0
        self._classes = len(facts.classes)
        self._mean = torch.tensor(facts.mean, device=device)
        self._std = torch.tensor(facts.std, device=device)
        self._generator = torch.Generator(device).manual_seed(stream(seed, "augmentation"))
        self._choices = torch.Generator().manual_seed(stream(seed, "policy"))

    def __call__(
        self, images: Tensor, labels: Tensor, part: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Images uint8 [n, C, H, W] with their labels [n] as a model takes them: float32, and
        labels [n], with mixup probabilities [n, classes]. part: keeps what this process trains on;
        draws are for all n, so that they do not depend on how many processes there are."""
        images = cropped(images, self._base, self._padding, self._generator)
        if self._policy is not None:
            images = self._policy(images, self._choices)
        if not {"cutout", "mixup"} & self._extras:
            return self.normalised(part(images)), part(labels)
        inputs = self.normalised(images)
        if "cutout" in self._extras:
            inputs = cutout(inputs, self._square, self._generator)
        if "mixup" in self._extras:
            inputs, labels = mixup(inputs, labels, self._classes, self._generator)
        return part(inputs), part(labels)

    def normalised(self, images: Tensor) -> Tensor:
        """Images as a model takes them, without augmentation."""
        return normalise(images, self._mean, self._std)

    def state_dict(self) -> dict[str, Tensor]:
        """Where its draws are."""
        return {"images": self._generator.get_state(), "choices": self._choices.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from there."""
        self._generator.set_state(state["images"])
        self._choices.set_state(state["choices"])


def windows(seed: int, epoch: int, step: int, count: int) -> np.ndarray[Any, Any]:
    """What decoding.window takes for each image of a batch, float64 [count, WINDOW_DRAWS]: by the
    trial's seed, epoch and step alone, since batches are decoded ahead."""
    return np.random.default_rng(stream(seed, "window", epoch, step)).random((count, WINDOW_DRAWS))


def padding_for(size: int) -> int:
    """Crop padding in pixels for images of this height and width: 1 at 8, 4 at 32 (the usual)."""
    return size // 8


def cropped(images: Tensor, kind: str, padding: int, generator: torch.Generator) -> Tensor:
    """Randomly crop, and with crop_flip mirror, every image by draws of its own.

    images: uint8 [n, C, H, W], left as it is. padding: width of the zero border, in pixels, that
    is added before a window of H x W is cut out. A cropped image is mirrored with probability 1/2.
    generator: on the device of images. Returns uint8 [n, C, H, W]; `images` itself for none.
    Raises ValueError for another kind.
    """
    if kind not in IN_MEMORY:
        raise ValueError(f"augmentation {kind!r} is not one of {', '.join(IN_MEMORY)}")
    if kind == "none":
        return images
    n, channels, height, width = images.shape
    device = images.device
    top, left = torch.randint(2 * padding + 1, (2, n, 1), generator=generator, device=device)
    rows = top + torch.arange(height, device=device)
    columns = torch.arange(width, device=device)
    if kind == "crop_flip":
        mirrored = torch.randint(2, (n, 1), generator=generator, device=device).bool()
        columns = torch.where(mirrored, columns.flip(0), columns)
    columns = left + columns
    padded = functional.pad(images, (padding, padding, padding, padding))
    # One gather over flattened pixels shares its index between channels: on one CPU thread it
    # takes a quarter of the time of indexing with four broadcast index tensors.
    pixels = rows[:, :, None] * padded.shape[3] + columns[:, None, :]
    index = pixels.view(n, 1, height * width).expand(n, channels, height * width)
    return padded.flatten(2).gather(2, index).view(images.shape)


def cutout(images: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """A square of each image becomes 0, the mean of a normalised one (DeVries and Taylor, arXiv
    1708.04552): size x size pixels around a random one, cut off at the border.

    images: float32 [n, C, H, W]. generator: on their device.
    """
    n, _, height, width = images.shape
    device = images.device
    row = torch.randint(height, (n, 1), generator=generator, device=device) - size // 2
    column = torch.randint(width, (n, 1), generator=generator, device=device) - size // 2
    y, x = torch.arange(height, device=device), torch.arange(width, device=device)
    rows, columns = (row <= y) & (y < row + size), (column <= x) & (x < column + size)
    return images.masked_fill((rows[:, :, None] & columns[:, None, :])[:, None], 0.0)


def mixup(
    images: Tensor, labels: Tensor, classes: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Each image becomes lambda of it and 1 - lambda of another of the batch, and so do the labels;
    lambda, one a batch, is uniform between 0 and 1 (Zhang et al., arXiv 1710.09412, alpha 1).

    images: float32 [n, C, H, W]; labels: int64 [n]. generator: on their device. Returns images and
    probabilities [n, classes].
    """
    device = images.device
    share = torch.rand((), generator=generator, device=device)
    other = torch.randperm(len(images), generator=generator, device=device)
    hot = functional.one_hot(labels, classes).to(images.dtype)
    return share * images + (1 - share) * images[other], share * hot + (1 - share) * hot[other]


def normalise(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """uint8 [n, C, H, W] to float32 (images / 255 - mean) / std.

    mean, std: [C], on the device of images, in units of 0..1; a std of 0 counts as 1, so that a
    constant channel becomes 0.
    """
    divisor = torch.where(std == 0, 1, std)
    return images.float().div_(255).sub_(mean[:, None, None]).div_(divisor[:, None, None])
