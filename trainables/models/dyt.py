"""Dynamic Tanh: Zhu et al., "Transformers without Normalization", arXiv 2503.10622."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainables.sam import register_norm

_ALPHA = 0.5


@register_norm
class DyT(nn.Module):
    """weight * tanh(alpha * x) + bias: the affine part of a normalization layer, no statistics.

    x: tokens [..., channels], or with `maps` images [n, channels, H, W]; the result has its shape.
    weight (gamma) and bias (beta) are one number a channel, alpha is one number a layer, 0.5 at the
    start. All three count as normalization parameters. affine False: no parameters, and alpha
    stays 0.5.
    """

    def __init__(self, channels: int, *, maps: bool = False, affine: bool = True) -> None:
        super().__init__()
        self.maps = maps
        self.alpha: nn.Parameter | float = _ALPHA
        self.weight: nn.Parameter | None = None
        self.bias: nn.Parameter | None = None
        if affine:
            self.alpha = nn.Parameter(torch.full((1,), _ALPHA))
            self.weight = nn.Parameter(torch.ones(channels))
            self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        out = torch.tanh(self.alpha * x)
        if self.weight is None or self.bias is None:
            # A copy: the gradient of tanh needs its result, which a ReLU in place would change.
            return out.clone()
        shape = (-1, 1, 1) if self.maps else (-1,)
        return out * self.weight.view(shape) + self.bias.view(shape)
