"""Five float64 steps against the formulas of tests/reference/sam.py."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from torch import nn

from tests.reference import sam as reference
from tests.trainables.sam.nets import NETS, NORM_NAMES, loss_of, make_batches, make_net, sgd
from trainables.sam import SharpnessAware

SGD: dict[str, Any] = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}


def subset_names(kind: str, net: nn.Module, perturb: str) -> list[str]:
    names = [name for name, _ in net.named_parameters()]
    if perturb == "all":
        return names
    return [name for name in names if (name in NORM_NAMES[kind]) == (perturb == "norm")]


@pytest.mark.parametrize("kind", NETS)
@pytest.mark.parametrize("perturb", ["all", "norm", "no_norm"])
@pytest.mark.parametrize(
    ("variant", "options"),
    [
        ("none", {}),
        ("sam", {}),
        ("asam", {}),
        ("asam", {"eta": 0.01}),
        ("asam", {"normalize_bias": False}),
        ("asam", {"eta": 0.3, "normalize_bias": False}),
    ],
)
def test_five_steps_follow_the_formula(
    kind: str, perturb: str, variant: str, options: dict[str, Any]
) -> None:
    net, shadow = make_net(kind), make_net(kind)
    batches = make_batches(5)
    rho = None if variant == "none" else 0.2
    optimizer = SharpnessAware(net, sgd(net), variant, perturb, rho, **options)
    for batch in batches:
        optimizer.step(loss_of(net), batch)

    def loss_at(labels: Any) -> Any:
        return lambda logits: nn.functional.cross_entropy(logits, labels, reduction="none")

    expected = reference.train(
        {name: p.detach().numpy() for name, p in shadow.named_parameters()},
        [reference.gradient_of(shadow, loss_at(y), x) for x, y in batches],
        variant,
        subset_names(kind, shadow, perturb),
        rho or 0.0,
        **SGD,
        **options,
    )
    for name, p in net.named_parameters():
        got, want = p.detach().numpy(), expected[name]
        assert np.linalg.norm(got - want) <= 1e-9 * np.linalg.norm(want), name


@pytest.mark.parametrize("kind", NETS)
@pytest.mark.parametrize("perturb", ["all", "norm", "no_norm"])
def test_the_perturbation_itself_follows_the_formula(kind: str, perturb: str) -> None:
    net, shadow = make_net(kind), make_net(kind)
    (batch,) = make_batches(1)
    optimizer = SharpnessAware(net, sgd(net), "asam", perturb, 0.5, eta=0.1)
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    shifts: list[dict[str, Any]] = []

    def loss_fn(b: Any) -> Any:
        shifts.append({k: (p.detach() - before[k]).numpy() for k, p in net.named_parameters()})
        return loss_of(net)(b)

    optimizer.step(loss_fn, batch)

    weights = {name: p.detach().numpy() for name, p in shadow.named_parameters()}
    gradient = reference.gradient_of(
        shadow, lambda logits: nn.functional.cross_entropy(logits, batch[1]), batch[0]
    )(weights)
    names = subset_names(kind, shadow, perturb)
    expected = reference.perturbation("asam", weights, gradient, names, 0.5, eta=0.1)
    for name, moved in shifts[1].items():
        np.testing.assert_allclose(moved, expected.get(name, np.zeros_like(moved)), atol=1e-12)
    length = np.sqrt(sum(np.sum(e**2) for e in expected.values()))
    assert optimizer.last_step.perturbation_norm.item() == pytest.approx(length, rel=1e-12)
