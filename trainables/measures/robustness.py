"""Accuracy on test images that were made worse: docs/measures.md.

Pixels are float32 [n, C, H, W] in 0 ... 1 here; what leaves that range is cut off.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from trainables.data import Images
from trainables.measures.row import Row
from trainables.measures.subject import Batch, Subject
from trainables.streaming import AnyImages

Corruption: TypeAlias = Callable[[Tensor, float, torch.Generator], Tensor]
ATTACKED = 1000
"""Most test images that are attacked."""
EPSILONS = (1.0, 2.0, 4.0, 8.0)
"""In units of 1/255."""
_STEPS, _STEP = 10, 0.25


def gaussian_noise(pixels: Tensor, deviation: float, generator: torch.Generator) -> Tensor:
    """Adds noise of this standard deviation to every pixel of every channel."""
    return pixels + deviation * torch.empty_like(pixels).normal_(generator=generator)


def impulse_noise(pixels: Tensor, fraction: float, generator: torch.Generator) -> Tensor:
    """Makes each value black or white with this probability, half of them each."""
    drawn = torch.empty_like(pixels).uniform_(generator=generator)
    return torch.where(drawn < fraction, (drawn < fraction / 2).to(pixels.dtype), pixels)


def gaussian_blur(pixels: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """A Gaussian of a standard deviation of this share of the height, edges repeated."""
    deviation = share * pixels.shape[2]
    reach = math.ceil(3 * deviation)
    offsets = torch.arange(-reach, reach + 1, dtype=pixels.dtype, device=pixels.device)
    kernel = torch.exp(-(offsets**2) / (2 * deviation**2))
    kernel = (kernel / kernel.sum()).repeat(pixels.shape[1], 1, 1, 1)
    padded = F.pad(pixels, (reach, reach, reach, reach), mode="replicate")
    rows = F.conv2d(padded, kernel, groups=pixels.shape[1])
    return F.conv2d(rows, kernel.transpose(2, 3), groups=pixels.shape[1])


def contrast(pixels: Tensor, factor: float, generator: torch.Generator) -> Tensor:
    """Brings every value this near to the mean of its image's channel."""
    mean = pixels.mean((2, 3), keepdim=True)
    return mean + factor * (pixels - mean)


def brightness(pixels: Tensor, shift: float, generator: torch.Generator) -> Tensor:
    """Adds this to every value."""
    return pixels + shift


def pixelate(pixels: Tensor, factor: float, generator: torch.Generator) -> Tensor:
    """Means over a grid of this share of the height and width, each shown as a rectangle."""
    height, width = pixels.shape[2:]
    size = max(1, round(height * factor)), max(1, round(width * factor))
    return F.interpolate(F.interpolate(pixels, size, mode="area"), (height, width), mode="nearest")


CORRUPTIONS: Mapping[str, tuple[Corruption, tuple[float, float, float]]] = {
    "gaussian_noise": (gaussian_noise, (0.05, 0.1, 0.2)),
    "impulse_noise": (impulse_noise, (0.02, 0.05, 0.1)),
    "gaussian_blur": (gaussian_blur, (0.025, 0.05, 0.1)),
    "contrast": (contrast, (0.6, 0.4, 0.2)),
    "brightness": (brightness, (0.1, 0.2, 0.3)),
    "pixelate": (pixelate, (0.5, 0.375, 0.25)),
}
"""With its strength at severity 1, 2 and 3."""


def corruptions(subject: Subject, test: AnyImages) -> Iterator[Row]:
    """Accuracy in percent for every corruption and severity, without any, and their mean."""
    yield Row("accuracy.clean", "", None, subject.score(subject.test_batches(test))[1])
    found = []
    for number, (name, (corrupt, strengths)) in enumerate(CORRUPTIONS.items()):
        for severity, strength in enumerate(strengths, 1):
            generator = subject.generator(4, number)

            def batches(
                corrupt: Corruption = corrupt,
                strength: float = strength,
                generator: torch.Generator = generator,
            ) -> Iterator[Batch]:
                for pixels, labels in subject.test_pixels(test):
                    worse = corrupt(pixels, strength, generator).clamp(0, 1)
                    yield subject.standardised(worse), labels

            found.append(subject.score(batches())[1])
            yield Row(f"accuracy.{name}", "", float(severity), found[-1])
    yield Row("accuracy.corrupted", "", None, sum(found) / len(found))


def pgd(subject: Subject, test: AnyImages) -> Iterator[Row]:
    """Accuracy in percent under attacks in linf balls of EPSILONS, and without one on the same
    images."""
    count = len(test.labels)
    # Evenly spaced: image folders are sorted by class.
    chosen = np.linspace(0, count - 1, min(count, ATTACKED)).round().astype(np.int64)
    attacked = Images(test.images[chosen], test.labels[chosen])
    yield Row("accuracy.pgd_clean", "", None, subject.score(subject.test_batches(attacked))[1])
    for epsilon in EPSILONS:
        generator = subject.generator(5, 0)
        # Made before they are scored, where gradients are off.
        batches = [
            (
                subject.standardised(attack(subject, pixels, labels, epsilon / 255, generator)),
                labels,
            )
            for pixels, labels in subject.test_pixels(attacked)
        ]
        yield Row("accuracy.pgd_linf", "", epsilon, subject.score(batches)[1])


def attack(
    subject: Subject, pixels: Tensor, labels: Tensor, epsilon: float, generator: torch.Generator
) -> Tensor:
    """Pixels no further than epsilon from these, made to raise the loss (Madry et al., arXiv
    1706.06083): a random start, then 10 steps of 0.25 epsilon along the sign of the gradient."""
    low, high = (pixels - epsilon).clamp_min(0), (pixels + epsilon).clamp_max(1)
    at = pixels + torch.empty_like(pixels).uniform_(-epsilon, epsilon, generator=generator)
    at = torch.clamp(at, low, high)
    for _ in range(_STEPS):
        at.requires_grad_()
        loss = F.cross_entropy(subject.logits(subject.standardised(at)), labels, reduction="sum")
        [gradient] = torch.autograd.grad(loss, at)
        at = torch.clamp(at.detach() + _STEP * epsilon * gradient.sign(), low, high)
    return at
