"""What the convolutional networks share."""

from __future__ import annotations

from torch import Tensor, nn


def conv(inputs: int, outputs: int, size: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """A convolution without bias: [n, inputs, H, W] to [n, outputs, ceil(H / stride), ...]."""
    return nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False)


class ConvNet(nn.Module):
    """Stem, blocks, mean over the positions, linear head: [n, C, H, W] to logits [n, classes].

    channels: those that the blocks give. he_normal: convolutions start from a normal distribution
    with variance 2 / (outputs * size^2) (He et al., arXiv 1502.01852), else as PyTorch has it.
    """

    def __init__(
        self,
        stem: nn.Module,
        blocks: nn.Module,
        channels: int,
        num_classes: int,
        *,
        he_normal: bool = True,
    ) -> None:
        super().__init__()
        self.stem = stem
        self.blocks = blocks
        self.head = nn.Linear(channels, num_classes)
        if he_normal:
            for module in self.modules():
                if isinstance(module, nn.Conv2d):
                    nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.blocks(self.stem(images)).mean((2, 3)))
        return logits
