"""What a training optimizes with: what learns, what moves, optimizer, schedule, precision."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.amp import GradScaler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    LambdaLR,
    LinearLR,
    LRScheduler,
    MultiStepLR,
    SequentialLR,
)

from trainables.catalog import OPTIMIZERS, SCHEDULES, VARIANTS, Choice
from trainables.sam.dynamic import mask_size
from trainables.sam.presets import complete_options
from trainables.sam.subsets import norm_parameters, perturbed_elements

if TYPE_CHECKING:
    from timm.utils.model_ema import ModelEmaV3

    from trainables.config import Config


def freeze(model: nn.Module, train: str) -> None:
    """Freezes all parameters but those that learn: `all`, `norm` (of normalization layers) or
    `no_norm`. Raises ValueError for another word, and where nothing is left to learn."""
    if train not in ("all", "norm", "no_norm"):
        raise ValueError(f"unknown part to train {train!r}; allowed: all, norm, no_norm")
    of_norm = norm_parameters(model)
    for parameter in model.parameters():
        if train != "all" and (parameter in of_norm) != (train == "norm"):
            parameter.requires_grad = False
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(f"train={train!r} leaves {type(model).__name__} nothing to learn")


def base_optimizer(model: nn.Module, config: Config) -> Optimizer:
    """The optimizer of the trainable parameters. Raises ValueError for an unknown one."""
    own = _own(OPTIMIZERS, config.optimizer, config)
    groups = list(_groups(model, config))
    common: dict[str, Any] = {"lr": config.lr, "weight_decay": config.weight_decay}
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, fused=True, **own, **common)
    betas = own["beta1"], own["beta2"]
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, betas=betas, fused=True, **common)
    from timm.optim import Lion  # imports all of timm

    lion: Optimizer = Lion(groups, betas=betas, **common)
    return lion


def schedule(optimizer: Optimizer, config: Config, steps: int) -> LRScheduler:
    """The learning rate of each epoch, or of each step: to be stepped after it.

    steps: of an epoch. The first `warmup` epochs rise linearly: the i-th of W rates is (i + 1) / W
    of lr. The cosine begins after them; milestones are shares of all epochs. Raises ValueError for
    an unknown schedule.
    """
    own = _own(SCHEDULES, config.schedule, config)
    units = steps if config.schedule_per == "step" else 1
    total = units * config.epochs
    warmup = max(1, round(units * config.warmup)) if config.warmup else 0
    main: LRScheduler
    if config.schedule == "cosine":
        main = CosineAnnealingLR(optimizer, T_max=max(1, total - warmup))
    elif config.schedule == "multistep":
        # Rounded first, because 0.7 * 10 is a little above 7.
        milestones = [math.ceil(round(share * total, 6)) for share in own["milestones"]]
        main = MultiStepLR(optimizer, [m - warmup for m in milestones], own["gamma"])
    else:
        main = LambdaLR(optimizer, lambda _: 1.0)
    if not warmup:
        return main
    rise = LinearLR(optimizer, start_factor=1 / warmup, total_iters=warmup - 1)
    return SequentialLR(optimizer, [rise, main], milestones=[warmup])


def perturbed_share(config: Config, model: nn.Module) -> float:
    """Percent of what learns that the ascent step moves, as perturbed_elements counts.

    Raises ValueError for none.
    """
    if VARIANTS[config.variant].geometry is None:
        return 0.0
    if VARIANTS[config.variant].perturb_all:
        options = complete_options(config.variant, config.options)
        moved = mask_size(model, options["density"])
    else:
        moved = perturbed_elements(model, config.perturb)
    return 100 * moved / sum(p.numel() for p in model.parameters() if p.requires_grad)


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """What a forward pass in this precision runs in."""
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=getattr(torch, precision))


def grad_scaler(device: torch.device, precision: str) -> GradScaler | None:
    """What scales losses so that small gradients survive, None where the range has room."""
    return GradScaler(device.type) if precision == "float16" else None


def moving_average(model: nn.Module, decay: float | None) -> ModelEmaV3 | None:
    """The exponential moving average of weights and buffers, to be updated after each step; None
    without decay."""
    if decay is None:
        return None
    from timm.utils.model_ema import ModelEmaV3  # imports all of timm

    return ModelEmaV3(model, decay)


def _own(choices: Mapping[str, Choice], name: str, config: Config) -> dict[str, Any]:
    """What the config says for the keys of an optimizer or schedule, or else their defaults."""
    if name not in choices:
        raise ValueError(f"unknown word {name!r}; allowed: {', '.join(choices)}")
    given = {key: getattr(config, key) for key in choices[name].own}
    return {
        key: default if given[key] is None else given[key]
        for key, default in choices[name].own.items()
    }


def _groups(model: nn.Module, config: Config) -> Iterator[dict[str, Any]]:
    """Parameter groups, none empty: what decays, then what does not."""
    of_norm = norm_parameters(model)
    decaying: list[nn.Parameter] = []
    resting: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        spared = parameter in of_norm or name.rpartition(".")[2] == "bias"
        (resting if spared and not config.decay_norm_and_bias else decaying).append(parameter)
    if decaying:
        yield {"params": decaying}
    if resting:
        yield {"params": resting, "weight_decay": 0.0}
