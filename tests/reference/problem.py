"""Losses and gradients as functions of named weights, and SGD on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext

import numpy as np
import torch
from torch import Tensor, nn

from tests.reference.geometry import Array, Arrays

Batch = tuple[Tensor, Tensor]


class Problem:
    """A model and the loss of each sample.

    model: its parameters are the start; it is never changed but for its training flag.
    loss: from outputs and labels to one loss a sample.
    statistics: buffers of the model (running statistics) as they are now.
    precision: of a forward pass, None for that of the weights.
    """

    def __init__(self, model: nn.Module, loss: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.model = model
        self.loss = loss
        self.statistics = {k: b.clone() for k, b in model.named_buffers()}
        self.dtype = next(model.parameters()).dtype

    def start(self) -> Arrays:
        """A copy of the parameters."""
        return {k: p.detach().numpy().copy() for k, p in self.model.named_parameters()}

    def losses(self, weights: Arrays, batch: Batch, precision: torch.dtype | None = None) -> Array:
        """The loss of each sample; normalization uses the statistics of the batch."""
        leaves = {k: torch.tensor(w, dtype=self.dtype) for k, w in weights.items()}
        found = self._losses(leaves, batch, precision=precision)
        result: Array = found.detach().numpy()
        return result

    def gradient(
        self,
        weights: Arrays,
        batch: Batch,
        evaluation: bool = False,
        precision: torch.dtype | None = None,
    ) -> Arrays:
        """The gradient of the mean loss; `evaluation`: normalization uses running statistics."""
        leaves = {
            k: torch.tensor(w, dtype=self.dtype, requires_grad=True) for k, w in weights.items()
        }
        mean = self._losses(leaves, batch, evaluation, precision=precision).mean()
        found = torch.autograd.grad(mean, list(leaves.values()))
        return {k: g.numpy() for k, g in zip(leaves, found, strict=True)}

    def update_statistics(
        self, passes: Sequence[tuple[Arrays, Batch]], precision: torch.dtype | None = None
    ) -> None:
        """Running statistics as the mean over passes that all start from those of now."""
        ends = []
        for weights, batch in passes:
            end = {k: b.clone() for k, b in self.statistics.items()}
            leaves = {k: torch.tensor(w, dtype=self.dtype) for k, w in weights.items()}
            self._losses(leaves, batch, buffers=end, precision=precision)
            ends.append(end)
        for k, b in self.statistics.items():
            together = torch.stack([end[k] for end in ends])
            self.statistics[k] = together.mean(0) if b.is_floating_point() else together[0]

    def _losses(
        self,
        leaves: dict[str, Tensor],
        batch: Batch,
        evaluation: bool = False,
        buffers: dict[str, Tensor] | None = None,
        precision: torch.dtype | None = None,
    ) -> Tensor:
        if buffers is None:
            buffers = {k: b.clone() for k, b in self.statistics.items()}
        self.model.train(not evaluation)
        x, y = batch
        with nullcontext() if precision is None else torch.autocast("cpu", precision):
            outputs = torch.func.functional_call(self.model, {**leaves, **buffers}, (x,))
        return self.loss(outputs if precision is None else outputs.float(), y)


class SGD:
    """v = momentum v + (u + weight_decay w); w = w - lr v"""

    def __init__(self, momentum: float, weight_decay: float) -> None:
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.velocity: Arrays = {}

    def step(self, w: Arrays, u: Arrays, lr: float) -> Arrays:
        """The weights after one step from w."""
        for k in w:
            before = self.velocity.get(k, np.zeros_like(w[k]))
            self.velocity[k] = self.momentum * before + u[k] + self.weight_decay * w[k]
        return {k: w[k] - lr * self.velocity[k] for k in w}
