"""The step of the base optimizer: unscale, average, check, clip, apply; whatever the variant."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer

from trainables.sam.geometry import Tensors
from trainables.sam.replicas import Replicas
from trainables.sam.step import Memory, Outcome, Target


class BaseStep:
    """Applies what a variant's passes left in `.grad`, unless it is not finite.

    Remembers which parameters were updated before, so one object serves one set of parameters.
    """

    def __init__(self, base: Optimizer, replicas: Replicas) -> None:
        self._base = base
        self._replicas = replicas
        self._stepped: set[Tensor] = set()

    @torch.no_grad()
    def apply(
        self,
        outcome: Outcome,
        learning: list[Target],
        used: set[Tensor],
        scaler: GradScaler | None,
        clip_norm: float | None,
    ) -> tuple[Tensor, Memory]:
        """Updates the weights. Returns whether that was skipped, as 1 or 0 on the device, and what
        to remember."""
        if outcome.descents:
            skipped = self._check([g for each in outcome.descents for g in each], outcome.norm)
            for gradient in outcome.descents:
                for target, g in zip(learning, gradient, strict=True):
                    target.parameter.grad = g if target.parameter in used else None
                self._clip_and_step(self._having(), skipped, clip_norm)
            memory: Memory = {}
        else:
            having = self._having()
            grads = [p.grad for p in having if p.grad is not None]
            self._replicas.average(grads)  # before a scaler judges them, so that all judge alike
            if scaler is not None:
                if grads:
                    # The scaler judges by gradients alone; x * 0 is NaN where x is not finite.
                    grads[0].add_(outcome.norm * 0)
                scaler.unscale_(self._base)
            skipped = self._check(grads, outcome.norm)
            memory = {}
            if outcome.finish is not None:
                memory = outcome.finish(list(zip(having, grads, strict=True)))
                _mark(grads, skipped)
            self._clip_and_step(having, skipped, clip_norm)
        if outcome.after is not None:
            outcome.after(skipped)
        torch.clear_autocast_cache()
        if scaler is not None:
            scaler.update()
        return skipped, memory

    def _having(self) -> list[Tensor]:
        groups = self._base.param_groups
        return [p for group in groups for p in group["params"] if p.grad is not None]

    def _check(self, gradients: Tensors, norm: Tensor) -> Tensor:
        """1 on the device where a gradient or the ascent was not finite, else 0."""
        skipped = torch.isfinite(norm).logical_not().float()
        _mark(gradients, skipped)
        return skipped

    def _clip_and_step(
        self, having: list[Tensor], skipped: Tensor, clip_norm: float | None
    ) -> None:
        base = self._base
        if clip_norm is not None:
            nn.utils.clip_grad_norm_(having, clip_norm)
        # Fused SGD leaves momentum buffers that it creates uninitialised where found_inf is set,
        # so the first update of a parameter is decided on the host.
        if getattr(base, "_step_supports_amp_scaling", False) and self._stepped.issuperset(having):
            base.grad_scale, base.found_inf = None, skipped  # type: ignore[attr-defined]
            try:
                base.step()
            finally:
                del base.grad_scale, base.found_inf  # type: ignore[attr-defined]
        elif not skipped:
            base.step()
            self._stepped.update(having)


def _mark(gradients: Tensors, skipped: Tensor) -> None:
    """Sets `skipped` to 1 where a gradient is not finite."""
    if gradients:
        torch._amp_foreach_non_finite_check_and_unscale_(
            gradients, skipped, torch.ones_like(skipped)
        )
