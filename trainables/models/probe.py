"""One image through a model, to see that it fits."""

from __future__ import annotations

import torch
from torch import nn


@torch.no_grad()
def logits_shape(model: nn.Module, in_channels: int, image_size: int) -> tuple[int, ...]:
    """Shape of the output for one image; in evaluation mode, so that no statistics move."""
    model.eval()
    shape = tuple(model(torch.zeros(1, in_channels, image_size, image_size)).shape)
    model.train()
    return shape
