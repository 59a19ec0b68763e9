"""Models by name: make_model("resnet20", num_classes=10, in_channels=3, image_size=32)."""

from __future__ import annotations

import difflib
from typing import Any

from torch import nn

from trainables.catalog import MODEL_NAMES, RESNETS, is_own, model_options
from trainables.models.resnet import ResNet

__all__ = ["make_model"]


def make_model(
    name: str, *, num_classes: int, in_channels: int, image_size: int, **options: Any
) -> nn.Module:
    """Build an untrained model that maps images [n, in_channels, image_size, image_size] to logits.

    name: resnetDEPTH, vit, timm/NAME for any model of timm, or MODULE:CALLABLE for one's own.
    options: `width`, the channels of a ResNet's first stage, default 16; whatever one's own takes.
    Weights come from torch's global generator, on the current default device.
    Raises ValueError where such a model cannot be built.
    """
    if is_own(name):
        from trainables.models.own import make_own_model

        return make_own_model(name, num_classes, in_channels, image_size, options)
    allowed = model_options(name)
    if allowed is None:
        near = difflib.get_close_matches(name, RESNETS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"model {name!r} is not one of {', '.join(MODEL_NAMES)}{hint}")
    if unknown := sorted(options.keys() - set(allowed)):
        raise ValueError(f"model {name} takes no {unknown[0]}")
    if name in RESNETS:
        depth = int(name.removeprefix("resnet"))
        return ResNet(depth, options.get("width", 16), num_classes, in_channels)
    if name == "vit":
        from trainables.models.vit import make_vit

        return make_vit(num_classes, in_channels, image_size)
    from trainables.models.timm_models import make_timm_model

    return make_timm_model(name.removeprefix("timm/"), num_classes, in_channels, image_size)
