"""One step's batch, and what a variant may do with it: passes, perturbation, descent."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer

from trainables.sam.batchnorm import Run, RunningStatistics
from trainables.sam.geometry import GEOMETRIES, Tensors, global_norm
from trainables.sam.passes import Batch, LossFunction, Slice, gradients, mean_loss
from trainables.sam.replicas import Replicas
from trainables.sam.reuse import Reuse
from trainables.sam.schedules import Epoch, scheduled_rho
from trainables.sam.weights import RandomNumbers, frozen, shifted

Memory: TypeAlias = dict[str, Any]
"""What a variant keeps from step to step: tensors, and lists of them over `Parts.learning`."""
Pairs: TypeAlias = list[tuple[Tensor, Tensor]]
"""Parameters, each with its gradient."""
Which = Literal["first", "second", "never"]
"""A forward pass of a step, as the option `bn_statistics` counts them."""


class Target(NamedTuple):
    """A parameter, the group of the base optimizer that holds its rho, and which of its elements
    are perturbed: how many, and a boolean mask, None for all."""

    name: str
    parameter: nn.Parameter
    is_bias: bool
    group: dict[str, Any]
    elements: int
    mask: Tensor | None = None


@dataclass(frozen=True)
class Parts:
    """What the steps of one optimizer share. learning: every trainable parameter of the base
    optimizer; targets: those that are perturbed; every: all parameters, of the model too."""

    base: Optimizer
    ascent: str
    geometry: str
    options: Mapping[str, Any]
    learning: list[Target]
    targets: list[Target]
    every: list[Tensor]
    statistics: RunningStatistics
    reuse: Reuse
    replicas: Replicas
    generator: torch.Generator


@dataclass
class Outcome:
    """What a variant's passes came to.

    loss: mean at w. norm: l2 norm of e, 0-dimensional. perturbed_loss: mean at w + e, None without
    perturbation. ascent: the gradient at w over the targets, where it is known. The gradient for
    the base optimizer is in `.grad`, or in `descents`: one a base step, over `Parts.learning`.
    finish: changes `.grad`, averaged and unscaled by then, given as pairs of parameter and
    gradient, and says what to remember. after: what follows the base step, told by a flag on the
    device whether that was skipped. memory: what to remember.
    """

    loss: Tensor
    norm: Tensor
    perturbed_loss: Tensor | None = None
    ascent: Tensors | None = None
    descents: list[Tensors] = field(default_factory=list)
    finish: Callable[[Pairs], Memory] | None = None
    after: Callable[[Tensor], None] | None = None
    memory: Memory = field(default_factory=dict)


class Step:
    """Passes over one batch. memory: what the variant kept; number: of steps before this one.

    chunks: slices of the batch that share a perturbation. active: whether this step perturbs.
    evaluations: gradient evaluations so far. used: parameters on which the loss depends.
    """

    def __init__(
        self,
        parts: Parts,
        loss_fn: LossFunction,
        chunks: list[list[Slice]],
        scaler: GradScaler | None,
        memory: Mapping[str, Any],
        number: int,
        epoch: Epoch | None,
        active: bool,
    ) -> None:
        self.parts = parts
        self.options = parts.options
        self.loss_fn = loss_fn
        self.chunks = chunks
        self.scaler = scaler
        self.memory = memory
        self.number = number
        self.epoch = epoch
        self.active = active
        self.samples = sum(count for chunk in chunks for _, count in chunk)
        self.evaluations = 0.0
        self.used: set[Tensor] = set()
        self._random = RandomNumbers(
            parts.every, replay=parts.options.get("dropout_masks") == "same"
        )
        self._zeroed = False
        self._chunk = 0
        self._passed = False
        self._recorded: list[Slice] | None = None
        self._norm = torch.zeros(())

    # -- what the variants read --

    @property
    def targets(self) -> list[Target]:
        """What is perturbed."""
        return self.parts.targets

    @property
    def moving(self) -> list[Target]:
        """Over which directions are given: the targets, or with a shared radius everything."""
        shared = self.options.get("radius") == "shared"
        return self.parts.learning if shared else self.parts.targets

    @property
    def slices(self) -> list[Slice]:
        """The batch, where all of it shares one perturbation."""
        [chunk] = self.chunks
        return chunk

    def remembered(self, key: str, targets: list[Target]) -> tuple[Tensors, Tensor]:
        """What was kept under `key` for each target, zeros before anything was, and a number on
        the device: 1 if something was, 0 if not."""
        if key in self.memory:
            found: Tensors = self.memory[key]
            return found, self.memory[f"{key}_known"]
        zeros = [torch.zeros_like(t.parameter) for t in targets]
        return zeros, zeros[0].new_zeros(())

    def known(self, key: str, tensors: Tensors) -> Memory:
        """What to remember under `key`, for `remembered`."""
        return {key: list(tensors), f"{key}_known": tensors[0].new_ones(())}

    def share(self, chunk: list[Slice]) -> float:
        """How much of the batch a chunk is."""
        return sum(count for _, count in chunk) / self.samples

    # -- passes --

    def gradient(
        self,
        slices: list[Slice],
        targets: list[Target],
        which: Which | None = None,
        keep: list[Tensor] | None = None,
    ) -> tuple[Tensor, Tensors]:
        """Mean loss and gradient of the targets at the present weights, out of place; no weight
        gradient is computed that was not asked for. In `ascent_precision`, which only variants
        have whose every such pass is that of the ascent."""
        weights: list[Tensor] = [t.parameter for t in targets]
        moving = set(weights)
        with ExitStack() as stack:
            if targets is self.targets and self._is_whole(slices):
                moving |= self.parts.reuse.parameters(weights)
                stack.enter_context(self.parts.reuse.recorded())
                self._recorded = slices
            resting = [p for p in self.parts.every if p not in moving]
            around = stack.enter_context(self._passing(which, slices))
            stack.enter_context(frozen(resting))
            loss_fn = self._cheap_losses if self._cheap else self.loss_fn
            loss, found = gradients(
                loss_fn, slices, weights, self.scaler, self.used, around=around, keep=keep
            )
        self._count(slices)
        if self.parts.replicas.count > 1 and self.options.get("m") is None:
            loss = loss.clone()
            self.parts.replicas.average([loss, *found])
        return loss, found

    def descend(self, slices: list[Slice], share: float = 1.0) -> Tensor:
        """Mean loss at the present weights; `share` of its gradient, scaled, goes to `.grad`."""
        if not self._zeroed:
            self.parts.base.zero_grad()
            self._zeroed = True

        def backward(loss: Tensor) -> None:
            loss = loss if share == 1 else loss * share
            scaled = loss if self.scaler is None else self.scaler.scale(loss)
            scaled.backward()  # type: ignore[no-untyped-call]

        with ExitStack() as stack:
            if self._recorded is slices:
                stack.enter_context(self.parts.reuse.replayed(self._norm))
            around = stack.enter_context(self._passing(None, slices))
            loss = mean_loss(self.loss_fn, slices, backward, around=around)
        self._recorded = None
        self._count(slices)
        return loss

    @property
    def _cheap(self) -> bool:
        """Whether the pass at w is less precise than the one at w + e."""
        return self.options.get("ascent_precision") is not None

    def _cheap_losses(self, part: Batch) -> Tensor:
        """loss_fn with its forward pass in `ascent_precision`; parameters and losses in float32."""
        precision: torch.dtype = getattr(torch, self.options["ascent_precision"])
        with torch.autocast(self.targets[0].parameter.device.type, precision):
            return self.loss_fn(part).float()

    def _is_whole(self, slices: list[Slice]) -> bool:
        """Whether a pass at w over slices is the first half of a step whose second half may go on
        from what it computed: one graph is kept, no statistics are to move twice, and both compute
        in one precision."""
        once = self.options.get("bn_statistics") != "both" and not self._cheap
        return once and len(slices) == 1 and any(slices is chunk for chunk in self.chunks)

    def look(self, slices: list[Slice]) -> list[Tensor]:
        """Losses at the present weights, without gradient or statistics; a third of a pass."""
        losses: list[Tensor] = []
        with torch.no_grad(), self._passing("never", slices) as around:
            mean_loss(self.loss_fn, slices, lambda loss: None, around=around, keep=losses)
        self.evaluations += self.share(slices) / 3
        return losses

    def hand_over(self, gradient: Tensors) -> None:
        """Leaves a gradient over `Parts.learning` in `.grad`, as if a descent had."""
        self.parts.base.zero_grad()
        for target, g in zip(self.parts.learning, gradient, strict=True):
            if target.parameter in self.used:
                target.parameter.grad = g.clone() if self.scaler is None else self.scaler.scale(g)

    def _count(self, slices: list[Slice]) -> None:
        self.evaluations += self.share(slices)

    def each_chunk(self) -> Iterator[list[Slice]]:
        """The chunks in turn; statistics end as the mean over them."""
        with self.parts.statistics.averaged(len(self.chunks)) as run:
            for number, chunk in enumerate(self.chunks):
                self._chunk = number
                self._passed = False
                with run():
                    yield chunk

    @contextmanager
    def _passing(
        self, which: Which | None, slices: list[Slice]
    ) -> Iterator[Callable[[int], AbstractContextManager[None]]]:
        """A pass over slices: statistics as `bn_statistics` says, once a pass."""
        which = which or ("second" if self._passed else "first")
        self._passed = True
        updating = {"first": ("first",), "both": ("first", "second"), "none": ()}
        statistics = self.parts.statistics
        with ExitStack() as stack:
            stack.enter_context(self.parts.replicas.silent())
            run: Run = nullcontext
            if which in updating[self.options.get("bn_statistics", "first")]:
                run = stack.enter_context(statistics.averaged(len(slices)))
            else:
                stack.enter_context(statistics.paused())

            @contextmanager
            def around(index: int) -> Iterator[None]:
                with self._random.of((self._chunk, index)), run():
                    yield

            yield around

    # -- perturbation --

    @torch.no_grad()
    def perturbation(self, direction: Tensors) -> tuple[Tensors, Tensor]:
        """e over the targets, from a direction over `moving`, and its l2 norm."""
        moving = self.moving
        if moving is self.targets:
            direction = masked(direction, moving)
        weights: list[Tensor] = [t.parameter for t in moving]
        biases = [t.is_bias for t in moving]
        shift = GEOMETRIES[self.parts.geometry](direction, weights, biases, self.options)
        torch._foreach_mul_(
            shift, [scheduled_rho(self.options, t.group, self.epoch) for t in moving]
        )
        if moving is not self.targets:
            shift = masked(over(shift, moving, self.targets), self.targets)
        self._norm = norm = global_norm(shift)
        if self.options["bn_statistics"] == "both":
            # The second pass would leave NaN in the statistics, though the step is skipped.
            for part in shift:
                part.nan_to_num_(0.0, 0.0, 0.0)
        return shift, norm

    def moved(self, shift: Tensors) -> AbstractContextManager[None]:
        """Inside, the targets are moved by e."""
        return shifted([t.parameter for t in self.targets], shift)

    @torch.no_grad()
    def moved_all(self, rates: list[float], tensors: Tensors) -> AbstractContextManager[None]:
        """Inside, everything that learns is moved by `tensors`, each times its rate."""
        weights: list[Tensor] = [t.parameter for t in self.parts.learning]
        return shifted(weights, torch._foreach_mul(tensors, rates))


def over(tensors: Tensors, present: list[Target], wanted: list[Target]) -> Tensors:
    """Of tensors over some targets, those of other ones among them."""
    if present is wanted:
        return tensors
    of = {t.parameter: tensor for t, tensor in zip(present, tensors, strict=True)}
    return [of[t.parameter] for t in wanted]


def masked(tensors: Tensors, targets: list[Target]) -> Tensors:
    """Zero outside the masks, in new tensors where there are any."""
    if all(t.mask is None for t in targets):
        return tensors
    return [
        # Not a product: what is masked out may be infinite.
        x if t.mask is None else torch.where(t.mask, x, 0.0)
        for x, t in zip(tensors, targets, strict=True)
    ]
