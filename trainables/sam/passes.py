"""A forward and backward pass over one batch, cut into slices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.amp import GradScaler

from trainables.sam.geometry import Tensors

Batch: TypeAlias = Tensor | Sequence[Tensor]
LossFunction: TypeAlias = Callable[[Any], Tensor]
Slice: TypeAlias = tuple[Batch, int]


def cut(batch: Batch, pieces: int) -> list[Slice]:
    """`batch` in `pieces` slices along the first axis, each with its number of samples.

    Raises TypeError for a batch that is neither a tensor nor a tuple of tensors, ValueError for
    more pieces than samples and for tensors of different length.
    """
    tensors = tuple(batch) if isinstance(batch, (tuple, list)) else (batch,)
    if not tensors or not all(isinstance(t, Tensor) and t.ndim > 0 for t in tensors):
        raise TypeError(
            "batch must be a tensor or a tuple of tensors with samples along the first axis, "
            f"got {type(batch).__name__}"
        )
    samples = len(tensors[0])
    if any(len(t) != samples for t in tensors):
        raise ValueError(
            f"the tensors of a batch differ in their first axis: {[len(t) for t in tensors]}"
        )
    if not isinstance(pieces, int) or not 1 <= pieces <= samples:
        raise ValueError(
            f"accumulate must be a whole number from 1 to {samples}, the samples of the batch, "
            f"got {pieces!r}"
        )
    if pieces == 1:
        return [(batch, samples)]
    parts = zip(*(torch.tensor_split(t, pieces) for t in tensors), strict=True)
    return [(p[0] if isinstance(batch, Tensor) else p, len(p[0])) for p in parts]


def mean_loss(
    loss_fn: LossFunction, slices: Sequence[Slice], backward: Callable[[Tensor], None]
) -> Tensor:
    """Mean loss over all slices, detached; `backward` gets the share of each slice in turn.

    Raises ValueError if loss_fn returns neither one loss a sample nor a scalar.
    """
    samples = sum(count for _, count in slices)
    shares = []
    for part, count in slices:
        losses = loss_fn(part)
        if losses.shape not in ((count,), ()):
            raise ValueError(
                f"loss_fn must return one loss a sample, shape ({count},), or their mean, a "
                f"scalar; got shape {tuple(losses.shape)}"
            )
        loss = losses.mean() if losses.ndim else losses
        if count != samples:
            loss = loss * (count / samples)
        backward(loss)
        shares.append(loss.detach())
    return shares[0] if len(shares) == 1 else torch.stack(shares).sum()


def gradients(
    loss_fn: LossFunction,
    slices: Sequence[Slice],
    parameters: Tensors,
    scaler: GradScaler | None,
) -> tuple[Tensor, Tensors]:
    """Mean loss and its gradient in `parameters`, zero where the loss does not depend on them.

    The loss is scaled for the backward pass and its gradient unscaled again, without waiting for
    the device. No `.grad` is read or written.
    """
    total: Tensors = ()

    def backward(loss: Tensor) -> None:
        nonlocal total
        if not loss.requires_grad:
            found: Tensors = [torch.zeros_like(p) for p in parameters]
        else:
            scaled = loss if scaler is None else scaler.scale(loss)
            found = torch.autograd.grad(
                scaled, parameters, allow_unused=True, materialize_grads=True
            )
        # Out of place: two gradients may share memory.
        total = torch._foreach_add(total, found) if total else found

    loss = mean_loss(loss_fn, slices, backward)
    if scaler is not None:
        total = torch._foreach_mul(total, 1 / scaler.scale(torch.ones((), device=loss.device)))
    return loss, total
