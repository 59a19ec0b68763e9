"""Residual networks that normalize before they convolve: He et al., arXiv 1603.05027, and WRN:
Zagoruyko and Komodakis, arXiv 1605.07146, without dropout."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn.functional import relu

from trainables.models.convnet import ConvNet, conv
from trainables.models.norm import Norm


class PreactBlock(nn.Module):
    """Normalization, ReLU and 3x3 convolution, twice, plus a shortcut: [n, inputs, H, W] to
    [n, outputs, ceil(H / stride), ceil(W / stride)].

    Where the shape changes, the shortcut is a 1x1 convolution of what the first ReLU gives. Else it
    is the input, or in the `first` block of the network what the first ReLU gives, as in the paper.
    """

    def __init__(
        self, inputs: int, outputs: int, stride: int, norm: Norm, *, first: bool = False
    ) -> None:
        super().__init__()
        self.norm1 = norm(inputs)
        self.conv1 = conv(inputs, outputs, 3, stride)
        self.norm2 = norm(outputs)
        self.conv2 = conv(outputs, outputs, 3)
        changes = stride != 1 or inputs != outputs
        self.shortcut = conv(inputs, outputs, 1, stride) if changes else nn.Identity()
        self._active_shortcut = first or changes

    def forward(self, x: Tensor) -> Tensor:
        active = relu(self.norm1(x))
        out = self.conv2(relu(self.norm2(self.conv1(active)), inplace=True))
        total: Tensor = out + self.shortcut(active if self._active_shortcut else x)
        return total


class PreactResNet(ConvNet):
    """Stages of `blocks` blocks, each stage after the first at half the size of the image.

    stem: channels of the first convolution. stages: channels of each stage.
    """

    def __init__(
        self,
        stem: int,
        stages: Sequence[int],
        blocks: int,
        norm: Norm,
        num_classes: int,
        in_channels: int,
    ) -> None:
        layers: list[nn.Module] = []
        channels = stem
        for stage, outputs in enumerate(stages):
            for block in range(blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                layers.append(PreactBlock(channels, outputs, stride, norm, first=not layers))
                channels = outputs
        layers += [norm(channels), nn.ReLU()]
        super().__init__(conv(in_channels, stem, 3), nn.Sequential(*layers), channels, num_classes)
