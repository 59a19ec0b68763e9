"""Models by name: make_model("resnet20", num_classes=10, in_channels=3, image_size=32)."""

from __future__ import annotations

import difflib

from torch import nn

from trainables.catalog import MODEL_NAMES, RESNETS, model_options
from trainables.models.resnet import ResNet

__all__ = ["make_model"]


def make_model(
    name: str, *, num_classes: int, in_channels: int, image_size: int, width: int | None = None
) -> nn.Module:
    """Build an untrained model that maps images [n, in_channels, image_size, image_size] to logits.

    name: resnetDEPTH, or timm/NAME for any model of timm. width: channels of a ResNet's first
    stage, default 16. Weights come from torch's global generator, on the current default device.
    Raises ValueError where such a model cannot be built.
    """
    options = model_options(name)
    if options is None:
        near = difflib.get_close_matches(name, RESNETS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"model {name!r} is not one of {', '.join(MODEL_NAMES)}{hint}")
    if width is not None and "width" not in options:
        raise ValueError(f"model {name} takes no width, only {', '.join(RESNETS)} do")
    if name in RESNETS:
        depth = int(name.removeprefix("resnet"))
        return ResNet(depth, 16 if width is None else width, num_classes, in_channels)
    from trainables.models.timm_models import make_timm_model

    return make_timm_model(name.removeprefix("timm/"), num_classes, in_channels, image_size)
