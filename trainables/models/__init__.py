"""Models by name: make_model("resnet20", num_classes=10, in_channels=3, image_size=32)."""

from __future__ import annotations

import difflib
from typing import Any

from torch import nn

from trainables.catalog import MODEL_NAMES, MODELS, is_own, model_options, wrong_option
from trainables.models.convmixer import ConvMixer
from trainables.models.densenet import DenseNet100
from trainables.models.norm import norm_layer
from trainables.models.preact import PreactResNet
from trainables.models.resnet import ResNet
from trainables.models.resnext import ResNeXt29

__all__ = ["make_model"]


def make_model(
    name: str, *, num_classes: int, in_channels: int, image_size: int, **options: Any
) -> nn.Module:
    """Build an untrained model that maps images [n, in_channels, image_size, image_size] to logits.

    name: one of catalog.MODELS, timm/NAME for any model of timm, or MODULE:CALLABLE for one's own.
    options: for ours `norm`, a word of those in catalog.MODELS, `affine`, false for normalization
    layers without parameters, and for a ResNet `width`, the channels of its first stage, default
    16; for one's own whatever it takes.
    Weights come from torch's global generator, on the current default device.
    Raises ValueError where such a model cannot be built.
    """
    if is_own(name):
        from trainables.models.own import make_own_model

        return make_own_model(name, num_classes, in_channels, image_size, options)
    defaults = model_options(name)
    if defaults is None:
        near = difflib.get_close_matches(name, MODELS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"model {name!r} is not one of {', '.join(MODEL_NAMES)}{hint}")
    if wrong := wrong_option(name, options):
        raise ValueError(wrong[1])
    if name in MODELS:
        given = {key: value for key, value in options.items() if value is not None}
        return _declared(name, {**defaults, **given}, num_classes, in_channels, image_size)
    from trainables.models.timm_models import make_timm_model

    return make_timm_model(name.removeprefix("timm/"), num_classes, in_channels, image_size)


def _declared(
    name: str, options: dict[str, Any], num_classes: int, in_channels: int, image_size: int
) -> nn.Module:
    kind, affine = options["norm"], options["affine"]
    if name.startswith("vit"):
        from trainables.models.vit import make_vit

        return make_vit(name, kind, affine, num_classes, in_channels, image_size)
    norm = norm_layer(kind, affine)
    match name:
        case "preact_resnet18":
            return PreactResNet(64, (64, 128, 256, 512), 2, norm, num_classes, in_channels)
        case "wrn16_4":
            return PreactResNet(16, (64, 128, 256), 2, norm, num_classes, in_channels)
        case "wrn28_10":
            return PreactResNet(16, (160, 320, 640), 4, norm, num_classes, in_channels)
        case "resnext29_32x4d":
            return ResNeXt29(norm, num_classes, in_channels)
        case "densenet100":
            return DenseNet100(norm, num_classes, in_channels)
        case "convmixer":
            return ConvMixer(norm, num_classes, in_channels, image_size)
    depth = int(name.removeprefix("resnet"))
    return ResNet(depth, options["width"], norm, num_classes, in_channels)
