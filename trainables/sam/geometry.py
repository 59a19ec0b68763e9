"""How the ascent gradient becomes a perturbation: pure functions of gradients and weights.

A geometry takes the gradients and weights of the perturbed parameters, a flag for each that says
whether it is a bias, and the variant's options. It returns the direction d of the perturbation
e = rho d, one new tensor for each parameter. A zero gradient gives a zero direction, and nothing is
added to a denominator, so the norm that the catalog declares equals rho to rounding.
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

    In this and every geometry with a T, it is 1 on biases without normalize_bias.
    """
    return _scaled(gradients, _elements(weights, biases, options))


def elementwise_linf(
    gradients: Tensors, weights: Tensors, biases: Sequence[bool], options: Mapping[str, Any]
) -> Tensors:
    """d = T sign(g), T = |w| + eta (Mueller et al., arXiv 2306.04226)."""
    # A sign of NaN would be NaN too, one of infinity would be 1 and hide it.
    signs = [g.sign().add_(g * 0) for g in gradients]
    return torch._foreach_mul(signs, _elements(weights, biases, options))


def layer(
    gradients: Tensors, weights: Tensors, biases: Sequence[bool], options: Mapping[str, Any]
) -> Tensors:
    """d = T^2 g / ||T g||, T = ||w_l|| (1 + eta) for each tensor w_l (arXiv 2306.04226)."""
    scales = torch._foreach_norm(weights)
    torch._foreach_mul_(scales, 1 + options["eta"])
    return _scaled(gradients, _but_for_biases(scales, biases, options))


def filter_(
    gradients: Tensors, weights: Tensors, biases: Sequence[bool], options: Mapping[str, Any]
) -> Tensors:
    """d = T^2 g / ||T g||, T = ||w_f|| + eta for each filter of a convolution, |w| + eta in other
    tensors (Kwon et al., arXiv 2102.11600, section 3)."""
    scales = [
        torch.linalg.vector_norm(w, dim=tuple(range(1, w.ndim)), keepdim=True)
        if w.ndim > 2
        else w.abs()
        for w in weights
    ]
    torch._foreach_add_(scales, options["eta"])
    return _scaled(gradients, _but_for_biases(scales, biases, options))


def fisher(
    gradients: Tensors, weights: Tensors, biases: Sequence[bool], options: Mapping[str, Any]
) -> Tensors:
    """d = F^-1 g / ||F^-1/2 g||, F = 1 + eta g^2 (Kim et al., arXiv 2206.04920)."""
    information = torch._foreach_mul(gradients, gradients)
    torch._foreach_mul_(information, options["eta"])
    torch._foreach_add_(information, 1.0)
    length = global_norm(torch._foreach_div(gradients, torch._foreach_sqrt(information)))
    return _over(torch._foreach_div(gradients, information), length)


GEOMETRIES: Mapping[str, Geometry] = {
    "l2": l2,
    "elementwise": elementwise,
    "elementwise_linf": elementwise_linf,
    "layer": layer,
    "filter": filter_,
    "fisher": fisher,
}


def global_norm(tensors: Tensors) -> Tensor:
    """l2 norm over all elements of all tensors, 0-dimensional.

    Summed in float64 (where the device has it), so that neither the squares of small float32
    gradients vanish nor those of large ones overflow.
    """
    wide = torch.float32 if tensors[0].device.type == "mps" else torch.float64
    return torch.stack(torch._foreach_norm(tensors, 2, dtype=wide)).square().sum().sqrt()


def _scaled(gradients: Tensors, scales: Tensors) -> Tensors:
    scaled = torch._foreach_mul(gradients, scales)
    return _over(torch._foreach_mul(scaled, scales), global_norm(scaled))


def _elements(weights: Tensors, biases: Sequence[bool], options: Mapping[str, Any]) -> Tensors:
    """T = |w| + eta."""
    scales = torch._foreach_abs(weights)
    torch._foreach_add_(scales, options["eta"])
    return _but_for_biases(scales, biases, options)


def _but_for_biases(scales: Tensors, biases: Sequence[bool], options: Mapping[str, Any]) -> Tensors:
    if not options["normalize_bias"]:
        for scale, bias in zip(scales, biases, strict=True):
            if bias:
                scale.fill_(1.0)
    return scales


def _over(vector: Tensors, norm: Tensor) -> Tensors:
    # NaN compares as not equal to 0, so a gradient that is not finite stays not finite.
    return torch._foreach_mul(vector, torch.where(norm == 0, 0.0, 1 / norm))
