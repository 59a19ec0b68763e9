"""SharpnessAware on weights in the layout of convolutions."""

from __future__ import annotations

import copy

import pytest
import torch

from tests.trainables.sam.nets import loss_of, sgd, weights_of
from trainables.models import make_model
from trainables.sam import SharpnessAware

_LAYOUT = torch.channels_last


@pytest.mark.parametrize("perturb", ["all", "norm"])
@pytest.mark.parametrize("variant", ["sam", "asam", "asam_layer", "asam_filter", "gsam"])
def test_a_model_in_channels_last_trains_as_one_that_is_not(variant: str, perturb: str) -> None:
    torch.manual_seed(0)
    plain = make_model("resnet8", num_classes=3, in_channels=3, image_size=8, width=4).double()
    net = copy.deepcopy(plain).to(memory_format=_LAYOUT)
    optimizers = [
        SharpnessAware(each, sgd(each), variant, perturb, rho=0.3) for each in (net, plain)
    ]
    for _ in range(3):
        images, labels = torch.randn(6, 3, 8, 8, dtype=torch.float64), torch.randint(0, 3, (6,))
        optimizers[0].step(loss_of(net), (images.to(memory_format=_LAYOUT), labels))
        optimizers[1].step(loss_of(plain), (images, labels))
    found = weights_of(net)
    for name, expected in weights_of(plain).items():
        torch.testing.assert_close(found[name], expected, rtol=1e-9, atol=1e-12)
    kernels = [p for p in net.parameters() if p.dim() == 4 and p.shape[1] > 1]
    assert kernels
    assert all(p.is_contiguous(memory_format=_LAYOUT) for p in kernels)
