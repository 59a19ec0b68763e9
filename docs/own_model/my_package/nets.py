"""A network of one's own: any torch.nn.Module that maps images to one logit a class."""

from __future__ import annotations

from torch import nn


def make_net(
    num_classes: int, in_channels: int, image_size: int, *, channels: int = 8, depth: int = 2
) -> nn.Module:
    """[n, in_channels, image_size, image_size] to [n, num_classes].

    The first three arguments come from the data set; channels and depth are keys of workload.model.
    """
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)]
        layers += [nn.GroupNorm(4, channels), nn.ReLU()]
        in_channels = channels
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(in_channels, num_classes)
    )
