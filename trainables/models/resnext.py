"""ResNeXt-29 (32x4d) for small images: Xie et al., arXiv 1611.05431, form C of the block."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import relu

from trainables.models.convnet import ConvNet, conv
from trainables.models.norm import Norm

_STEM, _BLOCKS, _PATHS, _PATH_WIDTH = 64, 3, 32, 4


class GroupedBottleneck(nn.Module):
    """1x1, grouped 3x3 and 1x1 convolution, each normalized, and a shortcut: [n, inputs, H, W] to
    [n, outputs, ceil(H / stride), ceil(W / stride)].

    inner: channels of the 3x3 convolution. The shortcut is a normalized 1x1 convolution where the
    shape changes, else the identity.
    """

    def __init__(self, inputs: int, inner: int, outputs: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            conv(inputs, inner, 1),
            norm(inner),
            nn.ReLU(inplace=True),
            conv(inner, inner, 3, stride, groups=_PATHS),
            norm(inner),
            nn.ReLU(inplace=True),
            conv(inner, outputs, 1),
            norm(outputs),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(conv(inputs, outputs, 1, stride), norm(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return relu(self.residual(x) + self.shortcut(x), inplace=True)


class ResNeXt29(ConvNet):
    """Three stages of three blocks, 256, 512 and 1024 channels, 32 paths of 4, 8 and 16."""

    def __init__(self, norm: Norm, num_classes: int, in_channels: int) -> None:
        stem = nn.Sequential(conv(in_channels, _STEM, 3), norm(_STEM), nn.ReLU(inplace=True))
        blocks = []
        channels = _STEM
        for stage in range(3):
            inner, outputs = _PATHS * _PATH_WIDTH * 2**stage, 4 * _STEM * 2**stage
            for block in range(_BLOCKS):
                stride = 2 if stage > 0 and block == 0 else 1
                blocks.append(GroupedBottleneck(channels, inner, outputs, stride, norm))
                channels = outputs
        super().__init__(stem, nn.Sequential(*blocks), channels, num_classes)
