"""The geometries of the references keep what they declare."""

from __future__ import annotations

import numpy as np
import pytest

from tests.reference.geometry import GEOMETRIES, Arrays, inner, length, perturbation


def some_arrays(seed: int) -> Arrays:
    generator = np.random.default_rng(seed)
    shapes = {"conv.weight": (3, 2, 2, 2), "conv.bias": (3,), "head.weight": (2, 3)}
    return {k: generator.normal(size=shape) for k, shape in shapes.items()}


def declared(geometry: str, w: Arrays, a: Arrays, e: Arrays, eta: float) -> float:
    """What equals rho in the table of geometries."""
    if geometry == "l2":
        return length(e)
    if geometry == "elementwise":
        return length({k: e[k] / (np.abs(w[k]) + eta) for k in e})
    if geometry == "elementwise_linf":
        return max(float(np.max(np.abs(e[k]) / (np.abs(w[k]) + eta))) for k in e)
    if geometry == "layer":
        return length({k: e[k] / (np.linalg.norm(w[k]) * (1 + eta)) for k in e})
    if geometry == "filter":
        scale = {k: np.abs(w[k]) + eta for k in e}
        scale["conv.weight"] = np.sqrt((w["conv.weight"] ** 2).sum((1, 2, 3), keepdims=True)) + eta
        return length({k: e[k] / scale[k] for k in e})
    return length({k: np.sqrt(1 + eta * a[k] ** 2) * e[k] for k in e})


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("eta", [0.0, 0.2])
def test_the_declared_norm_is_rho(geometry: str, eta: float) -> None:
    w, a = some_arrays(1), some_arrays(2)
    mask = {k: (v > -0.5).astype(float) for k, v in some_arrays(3).items()}
    e = perturbation(geometry, w, a, mask, 0.7, eta=eta)
    assert declared(geometry, w, a, e, eta) == pytest.approx(0.7, rel=1e-12)
    assert all(np.all(e[k][mask[k] == 0] == 0) for k in e)
    assert inner(e, a) > 0


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_a_shared_radius_is_that_of_all_elements(geometry: str) -> None:
    w, a = some_arrays(1), some_arrays(2)
    ones = {k: np.ones_like(v) for k, v in w.items()}
    mask = {"conv.weight": (w["conv.weight"] > 0).astype(float)}
    whole = perturbation(geometry, w, a, ones, 0.7)
    e = perturbation(geometry, w, a, mask, 0.7, radius="shared")
    assert e.keys() == mask.keys()
    np.testing.assert_array_equal(e["conv.weight"], whole["conv.weight"] * mask["conv.weight"])


@pytest.mark.parametrize("geometry", ["elementwise", "layer", "filter"])
def test_biases_that_are_not_normalized_move_as_in_sam(geometry: str) -> None:
    w, a = some_arrays(1), some_arrays(2)
    only_bias = {"conv.bias": np.ones(3)}
    e = perturbation(geometry, w, a, only_bias, 0.7, eta=0.1, normalize_bias=False)
    np.testing.assert_allclose(
        e["conv.bias"], 0.7 * a["conv.bias"] / length({"": a["conv.bias"]}), rtol=1e-13
    )


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_a_zero_direction_gives_a_zero_perturbation(geometry: str) -> None:
    w = some_arrays(1)
    zeros = {k: np.zeros_like(v) for k, v in w.items()}
    ones = {k: np.ones_like(v) for k, v in w.items()}
    e = perturbation(geometry, w, zeros, ones, 0.7)
    assert all(np.all(v == 0) for v in e.values())
