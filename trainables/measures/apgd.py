"""The largest value of a function in a ball around 0, by projected gradient ascent.

APGD: Croce and Hein, arXiv 2003.01690, algorithm 1, as Andriushchenko et al. use it on weights
(arXiv 2302.07011, section 4).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

Norm: TypeAlias = Literal["l2", "linf"]
_MOMENTUM = 0.75
_ENOUGH = 0.75


@dataclass(frozen=True, eq=False)
class Start:
    """A function at 0: its value and its gradient there, [N]."""

    value: Tensor
    gradient: Tensor


@dataclass(frozen=True, eq=False)
class Best:
    """The best point found, [N], and the value there, 0-dimensional."""

    point: Tensor
    value: Tensor


def start(function: Callable[[Tensor], Tensor], like: Tensor) -> Start:
    """The function at 0, which searches in several balls may share. like: what z is like, [N]."""
    return Start(*_value_and_gradient(function, torch.zeros_like(like)))


def largest(
    function: Callable[[Tensor], Tensor],
    begin: Start,
    norm: Norm,
    radius: float,
    iterations: int = 20,
) -> Best:
    """The largest value found where norm(z) <= radius, to rounding; begins at 0, one restart.

    function: from z [N] to a 0-dimensional value. The first point is that of one step of steepest
    ascent to the surface of the ball, so the result is no smaller than there, nor than at 0. A
    point whose value is not finite is never the best. Nothing is read from the device.
    """
    point = before = best = torch.zeros_like(begin.gradient)
    gradient = best_gradient = begin.gradient
    best_value = begin.value
    size = torch.full_like(begin.value, 2 * radius)
    checks = _checks(iterations)
    gains = torch.zeros_like(begin.value)
    checked, checked_size, checked_best = 0, torch.full_like(size, torch.inf), best_value
    for i in range(1, iterations + 1):
        target = project(point + size * direction(gradient, norm), norm, radius)
        if i > 1:
            moved = _MOMENTUM * (target - point) + (1 - _MOMENTUM) * (point - before)
            target = project(point + moved, norm, radius)
        before, point = point, target
        if i < iterations:
            value, gradient = _value_and_gradient(function, point)
        else:
            with torch.no_grad():
                value = function(point)
        better = value.isfinite() & (value > best_value)
        best_value = torch.where(better, value, best_value)
        best = torch.where(better, point, best)
        best_gradient = torch.where(better, gradient, best_gradient)
        gains = gains + better
        if i in checks:
            stuck = (size == checked_size) & (best_value == checked_best)
            halve = (gains < _ENOUGH * (i - checked)) | stuck
            checked, checked_size, checked_best = i, size, best_value
            gains = torch.zeros_like(gains)
            size = torch.where(halve, size / 2, size)
            # Goes on from the best point, at rest.
            point, before = (torch.where(halve, best, each) for each in (point, before))
            gradient = torch.where(halve, best_gradient, gradient)
    return Best(best, best_value)


def direction(gradient: Tensor, norm: Norm) -> Tensor:
    """Steepest ascent of length 1 in the norm; 0 for a gradient of 0."""
    if norm == "linf":
        return torch.sign(gradient)
    length = torch.linalg.vector_norm(gradient, dtype=torch.float64)
    inverse = torch.where(length == 0, 0.0, 1 / length)
    return gradient * inverse.to(gradient.dtype)


def project(point: Tensor, norm: Norm, radius: float) -> Tensor:
    """The nearest point, by Euclidean distance, with norm(z) <= radius."""
    if norm == "linf":
        return point.clamp(-radius, radius)
    length = torch.linalg.vector_norm(point, dtype=torch.float64)
    scale: Tensor = radius / length.clamp_min(radius)
    return point * scale.to(point.dtype)


def _checks(iterations: int) -> set[int]:
    """After which iterations the step size is looked at: 22 % of them, then at ever shorter
    distances, 3 % less each time and no less than 6 %."""
    last, now, found = 0, 22, set()
    while now < 100:
        found.add(-(-now * iterations // 100))
        last, now = now, now + max(now - last - 3, 6)
    return found


def _value_and_gradient(
    function: Callable[[Tensor], Tensor], point: Tensor
) -> tuple[Tensor, Tensor]:
    point = point.detach().requires_grad_()
    value = function(point)
    [gradient] = torch.autograd.grad(value, point)
    return value.detach(), gradient
