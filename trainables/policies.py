"""Augmentation policies: which operations each image of a batch gets."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.transforms import AutoAugment, AutoAugmentPolicy

from trainables.image_ops import OPERATIONS

_NAMES = tuple(OPERATIONS)
_IDENTITY = _NAMES.index("Identity")
_SIGNED = tuple(range(_NAMES.index("ShearX"), _NAMES.index("Sharpness") + 1))
_AUTO_LEVELS, _RAND_LEVELS, _RAND_LEVEL, _RAND_OPERATIONS = 9, 30, 9, 2


class Table(NamedTuple):
    """Policies of autoaugment: two operations each, by position in OPERATIONS, [policies, 2], with
    their probabilities and magnitudes."""

    operations: Tensor
    chances: Tensor
    magnitudes: Tensor


def autoaugment(images: Tensor, generator: torch.Generator) -> Tensor:
    """For each image one of the 25 policies found on CIFAR-10: two operations, each with its
    probability and magnitude, with a random sign (Cubuk et al., arXiv 1805.09501, table 7).

    images: uint8 [n, C, H, W], C 1 or 3. generator: on the CPU, so that nobody waits for a device
    to know which image gets what. Returns uint8 [n, C, H, W].
    """
    table, n = _table(*images.shape[2:]), len(images)
    policy = torch.randint(len(table.operations), (n,), generator=generator)
    applied = torch.rand(n, 2, generator=generator) <= table.chances[policy]
    operations = torch.where(applied, table.operations[policy], _IDENTITY)
    for step in range(2):
        images = _apply(
            images, operations[:, step], table.magnitudes[policy, step], _signs(n, generator)
        )
    return images


def randaugment(images: Tensor, generator: torch.Generator) -> Tensor:
    """For each image two of 14 operations at magnitude 9 of 30, with a random sign (Cubuk et al.,
    arXiv 1909.13719). As `autoaugment`."""
    height, width = images.shape[2:]
    found = [_magnitude(name, _RAND_LEVEL, _RAND_LEVELS, height, width) for name in _NAMES]
    magnitudes, n = torch.tensor(found, dtype=torch.float64), len(images)
    for _ in range(_RAND_OPERATIONS):
        # All but the last one, Invert.
        operations = torch.randint(len(_NAMES) - 1, (n,), generator=generator)
        images = _apply(images, operations, magnitudes[operations], _signs(n, generator))
    return images


@cache
def _table(height: int, width: int) -> Table:
    policies = AutoAugment(AutoAugmentPolicy.CIFAR10).policies
    return Table(
        torch.tensor([[_NAMES.index(name) for name, _, _ in pair] for pair in policies]),
        torch.tensor([[chance for _, chance, _ in pair] for pair in policies]),
        torch.tensor(
            [
                [_magnitude(name, level or 0, _AUTO_LEVELS, height, width) for name, _, level in p]
                for p in policies
            ],
            dtype=torch.float64,
        ),
    )


def _magnitude(name: str, level: int, levels: int, height: int, width: int) -> float:
    """What a level from 0 to levels means for an operation: the scales of both papers."""
    share = level / levels
    match name:
        case "ShearX" | "ShearY":
            return 0.3 * share
        case "TranslateX":
            return 150 / 331 * width * share
        case "TranslateY":
            return 150 / 331 * height * share
        case "Rotate":
            return 30 * share
        case "Brightness" | "Color" | "Contrast" | "Sharpness":
            return 0.9 * share
        case "Posterize":
            return 8 - round(4 * share)
        case "Solarize":
            return 255 * (1 - share)
    return 0.0


def _signs(n: int, generator: torch.Generator) -> Tensor:
    return torch.randint(2, (n,), generator=generator) * 2 - 1


def _apply(images: Tensor, operations: Tensor, magnitudes: Tensor, signs: Tensor) -> Tensor:
    """Each image with its operation, by position in OPERATIONS."""
    result = images.clone()
    for operation in torch.unique(operations).tolist():
        chosen = (operations == operation).nonzero()[:, 0]
        given = magnitudes[chosen]
        if operation in _SIGNED:
            given = given * signs[chosen]
        where = chosen.to(images.device, non_blocking=True)
        result[where] = OPERATIONS[_NAMES[operation]](images[where], given)
    return result
