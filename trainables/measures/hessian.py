"""Curvature of the training loss at the weights of a model: docs/measures.md."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from trainables.measures.row import Row
from trainables.measures.sharpness import IMAGES
from trainables.measures.subject import Batch, Subject
from trainables.measures.surface import Surface

DRAWS = 20
"""Random vectors a batch of the trace."""
_MOST, _TOLERANCE = 100, 1e-3
_BETWEEN = 4
"""Lanczos steps between two looks at the result, each of which waits for the device."""


def hessian(subject: Subject) -> Iterator[Row]:
    """The eigenvalue of largest modulus and the trace of every part's block, with their errors."""
    batches = subject.training_batches(IMAGES)
    for number, (part, names) in enumerate(subject.parts.items()):
        surface = Surface(subject.model, names)
        drawn = torch.empty_like(surface.weights).normal_(generator=subject.generator(2, number))
        value, error = top(partial(_product, surface, batches), drawn)
        yield Row("hessian_top", part, None, value)
        yield Row("hessian_top_error", part, None, error)
    for part, estimates in _traces(subject, batches).items():
        yield Row("hessian_trace", part, None, estimates.mean().item())
        error = estimates.std().item() / math.sqrt(len(estimates))
        yield Row("hessian_trace_error", part, None, error)


def top(product: Callable[[Tensor], Tensor], first: Tensor) -> tuple[float, float]:
    """The eigenvalue of largest modulus of a symmetric operator, with its sign, and an upper bound
    of its distance to the nearest eigenvalue.

    Lanczos' method from `first`, [N], without keeping the vectors: that only repeats eigenvalues
    that were found. Ends where the bound is below 1e-3 of the value, or after 100 products.
    """
    before, now = torch.zeros_like(first), first / first.norm()
    link = torch.zeros((), dtype=torch.float64, device=first.device)
    diagonal: list[Tensor] = []
    links: list[Tensor] = []
    most = min(_MOST, len(first))
    for k in range(1, most + 1):
        after = product(now) - link.to(first.dtype) * before
        diagonal.append(torch.dot(after.double(), now.double()))
        after = after - diagonal[-1].to(first.dtype) * now
        link = torch.linalg.vector_norm(after, dtype=torch.float64)
        links.append(link)
        inverse = torch.where(link == 0, 0.0, 1 / link)
        before, now = now, after * inverse.to(first.dtype)
        if k % _BETWEEN == 0 or k == most:
            value, error = _ritz(torch.stack(diagonal).cpu(), torch.stack(links).cpu())
            if not error > _TOLERANCE * abs(value):
                break
    return value, error


def _ritz(diagonal: Tensor, links: Tensor) -> tuple[float, float]:
    """The eigenvalue of largest modulus of the tridiagonal matrix, and the bound for it."""
    if not (diagonal.isfinite().all() and links.isfinite().all()):
        return math.nan, math.nan
    matrix = torch.diag(diagonal) + torch.diag(links[:-1], 1) + torch.diag(links[:-1], -1)
    values, vectors = torch.linalg.eigh(matrix)
    largest = int(values.abs().argmax())
    return values[largest].item(), (links[-1] * vectors[-1, largest]).abs().item()


def _product(surface: Surface, batches: Sequence[Batch], vector: Tensor) -> Tensor:
    """The Hessian of the mean loss times a vector."""
    total = torch.zeros_like(vector)
    for batch in batches:
        total += _times(*_gradient(surface, batch), vector) / len(batches)
    return total


def _traces(subject: Subject, batches: Sequence[Batch]) -> dict[str, Tensor]:
    """Hutchinson's estimates of the trace of every part's block, [DRAWS] of each: of random signs
    v the mean of v' H v over batches, each with a v of its own.

    The trace of all is the sum of its diagonal blocks, so what lies between them costs it nothing.
    """
    surface = Surface(subject.model, subject.parts["all"])
    generator = subject.generator(3, 0)
    blocks = {p: surface.members(n).float() for p, n in subject.parts.items() if p != "all"}
    estimates = {part: torch.zeros(DRAWS, device=subject.device) for part in blocks}
    for batch in batches:
        weights, gradient = _gradient(surface, batch)
        for k in range(DRAWS):
            signs = torch.empty_like(weights).bernoulli_(generator=generator) * 2 - 1
            for part, block in blocks.items():
                vector = signs * block
                found = torch.dot(vector, _times(weights, gradient, vector))
                estimates[part][k] += found / len(batches)
    return {"all": torch.stack(list(estimates.values())).sum(0), **estimates}


def _gradient(surface: Surface, batch: Batch) -> tuple[Tensor, Tensor]:
    """The weights as a leaf, and the gradient there as a function of it."""
    weights = surface.weights.clone().requires_grad_()
    with sdpa_kernel(SDPBackend.MATH):  # the fused ones have no second derivative
        loss = surface.loss(weights, batch)
    [gradient] = torch.autograd.grad(loss, weights, create_graph=True)
    return weights, gradient


def _times(weights: Tensor, gradient: Tensor, vector: Tensor) -> Tensor:
    [product] = torch.autograd.grad(gradient, weights, vector, retain_graph=True)
    return product
