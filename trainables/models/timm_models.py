"""Any model of timm, untrained and fitted to the images of a study."""

from __future__ import annotations

import difflib

import timm
from torch import nn

from trainables.models.probe import logits_shape


def make_timm_model(name: str, num_classes: int, in_channels: int, image_size: int) -> nn.Module:
    """Build timm's model `name` (MODEL or MODEL.TAG; the tag's weights are never loaded).

    Runs one image through it, because timm checks most sizes only there. Raises ValueError for a
    name that timm does not know and for images that the model cannot take.
    """
    if not timm.is_model(name):
        near = difflib.get_close_matches(name.split(".")[0], timm.list_models(), n=3)
        hint = f"; nearest: {', '.join('timm/' + match for match in near)}" if near else ""
        raise ValueError(f"timm {timm.__version__} has no model {name!r}{hint}")
    images = f"{in_channels} x {image_size} x {image_size} images and {num_classes} classes"
    try:
        model = _create(name, num_classes, in_channels, image_size)
        shape = logits_shape(model, in_channels, image_size)
    except Exception as error:  # timm's models fail in as many ways as there are models
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"timm/{name} does not take {images}: {reason}") from error
    if shape != (1, num_classes):
        raise ValueError(f"timm/{name} does not take {images}: its output is {shape}")
    return model


def _create(name: str, num_classes: int, in_channels: int, image_size: int) -> nn.Module:
    arguments = {"pretrained": False, "num_classes": num_classes, "in_chans": in_channels}
    settings = timm.get_pretrained_cfg(name)
    if settings is not None and settings.fixed_input_size:
        arguments["img_size"] = image_size
    model: nn.Module = timm.create_model(name, **arguments)
    return model
