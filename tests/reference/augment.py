"""Crop and flip one image at a time, with the draws of trainables.augment in the same order."""

from __future__ import annotations

import torch
from torch import Tensor


def augment(images: Tensor, kind: str, padding: int, generator: torch.Generator) -> Tensor:
    """What trainables.augment.cropped computes, as a loop."""
    count, channels, height, width = images.shape
    top, left = torch.randint(2 * padding + 1, (2, count, 1), generator=generator)
    mirrored = torch.zeros(count, 1)
    if kind == "crop_flip":
        mirrored = torch.randint(2, (count, 1), generator=generator)
    result = []
    for i, image in enumerate(images):
        bordered = torch.zeros(channels, height + 2 * padding, width + 2 * padding)
        bordered[:, padding : padding + height, padding : padding + width] = image
        row, column = int(top[i]), int(left[i])
        window = bordered[:, row : row + height, column : column + width]
        result.append(window.flip(2) if mirrored[i] else window)
    return torch.stack(result).to(torch.uint8)
