"""A forward and backward pass over one batch, cut into slices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from operator import itemgetter
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


def prefix(slices: Sequence[Slice], samples: int) -> list[Slice]:
    """The first `samples` samples of slices, as slices."""
    kept: list[Slice] = []
    for part, count in slices:
        if samples <= 0:
            break
        taken = min(count, samples)
        kept.append((part if taken == count else each(part, itemgetter(slice(taken))), taken))
        samples -= taken
    return kept


def each(batch: Batch, change: Callable[[Tensor], Tensor]) -> Batch:
    """The batch with every tensor changed, a tensor or a tuple as before."""
    return change(batch) if isinstance(batch, Tensor) else tuple(map(change, batch))


def chunks(batch: Batch, m: int | None, accumulate: int) -> list[list[Slice]]:
    """`batch` in slices, those together that share a perturbation: of m samples each, or all.

    Raises ValueError where m does not divide the batch or leaves nothing to accumulate, and as
    `cut`.
    """
    if m is None:
        return [cut(batch, accumulate)]
    [(_, samples)] = cut(batch, 1)
    if samples % m:
        raise ValueError(
            f"m = {m:g} samples a perturbation must divide the batch of a replica, which has "
            f"{samples}"
        )
    if accumulate != 1:
        raise ValueError("with m a batch is in slices already; leave accumulate at 1")
    return [[piece] for piece in cut(batch, int(samples // m))]


def sample_losses(loss_fn: LossFunction, part: Batch, count: int) -> Tensor:
    """loss_fn of a slice: [count] or a scalar; ValueError for any other shape."""
    losses = loss_fn(part)
    if losses.shape not in ((count,), ()):
        raise ValueError(
            f"loss_fn must return one loss a sample, shape ({count},), or their mean, a "
            f"scalar; got shape {tuple(losses.shape)}"
        )
    return losses


def mean_loss(
    loss_fn: LossFunction,
    slices: Sequence[Slice],
    backward: Callable[[Tensor], None],
    around: Callable[[int], AbstractContextManager[None]] = lambda index: nullcontext(),
    keep: list[Tensor] | None = None,
) -> Tensor:
    """Mean loss over all slices, detached; `backward` gets the share of each slice in turn.

    around: a context for the forward pass of the slice of this number. keep: takes what loss_fn
    returned for each. Raises ValueError if loss_fn returns neither one loss a sample nor a scalar.
    """
    samples = sum(count for _, count in slices)
    shares = []
    for index, (part, count) in enumerate(slices):
        with around(index):
            losses = sample_losses(loss_fn, part, count)
        if keep is not None:
            keep.append(losses.detach())
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
    used: set[Tensor],
    **passed: Any,
) -> tuple[Tensor, Tensors]:
    """Mean loss and its gradient in `parameters`, zero where the loss does not depend on them;
    `used` takes those on which it does. passed: around and keep of `mean_loss`.

    The loss is scaled for the backward pass and its gradient unscaled again, without waiting for
    the device. No `.grad` is read or written.
    """
    total: Tensors = ()

    def backward(loss: Tensor) -> None:
        nonlocal total
        if not loss.requires_grad:
            found: list[Tensor | None] = [None] * len(parameters)
        else:
            scaled = loss if scaler is None else scaler.scale(loss)
            found = list(torch.autograd.grad(scaled, parameters, allow_unused=True))
        used.update(p for p, g in zip(parameters, found, strict=True) if g is not None)
        whole = [
            torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)
        ]
        # Out of place: two gradients may share memory.
        total = torch._foreach_add(total, whole) if total else whole

    loss = mean_loss(loss_fn, slices, backward, **passed)
    if scaler is not None:
        total = torch._foreach_mul(total, 1 / scaler.scale(torch.ones((), device=loss.device)))
    return loss, total
