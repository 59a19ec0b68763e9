"""Vision transformers for small images: Dosovitskiy et al., arXiv 2010.11929; timm's layers."""

from __future__ import annotations

from timm.models.vision_transformer import VisionTransformer
from torch import nn

from trainables.models.norm import token_norm_layer
from trainables.models.patches import check_patches

# Dimension, blocks and heads.
_SHAPES = {"vit": (64, 4, 4), "vit_tiny": (192, 12, 3), "vit_small": (384, 12, 6)}


def make_vit(
    name: str, norm: str, affine: bool, num_classes: int, in_channels: int, image_size: int
) -> nn.Module:
    """Build `vit`, `vit_tiny` or `vit_small` over patches of 4x4; `vit` has 2x2 up to 16x16 images.

    Raises ValueError where the patches do not fill the image.
    """
    patch = 2 if name == "vit" and image_size <= 16 else 4
    check_patches(name, image_size, patch)
    dimension, blocks, heads = _SHAPES[name]
    model: nn.Module = VisionTransformer(
        img_size=image_size,
        patch_size=patch,
        in_chans=in_channels,
        num_classes=num_classes,
        embed_dim=dimension,
        depth=blocks,
        num_heads=heads,
        norm_layer=token_norm_layer(norm, affine),
    )
    return model
