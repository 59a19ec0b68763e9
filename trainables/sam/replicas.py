"""Several processes that train one model on parts of each batch."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._utils import _flatten_dense_tensors, _unflatten_dense_tensors
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.parallel import DistributedDataParallel

from trainables.sam.subsets import norm_layers


def unwrapped(model: nn.Module) -> nn.Module:
    """The model itself, out of DistributedDataParallel."""
    return model.module if isinstance(model, DistributedDataParallel) else model


class Replicas:
    """The processes of a DistributedDataParallel model, or this one alone for any other model.

    What they have to agree on is averaged here; the model's own hooks are switched off, because
    they would average after every backward pass.
    """

    def __init__(self, model: nn.Module) -> None:
        self._wrapped = model if isinstance(model, DistributedDataParallel) else None
        self._group: Any = None if self._wrapped is None else self._wrapped.process_group
        self.count = 1 if self._wrapped is None else dist.get_world_size(self._group)

    def share_batchnorm(self, m: int | None) -> None:
        """Lets BatchNorm normalize with all that one perturbation is computed from.

        Raises ValueError where it cannot: SyncBatchNorm runs on GPUs only, and takes the place of
        BatchNorm only, timm's with an activation included.
        """
        if self._wrapped is None or self.count == 1 or m is not None:
            return
        for layer in norm_layers(self._wrapped):
            statistics = any(True for _ in layer.buffers(recurse=False))
            if statistics and not isinstance(layer, (_BatchNorm, _InstanceNorm)):
                raise ValueError(
                    f"{type(layer).__name__} normalizes with a batch, and each of {self.count} "
                    "replicas has only a part of it; give m, the samples a perturbation"
                )
        layers = [layer for layer in self._wrapped.modules() if isinstance(layer, _BatchNorm)]
        if all(isinstance(layer, nn.SyncBatchNorm) for layer in layers):
            return
        if any(not parameter.is_cuda for parameter in self._wrapped.parameters()):
            raise ValueError(
                f"one perturbation for the whole batch of {self.count} replicas needs BatchNorm "
                "over the whole batch, which SyncBatchNorm does on GPUs only; give m, the samples "
                "a perturbation"
            )
        timm = sys.modules.get("timm.layers")  # a model can hold its layers only if it is there
        convert: Any = nn.SyncBatchNorm.convert_sync_batchnorm
        if timm is not None:
            convert = timm.convert_sync_batchnorm  # which keeps activations
        self._wrapped.module = convert(self._wrapped.module)

    def silent(self) -> Any:
        """A context in which passes do not communicate."""
        return nullcontext() if self._wrapped is None else self._wrapped.no_sync()

    @torch.no_grad()
    def average(self, tensors: list[Tensor]) -> None:
        """Replaces each tensor by its mean over the replicas."""
        if self.count == 1 or not tensors:
            return
        flat = _flatten_dense_tensors(tensors)  # type: ignore[no-untyped-call]
        dist.all_reduce(flat, group=self._group)
        flat.div_(self.count)
        means = _unflatten_dense_tensors(flat, tensors)  # type: ignore[no-untyped-call]
        torch._foreach_copy_(tensors, list(means))
