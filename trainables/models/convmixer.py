"""ConvMixer-256/8 for small images: Trockman and Kolter, arXiv 2201.09792.

Kernel 5 and patches of 2x2, as the authors train it on CIFAR-10 (locuslab/convmixer-cifar10).
"""

from __future__ import annotations

from torch import Tensor, nn

from trainables.models.convnet import ConvNet
from trainables.models.norm import Norm
from trainables.models.patches import check_patches

_CHANNELS, _DEPTH, _KERNEL, _PATCH = 256, 8, 5, 2


class Mixer(nn.Module):
    """Mixes positions within each channel, with a shortcut, then channels: [n, 256, H, W] to the
    same shape. Both are convolutions with GELU and normalization."""

    def __init__(self, norm: Norm) -> None:
        super().__init__()
        self.positions = nn.Sequential(
            nn.Conv2d(_CHANNELS, _CHANNELS, _KERNEL, padding=_KERNEL // 2, groups=_CHANNELS),
            nn.GELU(),
            norm(_CHANNELS),
        )
        self.channels = nn.Sequential(
            nn.Conv2d(_CHANNELS, _CHANNELS, 1), nn.GELU(), norm(_CHANNELS)
        )

    def forward(self, x: Tensor) -> Tensor:
        mixed: Tensor = self.channels(self.positions(x) + x)
        return mixed


class ConvMixer(ConvNet):
    """Eight mixers over patches. Raises ValueError where the patches do not fill the image."""

    def __init__(self, norm: Norm, num_classes: int, in_channels: int, image_size: int) -> None:
        check_patches("convmixer", image_size, _PATCH)
        patches = nn.Conv2d(in_channels, _CHANNELS, _PATCH, stride=_PATCH)
        stem = nn.Sequential(patches, nn.GELU(), norm(_CHANNELS))
        blocks = nn.Sequential(*(Mixer(norm) for _ in range(_DEPTH)))
        super().__init__(stem, blocks, _CHANNELS, num_classes, he_normal=False)
