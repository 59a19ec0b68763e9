"""The optimizer: a forward and backward pass at w, one at w + e, a base step from w.

A variant is an entry in catalog.VARIANTS over orthogonal parts, each a small function:
- which parameters move: subsets.select,
- where the ascent gradient comes from: `_ascend`,
- how it becomes a perturbation: one function in geometry.GEOMETRIES,
- which gradient the base optimizer gets: what `_descend` leaves in `.grad`,
- whether it is applied: `_update`, which knows neither variant nor subset.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer

from trainables.sam.batchnorm import RunningStatistics
from trainables.sam.geometry import GEOMETRIES, Tensors, global_norm
from trainables.sam.passes import Batch, LossFunction, Slice, cut, gradients, mean_loss
from trainables.sam.presets import check_rho, complete_options, preset_of
from trainables.sam.subsets import nothing_selected, select
from trainables.sam.weights import frozen, shifted

_OWN_STATE = "sharpness_aware"


@dataclass(frozen=True, slots=True)
class LastStep:
    """What the last step did. Tensors are 0-dimensional and on the device.

    perturbation_norm: l2 norm of e; perturbed_loss: mean loss at w + e, None without ascent;
    gradient_evaluations: full forward and backward passes over the batch;
    perturbed: number of scalar parameters that were moved;
    skipped: 1 where a gradient was not finite, so that nothing was updated, else 0.
    """

    perturbation_norm: Tensor
    perturbed_loss: Tensor | None
    gradient_evaluations: float
    perturbed: int
    skipped: Tensor


class _Target(NamedTuple):
    """A parameter of the subset, and the group of the base optimizer that holds its rho."""

    name: str
    parameter: nn.Parameter
    is_bias: bool
    group: dict[str, Any]


class SharpnessAware(Optimizer):
    """A base optimizer made sharpness-aware.

    base_optimizer: an optimizer object over parameters of `model`; its groups and state are shared,
    and each group holds its own `rho`. variant, perturb: words of catalog.py. rho: radius, finite
    and >= 0, None for the variant none. options: those that catalog.py declares for the variant.

    Raises ValueError for words, options and numbers that are not allowed and for a subset that is
    empty, TypeError for a base optimizer that is not an optimizer object.
    """

    def __init__(
        self,
        model: nn.Module,
        base_optimizer: Optimizer,
        variant: str = "sam",
        perturb: str = "all",
        rho: float | None = None,
        **options: Any,
    ) -> None:
        _check_base(base_optimizer)
        check_rho(variant, rho)
        self.model = model
        self.base_optimizer = base_optimizer
        self.variant = variant
        self.perturb = perturb
        self.options = complete_options(variant, options)
        self.epoch: int | None = None
        self.epochs: int | None = None
        geometry = preset_of(variant).geometry
        self._geometry = None if geometry is None else GEOMETRIES[geometry]
        self._statistics = RunningStatistics(model)
        self._last_step: LastStep | None = None
        # What Optimizer.__init__ sets up, but for groups and state, which are the base's.
        own = {} if rho is None else {"rho": rho}
        self.__setstate__({"defaults": base_optimizer.defaults | own})
        self._adopt()
        base_optimizer.register_load_state_dict_post_hook(lambda _: self._adopt())
        if self._geometry and not any(t.parameter.requires_grad for t in self._targets):
            raise ValueError(
                f"{nothing_selected(model, perturb)}; only parameters in the groups of the base "
                "optimizer count"
            )

    def step(  # type: ignore[override]
        self,
        loss_fn: LossFunction,
        batch: Batch,
        *,
        scaler: GradScaler | None = None,
        clip_norm: float | None = None,
        accumulate: int = 1,
    ) -> Tensor:
        """One update of the weights; returns the mean loss at w, a detached scalar on the device.

        loss_fn(batch): one forward pass, losses [n] or their mean. batch: a tensor or a tuple of
        tensors [n, ...]. scaler: scales both losses, and is updated. clip_norm: largest l2 norm of
        the gradient that the base optimizer gets. accumulate: slices of both passes.
        If a pass raises or a gradient is not finite, weights and optimizer state stay as they are.
        """
        if len(self.param_groups) != self._known_groups:
            self._adopt()
        slices = cut(batch, accumulate)
        with torch.enable_grad():
            if self._geometry is None:
                loss = self._descend(loss_fn, slices, scaler)
                norm, perturbed_loss, moved = loss.new_zeros(()), None, 0
            else:
                targets = [t for t in self._targets if t.parameter.requires_grad]
                weights: list[Tensor] = [t.parameter for t in targets]
                moved = sum(w.numel() for w in weights)
                with self._pass_statistics("first"), frozen(self._resting):
                    loss, ascent = gradients(loss_fn, slices, weights, scaler)
                shift, norm = self._ascend(ascent, weights, targets)
                with self._pass_statistics("second"), shifted(weights, shift):
                    perturbed_loss = self._descend(loss_fn, slices, scaler)
        skipped = self._update(norm, scaler, clip_norm)
        passes = 1.0 if perturbed_loss is None else 2.0
        self._last_step = LastStep(norm, perturbed_loss, passes, moved, skipped)
        return loss

    @property
    def last_step(self) -> LastStep:
        """What the last step did; RuntimeError before the first."""
        if self._last_step is None:
            raise RuntimeError("no step was taken yet; call step(loss_fn, batch) first")
        return self._last_step

    def begin_epoch(self, epoch: int, epochs: int, samples: Any = None) -> None:
        """Tell which epoch starts, counted from 0, and how many there are.

        samples: an iterable of training batches without augmentation, for variants that look at
        the training data. Raises ValueError unless 0 <= epoch < epochs.
        """
        if not 0 <= epoch < epochs:
            raise ValueError(f"epoch must be from 0 to epochs - 1; got epoch {epoch} of {epochs}")
        self.epoch, self.epochs = epoch, epochs

    def mask(self, name: str) -> Tensor | None:
        """Boolean mask of the perturbed elements of the parameter `name`, None for all of them.

        Raises KeyError for a parameter that is not perturbed.
        """
        names = [t.name for t in self._targets if t.parameter.requires_grad]
        if name not in names:
            raise KeyError(
                f"{name!r} is not a perturbed parameter (variant {self.variant}, perturb "
                f"{self.perturb}); perturbed: {', '.join(names) or 'none'}"
            )
        return None

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group to the base optimizer; it gets the default rho unless it names its own."""
        self.base_optimizer.add_param_group(param_group)
        self._adopt()

    def state_dict(self) -> dict[str, Any]:
        """State of the base optimizer, and what else an exact resume needs."""
        own = {
            "variant": self.variant,
            "perturb": self.perturb,
            "epoch": self.epoch,
            "epochs": self.epochs,
        }
        return {**self.base_optimizer.state_dict(), _OWN_STATE: own}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from `state_dict`; ValueError if it is of another variant or subset."""
        own = state_dict.get(_OWN_STATE)
        if own is None:
            raise ValueError(f"not the state of a SharpnessAware: it has no key {_OWN_STATE!r}")
        for key in ("variant", "perturb"):
            if own[key] != getattr(self, key):
                raise ValueError(
                    f"the state is of {key} {own[key]!r}, this optimizer of {getattr(self, key)!r}"
                )
        base = {key: value for key, value in state_dict.items() if key != _OWN_STATE}
        self.base_optimizer.load_state_dict(base)
        self.epoch, self.epochs = own["epoch"], own["epochs"]

    def __repr__(self) -> str:
        options = "".join(f", {key}={value!r}" for key, value in self.options.items())
        return (
            f"SharpnessAware(variant={self.variant!r}, perturb={self.perturb!r}{options}, "
            f"base_optimizer={self.base_optimizer!r})"
        )

    def _adopt(self) -> None:
        """Share groups and state of the base optimizer and look up what is perturbed."""
        self.param_groups = self.base_optimizer.param_groups
        self.state = self.base_optimizer.state
        self._known_groups = len(self.param_groups)
        if "rho" in self.defaults:
            for group in self.param_groups:
                group.setdefault("rho", self.defaults["rho"])
        group_of = {p: group for group in self.param_groups for p in group["params"]}
        chosen = select(self.model, self.perturb) if self._geometry else []
        self._targets = [
            _Target(name, p, name.rpartition(".")[2] == "bias", group_of[p])
            for name, p in chosen
            if p in group_of
        ]
        moving = {t.parameter for t in self._targets}
        self._resting = {*self.model.parameters(), *group_of} - moving
        self._stepped: set[Tensor] = set()

    def _pass_statistics(self, which: str) -> AbstractContextManager[None]:
        updating = {"first": ("first",), "both": ("first", "second"), "none": ()}
        if which in updating[self.options["bn_statistics"]]:
            return nullcontext()
        return self._statistics.paused()

    @torch.no_grad()
    def _ascend(
        self, ascent: Tensors, weights: Tensors, targets: list[_Target]
    ) -> tuple[Tensors, Tensor]:
        """The perturbation of each target, and its l2 norm over all of them."""
        assert self._geometry is not None
        shift = self._geometry(ascent, weights, [t.is_bias for t in targets], self.options)
        torch._foreach_mul_(shift, [t.group["rho"] for t in targets])
        norm = global_norm(shift)
        if self.options["bn_statistics"] == "both":
            # The second pass would leave NaN in the statistics, though the step is skipped.
            for part in shift:
                part.nan_to_num_(0.0, 0.0, 0.0)
        return shift, norm

    def _descend(
        self, loss_fn: LossFunction, slices: list[Slice], scaler: GradScaler | None
    ) -> Tensor:
        """Mean loss at the present weights; its gradient, scaled, is in `.grad`."""
        self.zero_grad()

        def backward(loss: Tensor) -> None:
            scaled = loss if scaler is None else scaler.scale(loss)
            scaled.backward()  # type: ignore[no-untyped-call]

        return mean_loss(loss_fn, slices, backward)

    @torch.no_grad()
    def _update(
        self, ascent_norm: Tensor, scaler: GradScaler | None, clip_norm: float | None
    ) -> Tensor:
        """Base step with the gradient in `.grad`, unless it or the ascent was not finite."""
        base = self.base_optimizer
        having = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        grads = [p.grad for p in having]
        skipped = torch.isfinite(ascent_norm).logical_not().float()
        if scaler is not None:
            if grads:
                # The scaler judges by gradients alone; x * 0 is NaN where x is not finite.
                grads[0].add_(ascent_norm * 0)
            scaler.unscale_(base)
        if grads:
            torch._amp_foreach_non_finite_check_and_unscale_(
                grads, skipped, torch.ones_like(skipped)
            )
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
        torch.clear_autocast_cache()
        if scaler is not None:
            scaler.update()
        return skipped


def _check_base(base: object) -> None:
    if isinstance(base, type):
        raise TypeError(
            f"base_optimizer must be an optimizer object, got the class {base.__name__}; build it "
            f"first: {base.__name__}(model.parameters(), lr=...)"
        )
    if not isinstance(base, Optimizer) or isinstance(base, SharpnessAware):
        raise TypeError(
            f"base_optimizer must be an optimizer of torch.optim, got {type(base).__name__}"
        )
