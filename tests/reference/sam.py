"""Training with every variant of docs/variants.md, written from the formulas, slow and obvious."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tests.reference.ascent import Run, plain
from tests.reference.geometry import Array, Arrays
from tests.reference.problem import SGD, Batch, Problem
from tests.reference.variants import VARIANTS

OF_THE_RUN = (
    *("geometry", "eta", "normalize_bias", "radius", "ascent", "ascent_precision"),
    *("m", "bn_statistics"),
)


@dataclass(frozen=True)
class Trained:
    """Weights after the last step, the loss each step reports, running statistics at the end."""

    weights: Arrays
    losses: list[float]
    statistics: dict[str, torch.Tensor]


def train(
    problem: Problem,
    batches: Sequence[Batch],
    variant: str,
    subset: Mapping[str, Array | bool],
    *,
    rho: float = 0.0,
    lr: float | Sequence[float],
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    when: Sequence[tuple[int, int]] = (),
    draws: Iterable[Any] = (),
    samples: Sequence[Batch] = (),
    **options: Any,
) -> Trained:
    """One step a batch.

    subset: a mask of 0 and 1, or True, for each perturbed tensor. lr: one, or one a step.
    when: (epoch, epochs) of each step; all in epoch 0 of 1 where absent.
    draws: for `random` named arrays a step; for esam the kept names a step; for ssam_d one
    row of numbers over all elements for the first mask and one for each growth.
    samples: batches from which ssam_f takes its samples.
    """
    variant_step, preset = VARIANTS[variant]
    options = {**preset, **options}
    start = problem.start()
    rates = [lr] * len(batches) if isinstance(lr, (int, float)) else list(lr)
    run = Run(
        problem,
        SGD(momentum, weight_decay),
        start,
        {k: np.ones_like(start[k]) if m is True else np.asarray(m) for k, m in subset.items()},
        rho,
        rates[0],
        iter(draws),
        samples,
        **{k: options.pop(k) for k in OF_THE_RUN if k in options},
    )
    every = options.pop("every", 1)
    first_epoch, end_epoch = options.pop("start_epoch", 0), options.pop("end_epoch", math.inf)
    schedule, rho_end = options.pop("rho_schedule", "constant"), options.pop("rho_end", 0.0)
    when = when or [(0, 1)] * len(batches)
    losses = []
    for step, batch in enumerate(batches):
        run.step, run.lr = step, rates[step]
        run.epoch, run.epochs = when[step]
        run.first_of_epoch = step == 0 or when[step] != when[step - 1]
        p = run.epoch / (run.epochs - 1) if run.epochs > 1 else 0.0
        run.rho = rho * rho_share(schedule, rho_end, p, run.lr / rates[0])
        if step % every == 0 and first_epoch <= run.epoch < end_epoch:
            variant_step(run, batch, **options)
        else:
            run.descend(plain(run, batch))
        losses.append(run.loss)
    return Trained(run.w, losses, problem.statistics)


def rho_share(schedule: str, rho_end: float, p: float, lr_share: float) -> float:
    """The share of rho at progress p, where the learning rate is this share of its start."""
    return {
        "constant": 1.0,
        "linear": 1 - p + p * rho_end,
        "cosine": rho_end + (1 - rho_end) * (1 + math.cos(math.pi * p)) / 2,
        "lr": rho_end + (1 - rho_end) * lr_share,
    }[schedule]
