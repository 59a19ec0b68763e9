"""From a direction to a perturbation, one function a geometry, for named NumPy arrays."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Arrays = dict[str, Array]


def length(arrays: Mapping[str, Array]) -> float:
    """n(.): l2 norm over all elements of all arrays."""
    return float(np.sqrt(sum(np.sum(v**2) for v in arrays.values())))


def inner(a: Arrays, b: Arrays) -> float:
    """<a, b> over all elements of all arrays."""
    return float(sum(np.sum(a[k] * b[k]) for k in a))


def quotient(a: float, b: float) -> float:
    """a / b, 0 where b is 0."""
    return a / b if b != 0 else 0.0


def l2(weights: Arrays, a: Arrays, rho: float, eta: float, normalize_bias: bool) -> Arrays:
    """e = rho a / n(a)"""
    return {k: a[k] * quotient(rho, length(a)) for k in a}


def elementwise(weights: Arrays, a: Arrays, rho: float, eta: float, normalize_bias: bool) -> Arrays:
    """e = rho T^2 a / n(T a), T = abs(w) + eta"""
    scale = {k: np.abs(weights[k]) + eta for k in a}
    return _scaled(scale, a, rho, normalize_bias)


def elementwise_linf(
    weights: Arrays, a: Arrays, rho: float, eta: float, normalize_bias: bool
) -> Arrays:
    """e = rho T sign(a), T = abs(w) + eta"""
    scale = _with_biases({k: np.abs(weights[k]) + eta for k in a}, normalize_bias)
    return {k: rho * scale[k] * np.sign(a[k]) for k in a}


def layer(weights: Arrays, a: Arrays, rho: float, eta: float, normalize_bias: bool) -> Arrays:
    """e = rho T^2 a / n(T a), T = n(w_l) (1 + eta) for each tensor w_l"""
    scale = {k: np.full_like(weights[k], np.linalg.norm(weights[k]) * (1 + eta)) for k in a}
    return _scaled(scale, a, rho, normalize_bias)


def filterwise(weights: Arrays, a: Arrays, rho: float, eta: float, normalize_bias: bool) -> Arrays:
    """e = rho T^2 a / n(T a), T = n(w[i]) + eta in tensors of 3 axes or more, else abs(w) + eta"""
    scale = {}
    for k in a:
        w = weights[k]
        scale[k] = np.abs(w) + eta
        if w.ndim >= 3:
            for i in range(len(w)):
                scale[k][i] = np.linalg.norm(w[i]) + eta
    return _scaled(scale, a, rho, normalize_bias)


def fisher(weights: Arrays, a: Arrays, rho: float, eta: float, normalize_bias: bool) -> Arrays:
    """e = rho F^-1 a / n(F^-1/2 a), F = 1 + eta a^2"""
    information = {k: 1 + eta * a[k] ** 2 for k in a}
    measure = length({k: a[k] / np.sqrt(information[k]) for k in a})
    return {k: a[k] / information[k] * quotient(rho, measure) for k in a}


def _with_biases(scale: Arrays, normalize_bias: bool) -> Arrays:
    """T, with 1 on biases where they are not to be normalized."""
    return {
        k: np.ones_like(t) if k.endswith("bias") and not normalize_bias else t
        for k, t in scale.items()
    }


def _scaled(scale: Arrays, a: Arrays, rho: float, normalize_bias: bool) -> Arrays:
    scale = _with_biases(scale, normalize_bias)
    measure = length({k: scale[k] * a[k] for k in a})
    return {k: scale[k] ** 2 * a[k] * quotient(rho, measure) for k in a}


GEOMETRIES = {
    "l2": l2,
    "elementwise": elementwise,
    "elementwise_linf": elementwise_linf,
    "layer": layer,
    "filter": filterwise,
    "fisher": fisher,
}


def perturbation(
    geometry: str,
    weights: Arrays,
    a: Arrays,
    subset: Arrays,
    rho: float,
    *,
    eta: float | None = None,
    normalize_bias: bool = True,
    radius: str = "renormalised",
) -> Arrays:
    """e on the subset: for each name an array of 0 and 1. `shared` needs a on all weights."""
    if eta is None:
        eta = 1.0 if geometry == "fisher" else 0.0
    known = a if radius == "shared" else {k: a[k] * mask for k, mask in subset.items()}
    e = GEOMETRIES[geometry](weights, known, rho, eta, normalize_bias)
    return {k: e[k] * mask for k, mask in subset.items()}
