"""The optimizer: passes at w and at w + e, a base step from w.

A variant is an entry in catalog.VARIANTS over orthogonal parts, each a small function:
- which parameters move: subsets,
- where the ascent direction comes from: one function in ascents.ASCENTS,
- how it becomes a perturbation: one function in geometry.GEOMETRIES,
- which gradient the base optimizer gets: one function in updates.UPDATES,
- whether it is applied: base_step, which knows neither variant nor subset.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import SGD, Optimizer

from trainables.catalog import geometry
from trainables.catalog.subsets import Perturb, canonical
from trainables.sam.base_step import BaseStep
from trainables.sam.batchnorm import RunningStatistics
from trainables.sam.cosine import watched
from trainables.sam.dynamic import first_masks, fisher_of, masked_targets, masks_of
from trainables.sam.masks import top
from trainables.sam.memory import kept, on_device
from trainables.sam.passes import Batch, LossFunction, Slice, chunks
from trainables.sam.presets import check_precision, check_rho, complete_options, preset_of
from trainables.sam.replicas import Replicas, unwrapped
from trainables.sam.reuse import Reuse
from trainables.sam.schedules import Epoch, perturbs
from trainables.sam.step import Memory, Outcome, Parts, Step, Target
from trainables.sam.subsets import Selection, fill_fisher, nothing_selected, selection
from trainables.sam.updates import UPDATES, base

_OWN_STATE = "sharpness_aware"
_FISHER_SAMPLES = 1024
"""Training samples that score the elements of top_fisher."""


@dataclass(frozen=True, slots=True)
class LastStep:
    """What the last step did. Tensors are 0-dimensional and on the device.

    perturbation_norm: l2 norm of e; perturbed_loss: mean loss at w + e, None without ascent;
    gradient_evaluations: full forward and backward passes over the batch;
    perturbed: number of scalar parameters that were moved;
    skipped: 1 where a gradient was not finite, so that nothing was updated, else 0;
    cosine: between the gradients at w and at w + e over what is perturbed, None unless asked for.
    """

    perturbation_norm: Tensor
    perturbed_loss: Tensor | None
    gradient_evaluations: float
    perturbed: int
    skipped: Tensor
    cosine: Tensor | None = None


class SharpnessAware(Optimizer):
    """A base optimizer made sharpness-aware.

    base_optimizer: an optimizer object over parameters of `model`; its groups and state are shared,
    and each group holds its own `rho`. variant, perturb: words of the catalog. rho: radius, finite
    and >= 0, None for the variant none. generator: draws whatever is random, on the CPU; default a
    new one with seed 0. options: those that the catalog declares for the variant. A model in
    DistributedDataParallel is averaged over its replicas here, not by its hooks; `m` and the batch
    are then those of one replica. diagnose: whether last_step tells the cosine.

    Raises ValueError for words, options and numbers that are not allowed and for a subset that is
    empty, TypeError for a base optimizer that is not an optimizer object.
    """

    def __init__(
        self,
        model: nn.Module,
        base_optimizer: Optimizer,
        variant: str = "sam",
        perturb: Perturb = "all",
        rho: float | None = None,
        *,
        generator: torch.Generator | None = None,
        **options: Any,
    ) -> None:
        _check_base(base_optimizer)
        check_rho(variant, rho)
        self.base_optimizer = base_optimizer
        self.variant = variant
        self.perturb = canonical(perturb)
        self.options = complete_options(variant, options)
        self._given = options
        self.generator = torch.Generator().manual_seed(0) if generator is None else generator
        self.epoch: int | None = None
        self.epochs: int | None = None
        self.diagnose = False
        self._preset = preset_of(variant)
        self._replicas = Replicas(model)
        if self._preset.geometry is not None:
            self._replicas.share_batchnorm(self.options.get("m"))
        self.model = unwrapped(model)
        self._statistics = RunningStatistics(self.model)
        self._reuse = Reuse(self.model)
        self._steps = 0
        self._memory: Memory = {}
        self._selection: Selection | None = None
        if self._preset.geometry is not None:
            self._selection = selection(self.model, self.perturb, self.generator)
            self._memory["masks"] = masks_of(self._selection)
        self._last_step: LastStep | None = None
        # What Optimizer.__init__ sets up, but for groups and state, which are the base's.
        own = {} if rho is None else {"rho": rho}
        self.__setstate__({"defaults": base_optimizer.defaults | own})
        self._adopt()
        base_optimizer.register_load_state_dict_post_hook(lambda _: self._adopt())
        if self._preset.geometry is not None:
            self._check()

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
        Raises ValueError where `m` does not divide the batch, RuntimeError where the variant or an
        option needs `begin_epoch` first.
        """
        pieces = chunks(batch, self.options.get("m"), accumulate)
        step = self.prepare(loss_fn, pieces, scaler)
        with torch.enable_grad():
            outcome = (UPDATES[self._preset.update] if step.active else base)(step)
        return self.conclude(step, outcome, scaler, clip_norm)

    def prepare(
        self, loss_fn: LossFunction, pieces: list[list[Slice]], scaler: GradScaler | None = None
    ) -> Step:
        """First part of `step`: all that a variant needs for its passes. pieces: as of chunks."""
        if len(self.param_groups) != self._known_groups:
            self._adopt()
        if scaler is not None and not self._preset.takes_scaler:
            raise ValueError(f"variant {self.variant!r} takes no scaler")
        epoch = None if self.epoch is None or self.epochs is None else (self.epoch, self.epochs)
        self._check_told(epoch)
        active = self._preset.geometry is not None and perturbs(self.options, epoch, self._steps)
        parts = self._parts(active)
        return Step(parts, loss_fn, pieces, scaler, self._memory, self._steps, epoch, active)

    def conclude(
        self,
        step: Step,
        outcome: Outcome,
        scaler: GradScaler | None = None,
        clip_norm: float | None = None,
    ) -> Tensor:
        """Last part of `step`, after the passes of a variant; whoever made them left the gradient
        in `.grad`."""
        parts = step.parts
        self._opt_called = True  # schedulers want to see it, and watch `step` alone
        self._reuse.forget()
        self._agree(outcome)
        cosine = watched(outcome, parts.targets) if self.diagnose else []
        skipped, memory = self._base_step.apply(
            outcome, parts.learning, step.used, scaler, clip_norm
        )
        self._remember({**outcome.memory, **memory}, skipped)
        self._steps += 1
        moved = self._memory.get("size", sum(t.elements for t in parts.targets))
        self._last_step = LastStep(
            outcome.norm,
            outcome.perturbed_loss,
            step.evaluations,
            moved if step.active else 0,
            skipped,
            cosine[0] if cosine else None,
        )
        return outcome.loss

    @property
    def last_step(self) -> LastStep:
        """What the last step did; RuntimeError before the first."""
        if self._last_step is None:
            raise RuntimeError("no step was taken yet; call step(loss_fn, batch) first")
        return self._last_step

    def begin_epoch(
        self,
        epoch: int,
        epochs: int,
        samples: Iterable[Batch] | None = None,
        loss_fn: LossFunction | None = None,
    ) -> None:
        """Tell which epoch starts, counted from 0, and how many there are.

        samples: an iterable of training batches without augmentation, and loss_fn as of `step`, for
        what looks at the training data. Raises ValueError unless 0 <= epoch < epochs, RuntimeError
        where samples are needed and were not given.
        """
        if not 0 <= epoch < epochs:
            raise ValueError(f"epoch must be from 0 to epochs - 1; got epoch {epoch} of {epochs}")
        self.epoch, self.epochs = epoch, epochs
        if self._preset.perturb_all:
            due = epoch % self.options["refresh"] == 0
            self._memory["refresh_due"] = due
            if due and self.variant == "ssam_f":
                scores = fisher_of(self, self.options["fisher_samples"], samples, loss_fn)
                learning = self._parts(active=False).learning
                best = top([scores[t.name] for t in learning], self._memory["size"])
                self._memory["mask"] = best
        if self._pending:
            assert self._selection is not None
            found = fisher_of(self, _FISHER_SAMPLES, samples, loss_fn)
            self._memory["masks"] = masks_of(fill_fisher(self._selection, list(found.values())))

    def mask(self, name: str) -> Tensor | None:
        """Boolean mask of the perturbed elements of the parameter `name`, None for all of them.

        Raises KeyError for a parameter that is not perturbed.
        """
        masks = {t.name: t.mask for t in self._parts(active=True).targets}
        if name not in masks:
            raise KeyError(
                f"{name!r} is not a perturbed parameter (variant {self.variant}, perturb "
                f"{self.perturb}); perturbed: {', '.join(masks) or 'none'}"
            )
        return masks[name]

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
            "steps": self._steps,
            "memory": dict(self._memory),
            "generator": self.generator.get_state(),
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
        base_state = {key: value for key, value in state_dict.items() if key != _OWN_STATE}
        self.base_optimizer.load_state_dict(base_state)
        self.epoch, self.epochs = own["epoch"], own["epochs"]
        self._steps = own["steps"]
        device = self.param_groups[0]["params"][0].device
        self._memory = on_device(own["memory"], device)
        self.generator.set_state(own["generator"].cpu())

    def __repr__(self) -> str:
        options = "".join(f", {key}={value!r}" for key, value in self._given.items())
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
        if self.options.get("rho_schedule") == "lr":
            for group in self.param_groups:
                group.setdefault("initial_lr", group["lr"])
        group_of = {p: group for group in self.param_groups for p in group["params"]}
        names = {p: name for name, p in self.model.named_parameters()}
        self._all = [
            Target(name := names.get(p, ""), p, name.rpartition(".")[2] == "bias", group, p.numel())
            for p, group in group_of.items()
        ]
        order = {p: position for position, p in enumerate(self.model.parameters())}
        self._all.sort(key=lambda t: order.get(t.parameter, len(order)))
        self._every = list(dict.fromkeys((*self.model.parameters(), *group_of)))
        self._base_step = BaseStep(self.base_optimizer, self._replicas)

    def _parts(self, active: bool) -> Parts:
        learning = [t for t in self._all if t.parameter.requires_grad]
        targets: list[Target] = []
        if active and "mask" in self._memory:
            masks = self._memory["mask"]
            targets = [t._replace(mask=m) for t, m in zip(learning, masks, strict=True)]
        elif active:
            targets = masked_targets(learning, self._memory.get("masks", {}))
        ascent = self.options.get("ascent", self._preset.ascent).partition(":")[0]
        return Parts(
            self.base_optimizer,
            ascent,
            geometry(self.variant, self.options) or "",
            self.options,
            learning,
            targets,
            self._every,
            self._statistics,
            self._reuse,
            self._replicas,
            self.generator,
        )

    def _check(self) -> None:
        """Raise ValueError for a subset, base optimizer or option that does not fit."""
        check_precision(self.options, {t.name: t.parameter for t in self._all})
        targets = self._parts(active=True).targets
        if not targets and not self._pending:
            raise ValueError(
                f"{nothing_selected(self.model, self.perturb)}; only parameters in the groups of "
                "the base optimizer count"
            )
        if self._preset.perturb_all and self.perturb != "all":
            raise ValueError(
                f"variant {self.variant!r} chooses itself what to perturb; perturb must be 'all', "
                f"got {self.perturb!r}"
            )
        if self._parts(active=True).ascent == "momentum" and not (
            isinstance(self.base_optimizer, SGD)
            and all(group["momentum"] > 0 for group in self.param_groups)
        ):
            raise ValueError(
                "an ascent along the momentum needs torch.optim.SGD with momentum > 0 as its base, "
                f"got {type(self.base_optimizer).__name__}"
            )
        if self._preset.perturb_all:
            self._memory |= first_masks(self, [t.parameter for t in targets])

    @property
    def _pending(self) -> bool:
        """Whether what is perturbed waits for training data."""
        return self._selection is not None and self._selection.pending and not self._memory["masks"]

    def _check_told(self, epoch: Epoch | None) -> None:
        """Raise RuntimeError where the variant needs `begin_epoch` and nobody called it."""
        needed = self._preset.reads_epoch or self.options.get("ire_start", 0) > 0 or self._pending
        if epoch is None and needed:
            raise RuntimeError(
                f"variant {self.variant!r} needs to know the epoch: call begin_epoch(epoch, "
                "epochs) before the first step of each"
            )

    def _agree(self, outcome: Outcome) -> None:
        """Averages over replicas what is told of a step, and what it changed without a gradient."""
        if self._replicas.count == 1:
            return
        told = [outcome.loss, outcome.norm, outcome.perturbed_loss]
        self._replicas.average([x for x in told if x is not None])
        self._replicas.average(self._statistics.moving())
        if self.options.get("m") is not None:
            for value in outcome.memory.values():
                if isinstance(value, list):
                    self._replicas.average([x for x in value if x.is_floating_point()])

    def _remember(self, memory: Memory, skipped: Tensor) -> None:
        """Keeps what a step wants to remember, unless it was skipped."""
        for key, value in memory.items():
            self._memory[key] = kept(self._memory.get(key), value, skipped)


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
