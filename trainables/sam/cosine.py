"""The cosine between the gradients at w and at w + e, where somebody asks for it."""

from __future__ import annotations

import torch
from torch import Tensor

from trainables.sam.geometry import global_norm
from trainables.sam.step import Memory, Outcome, Pairs, Target


def watched(outcome: Outcome, targets: list[Target]) -> list[Tensor]:
    """A list that gets, in the base step, the cosine between the gradients at w and at w + e over
    what is perturbed; it stays empty where one of them is not known."""
    found: list[Tensor] = []
    ascent, finish = outcome.ascent, outcome.finish
    if ascent is None:
        return found

    def watch(pairs: Pairs) -> Memory:
        at = dict(pairs)
        both = [
            (g, at[t.parameter] if t.mask is None else at[t.parameter].where(t.mask, 0.0))
            for g, t in zip(ascent, targets, strict=True)
            if t.parameter in at
        ]
        product = torch.stack([(a * b).sum() for a, b in both]).sum()
        lengths = global_norm([a for a, _ in both]) * global_norm([b for _, b in both])
        found.append(product / lengths)
        return finish(pairs) if finish else {}

    outcome.finish = watch
    return found
