"""The loss of a model as a function of some of its weights, taken as one vector."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from trainables.measures.subject import Batch


class Surface:
    """The loss over the named parameters of a model, the others as they are.

    weights: those parameters now, float32 [N], in their order. The model is never written to.
    """

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self._model = model
        parameters = [model.get_parameter(name) for name in names]
        self._shapes = [p.shape for p in parameters]
        self._sizes = [p.numel() for p in parameters]
        self.weights = torch.cat([p.detach().flatten() for p in parameters])

    def loss(self, weights: Tensor, batch: Batch, *, normalised: bool = False) -> Tensor:
        """Mean cross-entropy of a batch at these weights, [N].

        normalised: logits are centred and brought to length 1 first, so that their scale counts
        for nothing (Andriushchenko et al., arXiv 2302.07011).
        """
        inputs, labels = batch
        parts = zip(self.names, torch.split(weights, self._sizes), self._shapes, strict=True)
        at = {name: part.view(shape) for name, part, shape in parts}
        logits: Tensor = functional_call(self._model, at, (inputs,))
        if normalised:
            logits = logits - logits.mean(1, keepdim=True)
            logits = logits / logits.norm(dim=1, keepdim=True).clamp_min(1e-10)
        return F.cross_entropy(logits, labels)

    def members(self, names: Sequence[str]) -> Tensor:
        """Which elements of `weights` belong to parameters of these names: bool [N]."""
        among = torch.tensor([name in set(names) for name in self.names])
        return among.repeat_interleave(torch.tensor(self._sizes)).to(self.weights.device)
