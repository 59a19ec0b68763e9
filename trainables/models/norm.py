"""The normalization layers of our networks, by word.

    bn    batch normalization, per channel
    gn    group normalization: at most 32 groups, of 4 channels or more
    ln    layer normalization: over channels and positions of a map (a GroupNorm with one group),
          over the channels of a token
    rms   root mean square over the channels of each position or token: timm's RmsNorm, no shift
    none  no layer, and no bias in its place
    dyt   DyT in place of normalization

Without affine parameters a layer has no parameters at all.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn

from trainables.models.dyt import DyT

Norm = Callable[[int], nn.Module]
_MOST_GROUPS, _LEAST_CHANNELS = 32, 4


def norm_layer(kind: str, affine: bool) -> Norm:
    """What makes a layer for maps [n, channels, H, W] from their number of channels."""
    match kind:
        case "bn":
            return partial(nn.BatchNorm2d, affine=affine)
        case "gn":
            return lambda channels: nn.GroupNorm(_groups(channels), channels, affine=affine)
        case "ln":
            return partial(nn.GroupNorm, 1, affine=affine)
        case "rms":
            from timm.layers import RmsNorm2d

            return partial(RmsNorm2d, affine=affine)
        case "dyt":
            return partial(DyT, maps=True, affine=affine)
        case "none":
            return lambda channels: nn.Identity()
    raise ValueError(f"no normalization {kind!r} for maps")


def token_norm_layer(kind: str, affine: bool) -> Callable[..., nn.Module]:
    """What makes a layer for tokens [n, tokens, channels], as timm calls it: (channels, **_)."""
    from timm.layers import LayerNorm, RmsNorm

    match kind:
        case "ln":
            return partial(LayerNorm, affine=affine)
        case "rms":
            return partial(RmsNorm, affine=affine)
        case "dyt":
            return lambda channels, **_: DyT(channels, affine=affine)
        case "none":
            return lambda channels, **_: nn.Identity()
    raise ValueError(f"no normalization {kind!r} for tokens")


def _groups(channels: int) -> int:
    # A group of one channel on a map of one position would always be 0.
    sizes = range(1, _MOST_GROUPS + 1)
    fitting = [n for n in sizes if channels % n == 0 and channels // n >= _LEAST_CHANNELS]
    return max(fitting, default=1)
