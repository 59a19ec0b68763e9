"""Eigenvalue and trace against the whole Hessian of a small network."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.trainables.test_training import CONFIG
from trainables.data import Images
from trainables.measures.hessian import hessian, top
from trainables.measures.subject import Subject
from trainables.measures.surface import Surface
from trainables.training import deterministic


@pytest.fixture(scope="module")
def subject() -> Subject:
    deterministic(1)
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3)
    )
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (300, 1, 2, 2), dtype=np.uint8)
    labels = draw.integers(0, 3, 300)
    names = tuple(name for name, _ in model.named_parameters())
    norm = tuple(name for name in names if name.startswith("2."))
    return Subject(
        model.eval().requires_grad_(False),
        {"all": names, "norm": norm, "rest": tuple(n for n in names if n not in norm)},
        CONFIG,
        torch.device("cpu"),
        torch.tensor([0.5]),
        torch.tensor([0.3]),
        Images(images, labels),
        np.arange(300),
        labels,
    )


def test_it_is_that_of_the_whole_matrix(subject: Subject) -> None:
    rows = {(row.measure, row.part): row.value for row in hessian(subject)}
    batches = subject.training_batches(512)
    assert [len(labels) for _, labels in batches] == [128, 128]
    for part, names in subject.parts.items():
        surface = Surface(subject.model, names)

        def loss(weights: Tensor, at: Surface = surface) -> Tensor:
            return torch.stack([at.loss(weights, batch) for batch in batches]).mean()

        matrix = torch.autograd.functional.hessian(loss, surface.weights).double()  # type: ignore[no-untyped-call]
        values = torch.linalg.eigvalsh(matrix)
        largest = values[values.abs().argmax()].item()
        assert rows["hessian_top", part] == pytest.approx(largest, rel=1e-3)
        assert 0 <= rows["hessian_top_error", part] <= 1e-3 * abs(largest)
        error = rows["hessian_trace_error", part]
        assert error < 0.2 * values.sum().item()
        assert abs(rows["hessian_trace", part] - values.sum().item()) < 4 * error
    assert rows["hessian_trace", "all"] == pytest.approx(
        rows["hessian_trace", "norm"] + rows["hessian_trace", "rest"], rel=1e-5
    )


def test_the_largest_modulus_keeps_its_sign() -> None:
    for values in ([1.0, 2.0, -3.0, 0.5, 2.5, -2.9], [7.0], [0.0, 0.0]):
        diagonal = torch.tensor(values)
        value, error = top(partial(torch.mul, diagonal), torch.ones(len(values)))
        assert value == pytest.approx(max(values, key=abs), rel=1e-3)
        assert error <= 1e-3 * abs(value) + 1e-6


def test_what_is_not_finite_is_told_as_such() -> None:
    value, error = top(lambda v: v * torch.nan, torch.ones(3))
    assert np.isnan(value)
    assert np.isnan(error)
