"""An ascent in bfloat16: three float32 steps against tests/reference, and what stays precise."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.reference import sam as reference
from tests.reference.problem import Problem
from tests.trainables.sam.nets import NETS, Batch, loss_of, make_batches, make_net, sgd
from tests.trainables.sam.test_formulas import (
    SEED,
    WITH_MASK,
    cross_entropy,
    draws_of,
    rho_of,
    subset_names,
)
from trainables.catalog import VARIANTS
from trainables.sam import SharpnessAware

STEPS, EPOCHS = 3, (0, 1)
CHEAP = "bfloat16"
TAKING = [name for name, variant in VARIANTS.items() if "ascent_precision" in variant.options]
CASES: list[tuple[str, dict[str, Any]]] = [
    *[(name, {}) for name in TAKING],
    ("sam", {"m": 4}),
    ("sam", {"ascent": "fraction:0.5"}),
    ("sam", {"every": 2}),
    ("sam", {"bn_statistics": "both"}),
    ("asam", {"radius": "shared"}),
]


def trained(
    kind: str, variant: str, options: dict[str, Any], perturb: str
) -> tuple[nn.Module, list[float]]:
    net, batches = make_net(kind, torch.float32), make_batches(STEPS, dtype=torch.float32)
    generator = torch.Generator().manual_seed(SEED)
    optimizer = SharpnessAware(
        net, sgd(net), variant, perturb, rho_of(variant, options), generator=generator, **options
    )
    optimizer.begin_epoch(*EPOCHS, samples=batches, loss_fn=loss_of(net))
    return net, [optimizer.step(loss_of(net), batch).item() for batch in batches]


def distance(net: nn.Module, weights: Any) -> float:
    """The largest relative distance of a parameter from that of `weights`."""
    return max(
        float(np.linalg.norm(p.detach().numpy() - weights[k]) / np.linalg.norm(weights[k]))
        for k, p in net.named_parameters()
    )


@pytest.mark.parametrize("kind", NETS)
@pytest.mark.parametrize(("variant", "options"), CASES, ids=str)
def test_steps_follow_the_reference_and_no_precise_ascent(
    kind: str, variant: str, options: dict[str, Any]
) -> None:
    perturb = "all" if variant in WITH_MASK else "norm"
    net, losses = trained(kind, variant, options | {"ascent_precision": CHEAP}, perturb)
    precise, _ = trained(kind, variant, options, perturb)
    start = make_net(kind, torch.float32)
    problem, names = Problem(start, cross_entropy), subset_names(kind, start, perturb)
    batches = make_batches(STEPS, dtype=torch.float32)
    expected = reference.train(
        problem,
        batches,
        variant,
        dict.fromkeys(names, True),
        rho=rho_of(variant, options) or 0.0,
        lr=0.1,
        momentum=0.9,
        weight_decay=0.01,
        when=[EPOCHS] * STEPS,
        draws=draws_of(variant, options, start, names),
        samples=batches,
        ascent_precision=CHEAP,
        **options,
    )
    assert distance(net, expected.weights) < 2e-6
    if variant != "asam_linf":  # whose e is made of signs
        assert distance(precise, expected.weights) > 6e-6
    if "ascent" not in options:
        assert losses == pytest.approx(expected.losses, rel=1e-5)
        for name, b in net.named_buffers():
            torch.testing.assert_close(b, expected.statistics[name], rtol=1e-5, atol=1e-6)


def test_only_the_pass_at_w_is_less_precise() -> None:
    net = make_net("batch", torch.float32)
    optimizer = SharpnessAware(net, sgd(net), perturb="norm", rho=0.2, ascent_precision=CHEAP)
    outputs: list[torch.dtype] = []

    def loss_fn(batch: Batch) -> Tensor:
        logits = net(batch[0])
        outputs.append(logits.dtype)
        return nn.functional.cross_entropy(logits, batch[1], reduction="none").to(logits.dtype)

    for batch in make_batches(2, dtype=torch.float32):
        loss = optimizer.step(loss_fn, batch, accumulate=2)
        assert loss.dtype == torch.float32
        assert optimizer.last_step.gradient_evaluations == 2
        assert optimizer.last_step.perturbation_norm.item() == pytest.approx(0.2, rel=1e-6)
    assert outputs == [torch.bfloat16] * 2 + [torch.float32] * 2 + outputs[:4]
    state = [*optimizer.state.values()]
    assert all(x.dtype == torch.float32 for each in state for x in each.values())
