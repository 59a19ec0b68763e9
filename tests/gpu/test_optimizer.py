"""Steps of every variant on a GPU: the numbers of the CPU, and no waiting for them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.trainables.batched import groups
from tests.trainables.sam.nets import loss_of, make_batches, make_net, sgd
from tests.trainables.sam.test_invariants import ALWAYS, on_subsets, rho_for
from trainables.sam import VARIANTS, SharpnessAware


def trained(device: str, kind: str, **options: Any) -> dict[str, Tensor]:
    """Weights after four steps in float64, on the CPU."""
    net = make_net(kind).to(device)
    optimizer = SharpnessAware(net, sgd(net), generator=torch.Generator().manual_seed(5), **options)
    batches = [(images.to(device), labels.to(device)) for images, labels in make_batches(4)]
    optimizer.begin_epoch(1, 5, samples=batches[:2], loss_fn=loss_of(net))
    slices = 1 if "m" in options else 2
    for batch in batches:
        optimizer.step(loss_of(net), batch, clip_norm=1.0, accumulate=slices)
    return {name: tensor.cpu() for name, tensor in net.state_dict().items()}


def assert_as_on_the_cpu(kind: str, **options: Any) -> None:
    wanted, got = (trained(device, kind, **options) for device in ("cpu", "cuda"))
    for name, tensor in wanted.items():
        torch.testing.assert_close(got[name], tensor, rtol=1e-9, atol=1e-11, msg=name)


@on_subsets(VARIANTS)
def test_steps_are_those_of_the_cpu(variant: str, perturb: str) -> None:
    how = {"variant": variant, "perturb": perturb, "rho": rho_for(variant)}
    assert_as_on_the_cpu("batch", **how, **ALWAYS.get(variant, {}))


@pytest.mark.parametrize(
    "perturb", ["random:0.3", "random:matched", "top_fisher:0.2", "top_magnitude:0.2", "bias"]
)
def test_what_is_perturbed_is_that_of_the_cpu(perturb: str) -> None:
    assert_as_on_the_cpu("group", variant="sam", perturb=perturb, rho=0.1)


@pytest.mark.parametrize(
    "options",
    [
        {"m": 3},
        {"bn_statistics": "both"},
        {"rho_schedule": "cosine"},
        {"ascent": "random"},
    ],
    ids=str,
)
def test_options_do_what_they_do_on_the_cpu(options: dict[str, Any]) -> None:
    assert_as_on_the_cpu("batch", variant="sam", perturb="norm", rho=0.1, **options)


def test_a_group_computes_what_its_members_do_apart() -> None:
    members = [model.cuda() for model in groups.models(3)]
    methods = [
        groups.Method(),
        groups.Method(variant="asam", perturb="norm", rho=0.5),
        groups.Method(variant="none", rho=None),
    ]
    group, apart = groups.Group(members, methods), groups.Apart(members, methods)
    for seed in range(3):
        data = [(images.cuda(), labels.cuda()) for images, labels in groups.batches(3, seed=seed)]
        losses, expected = group.step(data), apart.step(data)
        for slot, loss in losses.items():
            torch.testing.assert_close(loss, expected[slot], rtol=1e-9, atol=1e-11)
    for one, other in zip(group.models, apart.models, strict=True):
        for a, b in zip(one.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)
