"""The gradients at w and at w + e of one batch, for every source of the direction a."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from tests.reference.geometry import Arrays, perturbation
from tests.reference.problem import SGD, Batch, Problem

Direction = Callable[[Arrays, Batch], Arrays]
WITHOUT_PASS_AT_W = ("previous", "momentum", "random")


@dataclass
class Run:
    """A training run at one of its steps.

    w: the weights. subset: an array of 0 and 1 for each perturbed tensor.
    first_of_epoch: whether this is the first step of its epoch. rho, lr: those of this step.
    loss: the loss that this step reports. draws: random numbers in their order.
    memory: what a variant keeps between two steps.
    """

    problem: Problem
    base: SGD
    w: Arrays
    subset: Arrays
    rho: float
    lr: float
    draws: Iterator[Any]
    samples: Sequence[Batch]
    geometry: str = "l2"
    eta: float | None = None
    normalize_bias: bool = True
    radius: str = "renormalised"
    ascent: str = "batch"
    ascent_precision: str | None = None
    m: int | None = None
    bn_statistics: str = "first"
    step: int = 0
    epoch: int = 0
    epochs: int = 1
    first_of_epoch: bool = True
    loss: float = 0.0
    memory: dict[str, Any] = field(default_factory=dict)

    def chunks(self, batch: Batch) -> list[Batch]:
        """The batch cut into chunks of m samples."""
        x, y = batch
        size = self.m or len(x)
        return [(x[i : i + size], y[i : i + size]) for i in range(0, len(x), size)]

    def perturbation(
        self, a: Arrays, at: Arrays | None = None, subset: Arrays | None = None
    ) -> Arrays:
        """e at the weights `at` (w) on `subset` (S)."""
        return perturbation(
            self.geometry,
            self.w if at is None else at,
            a,
            self.subset if subset is None else subset,
            self.rho,
            eta=self.eta,
            normalize_bias=self.normalize_bias,
            radius=self.radius,
        )

    def descend(self, u: Arrays) -> None:
        """One step of the base optimizer with u, from w."""
        self.w = self.base.step(self.w, u, self.lr)

    def mean_loss(
        self, passes: Sequence[tuple[Arrays, Batch]], precision: torch.dtype | None = None
    ) -> float:
        """The mean over passes of the mean loss."""
        losses = [self.problem.losses(w, chunk, precision) for w, chunk in passes]
        return float(np.mean([each.mean() for each in losses]))

    @property
    def precision(self) -> torch.dtype | None:
        """That of the pass at w, None where it is that of the weights."""
        return None if self.ascent_precision is None else getattr(torch, self.ascent_precision)


def mean(many: Sequence[Arrays]) -> Arrays:
    """The mean of several sets of arrays."""
    return {k: sum(one[k] for one in many) / len(many) for k in many[0]}  # type: ignore[misc]


def moved(w: Arrays, e: Arrays, share: float = 1.0) -> Arrays:
    """w + share e, where e may lack tensors."""
    return {k: w[k] + share * e[k] if k in e else w[k] for k in w}


def plain(run: Run, batch: Batch) -> Arrays:
    """g, the mean over chunks; the pass updates running statistics."""
    passes = [(run.w, chunk) for chunk in run.chunks(batch)]
    run.loss = run.mean_loss(passes)
    if run.bn_statistics != "none":
        run.problem.update_statistics(passes)
    return mean([run.problem.gradient(w, chunk) for w, chunk in passes])


def ascend(
    run: Run, batch: Batch, direction: Direction | None = None, subset: Arrays | None = None
) -> tuple[Arrays, Arrays]:
    """g and g_p, each a mean over chunks with an e of their own.

    direction: from g and the chunk to a, given by `ascent` where absent.
    """
    direction = direction or source(run)
    w, first, second, gradients, perturbed = run.w, [], [], [], []
    for chunk in run.chunks(batch):
        g = run.problem.gradient(w, chunk, precision=run.precision)
        at = moved(w, run.perturbation(direction(g, chunk), subset=subset))
        first.append((w, chunk))
        second.append((at, chunk))
        gradients.append(g)
        perturbed.append(run.problem.gradient(at, chunk))
    one_pass = run.ascent in WITHOUT_PASS_AT_W
    run.loss = run.mean_loss(second if one_pass else first, run.precision)
    if run.bn_statistics in ("first", "both"):
        run.problem.update_statistics(second if one_pass else first, run.precision)
    if run.bn_statistics == "both" and not one_pass:
        run.problem.update_statistics(second)
    g_p = mean(perturbed)
    run.memory["previous"] = g_p
    return mean(gradients), g_p


def source(run: Run) -> Direction:
    """The direction that the option `ascent` means in this step."""
    zeros = {k: np.zeros_like(w) for k, w in run.w.items()}
    if run.ascent == "batch":
        return lambda g, chunk: g
    if run.ascent.startswith("fraction:"):
        share = float(run.ascent.removeprefix("fraction:"))
        return lambda g, chunk: run.problem.gradient(
            run.w, first_samples(chunk, share), precision=run.precision
        )
    if run.ascent == "previous":
        previous = run.memory.get("previous", zeros)
        return lambda g, chunk: previous
    if run.ascent == "momentum":
        against = {k: -run.base.velocity.get(k, zeros[k]) for k in zeros}
        return lambda g, chunk: against
    if run.ascent == "random":
        drawn = next(run.draws)
        return lambda g, chunk: drawn
    raise AssertionError(run.ascent)


def first_samples(batch: Batch, share: float) -> Batch:
    """The first max(1, round(share n)) of the n samples."""
    x, y = batch
    count = max(1, round(share * len(x)))
    return x[:count], y[:count]
