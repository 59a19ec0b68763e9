"""ResNets for small images: He et al., arXiv 1512.03385, section 4.2, with projection shortcuts."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import relu

from trainables.models.convnet import ConvNet, conv
from trainables.models.norm import Norm


class BasicBlock(nn.Module):
    """Two normalized 3x3 convolutions and a shortcut: [n, inputs, H, W] to
    [n, outputs, ceil(H / stride), ceil(W / stride)].

    The shortcut is a normalized 1x1 convolution where the shape changes (option B of the paper),
    else the identity.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self.conv1 = conv(inputs, outputs, 3, stride)
        self.norm1 = norm(outputs)
        self.conv2 = conv(outputs, outputs, 3)
        self.norm2 = norm(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(conv(inputs, outputs, 1, stride), norm(outputs))

    def forward(self, x: Tensor) -> Tensor:
        out = relu(self.norm1(self.conv1(x)), inplace=True)
        out = self.norm2(self.conv2(out))
        return relu(out + self.shortcut(x), inplace=True)


class ResNet(ConvNet):
    """Three stages of `width`, 2 and 4 times `width` channels.

    depth: 6 n + 2 layers for n blocks a stage.
    """

    def __init__(
        self, depth: int, width: int, norm: Norm, num_classes: int, in_channels: int
    ) -> None:
        stem = nn.Sequential(conv(in_channels, width, 3), norm(width), nn.ReLU(inplace=True))
        blocks = []
        channels = width
        for stage in range(3):
            outputs = width * 2**stage
            for block in range((depth - 2) // 6):
                stride = 2 if stage > 0 and block == 0 else 1
                blocks.append(BasicBlock(channels, outputs, stride, norm))
                channels = outputs
        super().__init__(stem, nn.Sequential(*blocks), channels, num_classes)
