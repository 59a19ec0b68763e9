"""Where the direction of the ascent comes from: docs/variants.md, Ascent.

An ascent takes a step, a chunk of its batch, and the parameters whose gradient at w is wanted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from torch import Tensor

from trainables.catalog.options import share_of
from trainables.sam.geometry import Tensors
from trainables.sam.passes import Slice, prefix
from trainables.sam.step import Memory, Step, Target, over


@dataclass
class Direction:
    """A direction over `Step.moving`. loss: mean at w, gradient: that over the wanted parameters,
    both None without a pass there. memory: what to remember."""

    vector: Tensors
    loss: Tensor | None = None
    gradient: Tensors | None = None
    memory: Memory = field(default_factory=dict)


Ascent: TypeAlias = Callable[[Step, list[Slice], list[Target]], Direction]


def batch(step: Step, chunk: list[Slice], wanted: list[Target]) -> Direction:
    """The gradient at w."""
    loss, gradient = step.gradient(chunk, wanted)
    return Direction(over(gradient, wanted, step.moving), loss, gradient)


def fraction(step: Step, chunk: list[Slice], wanted: list[Target]) -> Direction:
    """The gradient at w of the first samples only; their loss is not the batch's."""
    samples = sum(count for _, count in chunk)
    share = share_of(step.options["ascent"], "fraction")
    assert share is not None
    _, gradient = step.gradient(prefix(chunk, max(1, round(share * samples))), wanted)
    return Direction(over(gradient, wanted, step.moving), gradient=gradient)


def previous(step: Step, chunk: list[Slice], wanted: list[Target]) -> Direction:
    """The gradient at the perturbed point of the step before."""
    return Direction(step.remembered("previous", step.moving)[0])


def momentum(step: Step, chunk: list[Slice], wanted: list[Target]) -> Direction:
    """Against the momentum of SGD (Becker et al., arXiv 2401.12033)."""
    vector = []
    for target in step.moving:
        buffer = step.parts.base.state.get(target.parameter, {}).get("momentum_buffer")
        vector.append(torch.zeros_like(target.parameter) if buffer is None else -buffer)
    return Direction(vector)


def random(step: Step, chunk: list[Slice], wanted: list[Target]) -> Direction:
    """Standard normal numbers; a direction that knows nothing of the loss."""
    return Direction([_normal(t.parameter, step.parts.generator) for t in step.moving])


def friendly(step: Step, chunk: list[Slice], wanted: list[Target]) -> Direction:
    """g - sigma c, c a moving average of g (Li et al., arXiv 2403.12350, equations 8 and 9)."""
    found = batch(step, chunk, wanted)
    before, _ = step.remembered("average", step.moving)
    found.memory = _average(step, found.vector, 1 - step.options["decay"])
    found.vector = torch._foreach_sub(found.vector, before, alpha=step.options["sigma"])
    return found


def averaged(step: Step, chunk: list[Slice], wanted: list[Target]) -> Direction:
    """(1 - theta) a + theta g, a the direction before (Li and Giannakis, arXiv 2309.15639)."""
    found = batch(step, chunk, wanted)
    found.memory = _average(step, found.vector, step.options["theta"])
    found.vector = found.memory["average"]
    return found


ASCENTS: Mapping[str, Ascent] = {
    "batch": batch,
    "fraction": fraction,
    "previous": previous,
    "momentum": momentum,
    "random": random,
    "friendly": friendly,
    "averaged": averaged,
}


def _average(step: Step, newest: Tensors, weight: float) -> Memory:
    """What to remember as `average`: the moving average with the newest; the first is its own."""
    before, known = step.remembered("average", step.moving)
    mixed = torch._foreach_add(torch._foreach_mul(before, 1 - weight), newest, alpha=weight)
    return step.known(
        "average", [torch.where(known > 0, m, x) for m, x in zip(mixed, newest, strict=True)]
    )


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    # Drawn on the CPU, so that the numbers are the same on every device.
    drawn = torch.randn(like.shape, generator=generator, dtype=like.dtype)
    return drawn.to(like.device, non_blocking=True)
