"""The ascent in a ball: closed forms, and a plain second implementation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import brentq, minimize
from torch import Tensor

from tests.reference import apgd as reference
from trainables.measures import apgd
from trainables.measures.apgd import Norm
from trainables.measures.sharpness import average_rise, worst_rise

NORMS: tuple[Norm, ...] = ("l2", "linf")
ROOT = torch.Generator().manual_seed(0)
A = torch.randn(6, 6, generator=ROOT, dtype=torch.float64)
A = A @ A.T
G = torch.randn(6, generator=ROOT, dtype=torch.float64)
W = torch.randn(6, generator=ROOT, dtype=torch.float64)


def quadratic(z: Tensor) -> Tensor:
    return G @ z + z @ A @ z / 2


def wavy(z: Tensor) -> Tensor:
    """Many maxima, so that step sizes are halved."""
    return torch.sin(3 * A @ z).sum() + G @ z


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("function", [quadratic, wavy])
@pytest.mark.parametrize("radius", [0.05, 0.7, 4.0])
def test_it_finds_what_the_algorithm_of_the_paper_finds(
    norm: Norm, function: Callable[[Tensor], Tensor], radius: float
) -> None:
    def value(z: np.ndarray) -> float:
        return float(function(torch.tensor(z)))

    def gradient(z: np.ndarray) -> np.ndarray:
        leaf = torch.tensor(z, requires_grad=True)
        found: np.ndarray = torch.autograd.grad(function(leaf), leaf)[0].numpy()
        return found

    best = apgd.largest(function, apgd.start(function, W), norm, radius)
    expected, point = reference.search(value, gradient, 6, norm, radius, 20)
    assert best.value.item() == pytest.approx(expected, rel=1e-6)
    np.testing.assert_allclose(best.point.numpy(), point, atol=1e-3)


def test_the_largest_rise_of_a_quadratic_in_an_l2_ball() -> None:
    """Where (mu - A) z = g and n(z) = radius, for mu above the largest eigenvalue."""
    values, vectors = np.linalg.eigh(A.numpy())
    inside = vectors.T @ G.numpy()

    def rise(radius: float) -> float:
        mu = brentq(
            lambda mu: np.linalg.norm(inside / (mu - values)) - radius,
            values[-1] + 1e-9,
            values[-1] + np.linalg.norm(inside) / radius,
        )
        return float(quadratic(torch.tensor(vectors @ (inside / (mu - values)))))

    radii = (0.1, 1.0)
    found = worst_rise(quadratic, W, "l2", radii)
    assert found.tolist() == pytest.approx([rise(r) for r in radii], rel=1e-3)


@pytest.mark.parametrize("scale", [torch.ones(6, dtype=torch.float64), W.abs()])
def test_the_largest_rise_of_a_linear_function_is_the_dual_norm(scale: Tensor) -> None:
    """With T = |w|: radius n(T g), radius sum |T g|."""

    def linear(z: Tensor) -> Tensor:
        return G @ (scale * z)

    assert worst_rise(linear, W, "l2", [0.3]).item() == pytest.approx(
        0.3 * (scale * G).norm().item()
    )
    assert worst_rise(linear, W, "linf", [0.3]).item() == pytest.approx(
        0.3 * (scale * G).abs().sum().item()
    )


@pytest.mark.parametrize("norm", NORMS)
def test_every_point_is_in_the_ball_and_the_first_is_that_of_one_step(norm: Norm) -> None:
    visited = []

    def watched(z: Tensor) -> Tensor:
        visited.append(z.detach().clone())
        return wavy(z)

    best = apgd.largest(watched, apgd.start(watched, W), norm, 0.5)
    assert len(visited) == 21
    order = 2 if norm == "l2" else torch.inf
    assert max(torch.linalg.vector_norm(z, order).item() for z in visited) <= 0.5 * (1 + 1e-12)
    leaf = torch.zeros_like(W).requires_grad_()
    [g] = torch.autograd.grad(wavy(leaf), leaf)
    torch.testing.assert_close(visited[1], 0.5 * (g / g.norm() if norm == "l2" else g.sign()))
    assert best.value == max(wavy(z) for z in visited)


@pytest.mark.parametrize("norm", NORMS)
def test_where_nothing_rises_or_values_are_not_finite_it_stays_at_zero(norm: Norm) -> None:
    for function in (lambda z: (0 * z).sum(), lambda z: torch.log(z - 1e-300).sum() * 0 - z @ z):
        begin = apgd.Start(torch.zeros((), dtype=torch.float64), torch.ones_like(W))
        best = apgd.largest(function, begin, norm, 1.0)
        assert best.value == 0
        assert not best.point.any()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("scale", [torch.ones(6, dtype=torch.float64), W.abs()])
def test_the_projection_is_the_nearest_point_in_the_metric_of_the_ball(
    norm: Norm, scale: Tensor
) -> None:
    """For d = T z: the nearest to d by n((d - e) / T) among those with norm(d / T) <= radius."""
    far, t = 3 * (scale * G).numpy(), scale.numpy()
    limits: Any = (
        {"type": "ineq", "fun": lambda d: 0.25 - np.sum((d / t) ** 2)}
        if norm == "l2"
        else {"type": "ineq", "fun": lambda d: 0.5 - np.abs(d / t)}
    )

    def distance(d: np.ndarray) -> float:
        return float(np.sum(((d - far) / t) ** 2))

    slow = minimize(distance, np.zeros(6), constraints=limits, tol=1e-12)
    ours = scale * apgd.project(torch.tensor(far) / scale, norm, 0.5)
    np.testing.assert_allclose(ours.numpy(), slow.x, atol=1e-4)
    inside = torch.full_like(W, 0.1)
    assert torch.equal(apgd.project(inside, norm, 0.5), inside)


def test_the_average_rise_of_a_quadratic_is_half_the_trace() -> None:
    """radius^2 / 2 times the trace for normal draws, a third of that for uniform ones, with w_i^2
    in the sum where a draw is in units of |w|."""
    normal = list(torch.randn(6_000, 6, generator=ROOT, dtype=torch.float64))
    uniform = list(2 * torch.rand(6_000, 6, generator=ROOT, dtype=torch.float64) - 1)
    for scale in (torch.ones(6, dtype=torch.float64), W.abs()):

        def scaled(z: Tensor, t: Tensor = scale) -> Tensor:
            return quadratic(t * z)

        trace = (A.diagonal() * scale**2).sum().item()
        for drawn, share in ((normal, 0.5), (uniform, 1 / 6)):
            found = average_rise(scaled, drawn, (0.5, 2.0))
            assert found.tolist() == pytest.approx(
                [0.25 * share * trace, 4 * share * trace], rel=0.1
            )
