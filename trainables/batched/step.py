"""One step of several optimizers at once, over the grouped network of their models."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor

from trainables.batched.network import GroupedNetwork
from trainables.sam import SharpnessAware
from trainables.sam.geometry import Tensors
from trainables.sam.passes import LossFunction
from trainables.sam.step import Outcome, Step, masked, over
from trainables.sam.weights import frozen


@dataclass(frozen=True)
class Turn:
    """What one model brings to a step. images: its batch [n, C, H, W], as long as those of the
    others. losses: from its logits, one an image [n]. clip_norm: as of SharpnessAware.step."""

    optimizer: SharpnessAware
    images: Tensor
    losses: LossFunction
    clip_norm: float | None = None


def lock_step(network: GroupedNetwork, turns: Mapping[int, Turn]) -> dict[int, Tensor]:
    """What SharpnessAware.step does, for each slot that has a turn; its mean loss at w.

    A slot without one computes on the images of the first, and nothing comes of it. Optimizers are
    over the models of the network, and of methods that catalog.unbatched has nothing against.
    """
    steps = {
        slot: turn.optimizer.prepare(turn.losses, [[(turn.images, len(turn.images))]])
        for slot, turn in turns.items()
    }
    spare = next(iter(turns.values()))
    images = [turns.get(slot, spare).images for slot in range(network.count)]
    with torch.enable_grad():
        outcomes = _Passes(network, steps, images).outcomes()
    return {
        slot: turn.optimizer.conclude(steps[slot], outcomes[slot], clip_norm=turn.clip_norm)
        for slot, turn in turns.items()
    }


class _Passes:
    """The passes of a step. They leave gradients in `.grad` of the models' parameters."""

    def __init__(
        self, network: GroupedNetwork, steps: Mapping[int, Step], images: list[Tensor]
    ) -> None:
        self._network = network
        self._steps = steps
        self._images = images

    def outcomes(self) -> dict[int, Outcome]:
        """What the passes come to, by slot."""
        climbing = {slot: step for slot, step in self._steps.items() if step.active}
        if not climbing:
            with self._updating():
                losses = self._descend()
            return {slot: Outcome(loss, loss.new_zeros(())) for slot, loss in losses.items()}
        with self._updating():
            losses, gradients = self._ascend(climbing)
        outcomes = {}
        with ExitStack() as stack:
            for slot, step in self._steps.items():
                outcomes[slot] = Outcome(losses[slot], losses[slot].new_zeros(()))
                if step.active:
                    gradient = gradients[slot]
                    shift, outcomes[slot].norm = step.perturbation(gradient)
                    over_targets = over(gradient, step.moving, step.targets)
                    outcomes[slot].ascent = masked(over_targets, step.targets)
                    stack.enter_context(step.moved(shift))
            stack.enter_context(self._network.statistics.paused())
            perturbed = self._descend()
        for slot in climbing:
            outcomes[slot].perturbed_loss = perturbed[slot]
        # Who does not perturb is where it was: for it the second pass repeated the first.
        for step in self._steps.values():
            step.evaluations = 1.0 + step.active
        return outcomes

    def _ascend(self, climbing: Mapping[int, Step]) -> tuple[dict[int, Tensor], dict[int, Tensors]]:
        """Losses at w, and the gradient of each loss over what its step moves; no other gradient
        is computed."""
        leaves = self._network.leaves
        wanted = {t.name for step in climbing.values() for t in step.moving}
        with frozen(leaf for name, leaf in leaves.items() if name not in wanted):
            losses = self._losses()
            moving = [name for name in leaves if name in wanted]
            summed = torch.autograd.grad(list(losses.values()), [leaves[name] for name in moving])
        found = dict(zip(moving, summed, strict=True))
        part = self._network.part
        return {slot: loss.detach() for slot, loss in losses.items()}, {
            slot: [part(found[t.name], slot) for t in step.moving]
            for slot, step in climbing.items()
        }

    def _descend(self) -> dict[int, Tensor]:
        """Losses at the present weights; their gradients go to `.grad`."""
        learning = {n: leaf for n, leaf in self._network.leaves.items() if leaf.requires_grad}
        losses = self._losses()
        for leaf in learning.values():
            leaf.grad = None
        # Each loss has a gradient in its own slot only, so that of all of them is that of each.
        torch.autograd.backward(list(losses.values()), inputs=list(learning.values()))
        for slot, step in self._steps.items():
            step.parts.base.zero_grad()
            step.evaluations = 1.0
            for target in step.parts.learning:
                gradient = learning[target.name].grad
                assert gradient is not None
                target.parameter.grad = self._network.part(gradient, slot)
        return {slot: loss.detach() for slot, loss in losses.items()}

    def _losses(self) -> dict[int, Tensor]:
        """The mean loss of each step's batch."""
        logits = self._network(self._images).unbind()
        return {slot: step.loss_fn(logits[slot]).mean() for slot, step in self._steps.items()}

    def _updating(self) -> ExitStack:
        """Inside, a pass that updates the running statistics of those that want it."""
        stack = ExitStack()
        for step in self._steps.values():
            if step.options.get("bn_statistics") == "none":
                stack.enter_context(step.parts.statistics.restored())
        return stack
