"""SharpnessAware with a compiled model: the graphs with and without weight gradients are two."""

from __future__ import annotations

import pytest
import torch

from tests.trainables.sam.nets import loss_of, make_batches, make_net, sgd, weights_of
from trainables.sam import SharpnessAware


@pytest.mark.parametrize("perturb", ["all", "norm"])
def test_a_compiled_model_trains_as_the_plain_one(perturb: str) -> None:
    plain, net = make_net("batch"), make_net("batch")
    # Without code generation, which needs a compiler for C++: the graphs are what matters here.
    compiled = torch.compile(net, backend="aot_eager")
    optimizers = [
        SharpnessAware(plain, sgd(plain), perturb=perturb, rho=0.3),
        SharpnessAware(net, sgd(net), perturb=perturb, rho=0.3),
    ]
    for batch in make_batches(3):
        optimizers[0].step(loss_of(plain), batch)
        optimizers[1].step(loss_of(compiled), batch)  # type: ignore[arg-type]
    found = weights_of(net)
    for name, expected in weights_of(plain).items():
        torch.testing.assert_close(found[name], expected, rtol=1e-9, atol=1e-12)
