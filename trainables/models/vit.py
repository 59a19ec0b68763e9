"""A small vision transformer: Dosovitskiy et al., arXiv 2010.11929, with timm's layers."""

from __future__ import annotations

from timm.models.vision_transformer import VisionTransformer
from torch import nn


def make_vit(num_classes: int, in_channels: int, image_size: int) -> nn.Module:
    """Build 4 blocks of dimension 64 with 4 heads over patches of 2x2, above 16x16 images of 4x4.

    Raises ValueError where the patches do not fill the image.
    """
    patch = 2 if image_size <= 16 else 4
    if image_size % patch:
        raise ValueError(
            f"vit cuts images into {patch}x{patch} patches, which do not fill "
            f"{image_size}x{image_size}; choose an image_size that is a multiple of {patch}"
        )
    model: nn.Module = VisionTransformer(
        img_size=image_size,
        patch_size=patch,
        in_chans=in_channels,
        num_classes=num_classes,
        embed_dim=64,
        depth=4,
        num_heads=4,
    )
    return model
