"""Several models of one architecture as one network, their channels side by side."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from trainables.models.convmixer import Mixer
from trainables.models.convnet import ConvNet
from trainables.models.preact import PreactBlock
from trainables.models.resnet import BasicBlock
from trainables.models.resnext import GroupedBottleneck
from trainables.sam.batchnorm import RunningStatistics

_BY_CHANNEL: Mapping[Callable[..., Any], Sequence[str]] = {
    nn.Conv2d.forward: ("in_channels", "out_channels", "groups"),
    _BatchNorm.forward: ("num_features",),
    nn.GroupNorm.forward: ("num_channels", "num_groups"),
    **dict.fromkeys(
        (
            *(nn.Identity.forward, nn.ReLU.forward, nn.GELU.forward, nn.AvgPool2d.forward),
            *(nn.Sequential.forward, ConvNet.forward),
            *(BasicBlock.forward, PreactBlock.forward, GroupedBottleneck.forward, Mixer.forward),
        ),
        (),
    ),
}
"""Modules, by their forward, that mix no channels of different groups; and what counts these."""


class GroupedNetwork:
    """N ConvNets of one architecture as one network.

    Parameters and buffers of each become views of its slot, the i-th part along the first axis, of
    those of the network: so a model stays what it was for an optimizer, a checkpoint, an
    evaluation. leaves: parameters of the network, by their name in each model. Raises ValueError
    for a model or a layer of it that has no grouped form.
    """

    def __init__(self, models: Sequence[nn.Module]) -> None:
        self.count = len(models)
        network = copy.deepcopy(models[0]).train()
        if not isinstance(network, ConvNet):
            raise ValueError(f"{type(network).__name__} has no grouped form: it is no ConvNet")
        head = network.head
        network.set_submodule("head", nn.Identity())
        for name, layer in network.named_modules():
            if (counted := _BY_CHANNEL.get(type(layer).forward)) is None:
                raise ValueError(f"{type(layer).__name__} ({name}) has no grouped form")
            for key in counted:
                setattr(layer, key, self.count * getattr(layer, key))
        network.set_submodule("head", _Heads(self.count, head))
        self.network = network
        self._share(models)
        self.leaves = dict(self.network.named_parameters())
        self.statistics = RunningStatistics(self.network)
        last = [torch.channels_last for p in self.leaves.values() if _is_channels_last(p)]
        self._format = last[0] if last else torch.contiguous_format

    def __call__(self, images: Sequence[Tensor]) -> Tensor:
        """Logits [N, n, classes] of a batch [n, C, H, W] for each model."""
        joined = torch.cat(list(images), 1).contiguous(memory_format=self._format)
        logits: Tensor = self.network(joined)
        return logits

    def part(self, tensor: Tensor, slot: int) -> Tensor:
        """Of a tensor shaped as a leaf, the part of one model."""
        return tensor.chunk(self.count)[slot]

    @torch.no_grad()
    def _share(self, models: Sequence[nn.Module]) -> None:
        """Gives the network what the models hold, and makes what they hold views of it."""
        for name, layer in self.network.named_modules():
            twins = [model.get_submodule(name) for model in models]
            own = [*layer._parameters.items(), *layer._buffers.items()]
            for key, tensor in own:
                if tensor is None:
                    continue
                held: list[Tensor] = [getattr(twin, key) for twin in twins]
                # A counter of batches becomes a vector of counters.
                flat = [each.detach() if each.ndim else each.detach()[None] for each in held]
                tensor.data = torch.cat(flat)
                for each, part in zip(held, tensor.chunk(self.count), strict=True):
                    each.data = part.view_as(each) if not each.ndim else part


class _Heads(nn.Module):
    """N linear layers, each of its own inputs: [n, N inputs] to [N, n, outputs]."""

    def __init__(self, count: int, one: nn.Linear) -> None:
        super().__init__()
        self.count = count
        self.weight, self.bias = one.weight, one.bias

    def forward(self, x: Tensor) -> Tensor:
        inputs = x.view(len(x), self.count, -1).transpose(0, 1)
        weight = self.weight.view(self.count, -1, inputs.shape[2])
        bias = self.bias.view(self.count, 1, -1)
        return torch.baddbmm(bias, inputs, weight.transpose(1, 2))


def _is_channels_last(tensor: Tensor) -> bool:
    is_last = tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
    return is_last and not tensor.is_contiguous()
