"""How the ascent gradient becomes a perturbation: pure functions of gradients and weights.

A geometry takes the gradients and weights of the perturbed parameters, a flag for each that says
whether it is a bias, and the variant's options. It returns the direction d of the perturbation
e = rho d, one new tensor for each parameter. A zero gradient gives a zero direction, and nothing is
added to a denominator, so the norm that catalog.py declares equals rho to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

Tensors: TypeAlias = tuple[Tensor, ...] | list[Tensor]
Geometry: TypeAlias = Callable[[Tensors, Tensors, Sequence[bool], Mapping[str, Any]], Tensors]


def l2(
    gradients: Tensors, weights: Tensors, biases: Sequence[bool], options: Mapping[str, Any]
) -> Tensors:
    """d = g / ||g|| (Foret et al., arXiv 2010.01412, equation 2)."""
    return _over(gradients, global_norm(gradients))


def elementwise(
    gradients: Tensors, weights: Tensors, biases: Sequence[bool], options: Mapping[str, Any]
) -> Tensors:
    """d = T^2 g / ||T g||, T = |w| + eta (Kwon et al., arXiv 2102.11600, equation 3, section 3).

    Without normalize_bias T is 1 on biases.
    """
    scales = torch._foreach_abs(weights)
    torch._foreach_add_(scales, options["eta"])
    if not options["normalize_bias"]:
        for scale, bias in zip(scales, biases, strict=True):
            if bias:
                scale.fill_(1.0)
    scaled = torch._foreach_mul(scales, gradients)
    return _over(torch._foreach_mul(scales, scaled), global_norm(scaled))


GEOMETRIES: Mapping[str, Geometry] = {"l2": l2, "elementwise": elementwise}


def global_norm(tensors: Tensors) -> Tensor:
    """l2 norm over all elements of all tensors, 0-dimensional.

    Summed in float64 (where the device has it), so that neither the squares of small float32
    gradients vanish nor those of large ones overflow.
    """
    wide = torch.float32 if tensors[0].device.type == "mps" else torch.float64
    return torch.stack(torch._foreach_norm(tensors, 2, dtype=wide)).square().sum().sqrt()


def _over(vector: Tensors, norm: Tensor) -> Tensors:
    # NaN compares as not equal to 0, so a gradient that is not finite stays not finite.
    return torch._foreach_mul(vector, torch.where(norm == 0, 0.0, 1 / norm))
