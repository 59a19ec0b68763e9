"""DenseNet-BC with 100 layers and growth rate 12: Huang et al., arXiv 1608.06993."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from trainables.models.convnet import ConvNet, conv
from trainables.models.norm import Norm

_LAYERS, _GROWTH = 16, 12


class DenseLayer(nn.Module):
    """[n, inputs, H, W] to [n, inputs + 12, H, W]: the input, and what a 1x1 and a 3x3 convolution
    make of it, each after normalization and ReLU."""

    def __init__(self, inputs: int, norm: Norm) -> None:
        super().__init__()
        self.norm1 = norm(inputs)
        self.conv1 = conv(inputs, 4 * _GROWTH, 1)
        self.norm2 = norm(4 * _GROWTH)
        self.conv2 = conv(4 * _GROWTH, _GROWTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv1(relu(self.norm1(x)))
        out = self.conv2(relu(self.norm2(out), inplace=True))
        return torch.cat([x, out], 1)


class DenseNet100(ConvNet):
    """Three dense blocks of 16 layers; between them a transition halves channels and image."""

    def __init__(self, norm: Norm, num_classes: int, in_channels: int) -> None:
        blocks: list[nn.Module] = []
        channels = 2 * _GROWTH
        for stage in range(3):
            if stage > 0:
                halved = channels // 2
                convolution = conv(channels, halved, 1)
                blocks += [norm(channels), nn.ReLU(), convolution, nn.AvgPool2d(2)]
                channels = halved
            for _ in range(_LAYERS):
                blocks.append(DenseLayer(channels, norm))
                channels += _GROWTH
        blocks += [norm(channels), nn.ReLU()]
        stem = conv(in_channels, 2 * _GROWTH, 3)
        super().__init__(stem, nn.Sequential(*blocks), channels, num_classes)
