"""Masks that are known or change while a model trains: top_fisher, SSAM-F and SSAM-D (Mi et al.,
arXiv 2210.05177)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from trainables.sam.geometry import Tensors
from trainables.sam.masks import at, fisher_scores, random
from trainables.sam.passes import Batch, LossFunction
from trainables.sam.step import Memory, Target
from trainables.sam.subsets import Selection, perturbed_elements

if TYPE_CHECKING:
    from trainables.sam.optimizer import SharpnessAware


def masks_of(chosen: Selection) -> dict[str, tuple[Tensor | None, int]]:
    """By name, the mask of each parameter that is perturbed and how many elements it has; nothing
    while the selection waits."""
    if chosen.pending:
        return {}
    return {
        t.name: (t.mask, t.parameter.numel() if t.mask is None else int(t.mask.sum()))
        for t in chosen.targets
    }


def masked_targets(
    learning: list[Target], masks: Mapping[str, tuple[Tensor | None, int]]
) -> list[Target]:
    """What is perturbed of what learns; the same list where that is all of it."""
    found = [
        t._replace(mask=masks[t.name][0], elements=masks[t.name][1])
        for t in learning
        if t.name in masks
    ]
    whole = len(found) == len(learning) and all(t.mask is None for t in found)
    return learning if whole else found


def mask_size(model: nn.Module, density: float | str) -> int:
    """How many elements of a model the mask of ssam_f or ssam_d has; 'matched': as many as the
    normalization layers. Raises ValueError where these have none."""
    if density == "matched":
        return perturbed_elements(model, "norm")
    total = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return max(1, round(float(density) * total))


def first_masks(optimizer: SharpnessAware, parameters: Tensors) -> Memory:
    """What a variant with a mask of its own remembers before its first step."""
    size = mask_size(optimizer.model, optimizer.options["density"])
    memory: Memory = {"size": size, "refresh_due": False}
    if optimizer.variant == "ssam_d":
        memory["mask"] = random(parameters, size, optimizer.generator)
    return memory


def fisher_of(
    optimizer: SharpnessAware,
    count: int,
    samples: Iterable[Batch] | None,
    loss_fn: LossFunction | None,
) -> dict[str, Tensor]:
    """Sum of squared gradients of up to `count` samples, by the name of a trainable parameter.

    Raises RuntimeError without samples or loss_fn.
    """
    if samples is None or loss_fn is None:
        raise RuntimeError(
            f"variant {optimizer.variant!r} on {optimizer.perturb!r} looks at training data: call "
            "begin_epoch(epoch, epochs, samples=batches, loss_fn=loss_fn)"
        )
    scores = fisher_scores(optimizer.model, loss_fn, samples, count)
    names = [name for name, p in optimizer.model.named_parameters() if p.requires_grad]
    return dict(zip(names, scores, strict=True))


def drop_and_grow(
    masks: Tensors, gradient: Tensors, size: int, rate: float, generator: torch.Generator
) -> list[Tensor]:
    """Masks of the same size: the share `rate` of it with the smallest gradients makes room for
    random elements from outside (Mi et al., arXiv 2210.05177, algorithm 2)."""
    inside = torch.cat([m.flatten() for m in masks])
    dropped = min(math.floor(size * rate), len(inside) - size)
    scores = torch.cat([g.flatten() for g in gradient]).abs()
    kept = scores.masked_fill(~inside, -1.0).topk(size - dropped).indices
    drawn = torch.rand(len(inside), generator=generator).to(inside.device, non_blocking=True)
    grown = drawn.masked_fill(inside, -1.0).topk(dropped).indices
    return at(masks, torch.cat([kept, grown]))
