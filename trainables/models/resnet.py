"""ResNets for small images: He et al., arXiv 1512.03385, section 4.2, with projection shortcuts."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import relu


def _conv(inputs: int, outputs: int, size: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with BatchNorm and a shortcut: [n, inputs, H, W] to
    [n, outputs, ceil(H / stride), ceil(W / stride)].

    The shortcut is a 1x1 convolution with BatchNorm where the shape changes (option B of the
    paper), else the identity.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _conv(inputs, outputs, 3, stride)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = _conv(outputs, outputs, 3, 1)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                _conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        out = relu(self.norm1(self.conv1(x)), inplace=True)
        out = self.norm2(self.conv2(out))
        return relu(out + self.shortcut(x), inplace=True)


class ResNet(nn.Module):
    """Three stages of `width`, 2 and 4 times `width` channels: [n, C, H, W] to logits [n, classes].

    depth: 6 n + 2 layers for n blocks a stage. Convolutions start from a normal distribution with
    variance 2 / fan_out, BatchNorm from scale 1 and shift 0.
    """

    def __init__(self, depth: int, width: int, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            _conv(in_channels, width, 3, 1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
        )
        blocks = []
        channels = width
        for stage in range(3):
            outputs = width * 2**stage
            for block in range((depth - 2) // 6):
                stride = 2 if stage > 0 and block == 0 else 1
                blocks.append(BasicBlock(channels, outputs, stride))
                channels = outputs
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        # On CPU a training step in this layout takes 0.7 to 0.8 of the time, with the same maths.
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.blocks(self.stem(images)).mean((2, 3)))
        return logits
