"""The pass at w and the pass at w + e, and arithmetic over what they leave."""

from __future__ import annotations

import torch
from torch import Tensor

from trainables.sam.ascents import ASCENTS
from trainables.sam.geometry import Tensors
from trainables.sam.step import Memory, Outcome, Pairs, Step, masked, over


def both_passes(step: Step, full: bool = False) -> tuple[Outcome, Tensors]:
    """The pass at w and the one at w + e of each chunk. Also the mean gradient at w: over all that
    learns where `full`, else over `Step.moving`, or nothing where the ascent needs none."""
    ascend = ASCENTS[step.parts.ascent]
    wanted = step.parts.learning if full else step.moving
    losses, norms, perturbed_losses = [], [], []
    total: Tensors = ()
    memories: list[Memory] = []
    for chunk in step.each_chunk():
        share = step.share(chunk)
        direction = ascend(step, chunk, wanted)
        shift, norm = step.perturbation(direction.vector)
        with step.moved(shift):
            perturbed_loss = step.descend(chunk, share)
        losses.append((perturbed_loss if direction.loss is None else direction.loss) * share)
        norms.append(norm * share)
        perturbed_losses.append(perturbed_loss * share)
        memories.append(direction.memory)
        if direction.gradient is not None:
            part = direction.gradient
            if share != 1:
                part = torch._foreach_mul(part, share)
            total = torch._foreach_add(total, part) if total else part
    outcome = Outcome(
        torch.stack(losses).sum(), torch.stack(norms).sum(), torch.stack(perturbed_losses).sum()
    )
    outcome.memory = _mean(memories)
    if total:
        if step.options.get("m") is not None:
            step.parts.replicas.average(list(total))
        outcome.ascent = masked(over(total, wanted, step.targets), step.targets)
    if step.parts.ascent == "previous":
        outcome.finish = lambda pairs: step.known(
            "previous",
            over(spread(step, pairs, [g for _, g in pairs]), step.parts.learning, step.moving),
        )
    return outcome, total


def _mean(memories: list[Memory]) -> Memory:
    """What chunks remember, as one."""
    [first, *others] = memories
    if not others:
        return first
    return {
        key: [torch.stack(parts).mean(0) for parts in zip(*(m[key] for m in memories), strict=True)]
        if isinstance(value, list)
        else value
        for key, value in first.items()
    }


def aligned(step: Step, gradient: Tensors, pairs: Pairs) -> list[Tensor]:
    """Of a gradient over all that learns, the part of each pair."""
    of: dict[Tensor, Tensor] = {
        t.parameter: g for t, g in zip(step.parts.learning, gradient, strict=True)
    }
    return [of[p] for p, _ in pairs]


def spread(step: Step, pairs: Pairs, values: Tensors) -> Tensors:
    """Of values, one a pair, one for all that learns; zero where there is no pair."""
    of = {p: value for (p, _), value in zip(pairs, values, strict=True)}
    return [
        of[t.parameter].clone() if t.parameter in of else torch.zeros_like(t.parameter)
        for t in step.parts.learning
    ]


def dot(a: Tensors, b: Tensors) -> Tensor:
    """<a, b>, summed as in `global_norm`."""
    wide = torch.float32 if a[0].device.type == "mps" else torch.float64
    products = torch._foreach_mul(a, b)
    return torch.stack([x.sum(dtype=wide) for x in products]).sum()


def inverse(number: Tensor) -> Tensor:
    """1 / number, and 0 for 0."""
    return torch.where(number == 0, 0.0, 1 / number)
