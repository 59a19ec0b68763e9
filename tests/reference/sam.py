"""SAM and ASAM with SGD, written from the formulas one parameter at a time, slow and obvious."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

Arrays = dict[str, NDArray[np.float64]]
Gradient = Callable[[Arrays], Arrays]


def gradient_of(
    model: torch.nn.Module, loss_fn: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor
) -> Gradient:
    """The gradient of mean(loss_fn(model(x))) as a function of named weights."""

    def gradient(weights: Arrays) -> Arrays:
        leaves = {k: torch.tensor(v, requires_grad=True) for k, v in weights.items()}
        loss = loss_fn(torch.func.functional_call(model, leaves, (x,))).mean()
        found = torch.autograd.grad(loss, list(leaves.values()))
        return {k: g.numpy() for k, g in zip(leaves, found, strict=True)}

    return gradient


def perturbation(
    variant: str,
    weights: Arrays,
    gradient: Arrays,
    subset: Iterable[str],
    rho: float,
    eta: float = 0.0,
    normalize_bias: bool = True,
) -> Arrays:
    """e for each name in `subset`."""
    scale = {}
    for name in subset:
        if variant == "sam" or (name.endswith("bias") and not normalize_bias):
            scale[name] = np.ones_like(weights[name])
        else:
            scale[name] = np.abs(weights[name]) + eta
    length = np.sqrt(sum(np.sum((scale[k] * gradient[k]) ** 2) for k in scale))
    return {k: rho * scale[k] ** 2 * gradient[k] / length for k in scale}


def train(
    weights: Mapping[str, NDArray[np.float64]],
    gradients: Sequence[Gradient],
    variant: str,
    subset: Sequence[str],
    rho: float,
    *,
    lr: float,
    momentum: float,
    weight_decay: float,
    eta: float = 0.0,
    normalize_bias: bool = True,
) -> Arrays:
    """Weights after one step for each of `gradients`."""
    now = {k: v.copy() for k, v in weights.items()}
    velocity: Arrays = {}
    for gradient in gradients:
        at = {k: v.copy() for k, v in now.items()}
        if variant != "none":
            moved = perturbation(variant, now, gradient(now), subset, rho, eta, normalize_bias)
            for name, e in moved.items():
                at[name] = now[name] + e
        descent = gradient(at)
        for name, w in now.items():
            g = descent[name] + weight_decay * w
            velocity[name] = momentum * velocity[name] + g if name in velocity else g
            now[name] = w - lr * velocity[name]
    return now
