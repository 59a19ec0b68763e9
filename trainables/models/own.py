"""A user's own model, by import path."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from trainables import own
from trainables.models.probe import logits_shape


def make_own_model(
    path: str, num_classes: int, in_channels: int, image_size: int, options: Mapping[str, Any]
) -> nn.Module:
    """Build the model that the callable at `path` returns, and run one image through it.

    It is called with num_classes, in_channels, image_size and the options, all by name.
    Raises ValueError, one line, where it fails or its output is not one logit a class.
    """
    model = own.call(
        path,
        num_classes=num_classes,
        in_channels=in_channels,
        image_size=image_size,
        **options,
    )
    if not isinstance(model, nn.Module):
        raise ValueError(f"{path} must return a torch.nn.Module, not {type(model).__name__}")
    image = f"a {in_channels} x {image_size} x {image_size} image"
    try:
        shape = logits_shape(model, in_channels, image_size)
    except Exception as error:  # whatever the user's code raises, the user is to read it
        raise ValueError(f"the model of {path} raised {own.told(error)} for {image}") from error
    if shape != (1, num_classes):
        raise ValueError(
            f"the model of {path} gives {list(shape)} for {image}, not [1, {num_classes}]: one "
            "logit a class"
        )
    return model
