"""Geometries at the edges of float32."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from trainables.sam.geometry import GEOMETRIES, elementwise, global_norm, l2

OPTIONS = {"eta": 0.1, "normalize_bias": True}


def length(tensors: tuple[Tensor, ...] | list[Tensor]) -> float:
    return float(torch.cat([t.double().flatten() for t in tensors]).norm())


@pytest.mark.parametrize("magnitude", [1e-30, 1e-20, 1.0, 1e20, 1e30])
def test_l2_directions_have_length_one_at_every_magnitude(magnitude: float) -> None:
    gradients = [magnitude * torch.randn(7, 5), magnitude * torch.randn(300)]
    assert length(l2(gradients, gradients, [False, True], {})) == pytest.approx(1, rel=1e-6)


def test_the_norm_of_many_elements_is_accurate_in_float32() -> None:
    many = [torch.full((1_000_000,), 0.1), torch.full((1_000_000,), 0.1)]
    assert float(global_norm(many)) == pytest.approx(float(many[0][0]) * 2_000_000**0.5, rel=1e-9)


@pytest.mark.parametrize("name", GEOMETRIES)
def test_a_zero_gradient_gives_a_zero_direction(name: str) -> None:
    weights = [torch.randn(3), torch.randn(2)]
    zeros = [torch.zeros(3), torch.zeros(2)]
    assert length(GEOMETRIES[name](zeros, weights, [False, True], OPTIONS)) == 0


@pytest.mark.parametrize("name", GEOMETRIES)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_gradient_that_is_not_finite_gives_a_direction_that_is_not(name: str, bad: float) -> None:
    weights = [torch.randn(3), torch.randn(2)]
    gradients = [torch.tensor([1.0, bad, 1.0]), torch.ones(2)]
    direction = GEOMETRIES[name](gradients, weights, [False, True], OPTIONS)
    assert not torch.isfinite(global_norm(direction))


@pytest.mark.parametrize("name", GEOMETRIES)
def test_geometries_leave_their_arguments_alone(name: str) -> None:
    weights, gradients = [torch.randn(3)], [torch.randn(3)]
    kept = weights[0].clone(), gradients[0].clone()
    GEOMETRIES[name](gradients, weights, [True], {"eta": 0.1, "normalize_bias": False})
    assert torch.equal(weights[0], kept[0])
    assert torch.equal(gradients[0], kept[1])


def test_weights_at_zero_do_not_move_under_asam_without_eta() -> None:
    weights, gradients = [torch.tensor([0.0, 2.0])], [torch.tensor([5.0, 1.0])]
    direction = elementwise(gradients, weights, [False], {"eta": 0.0, "normalize_bias": True})
    assert direction[0].tolist() == [0.0, 2.0]
