"""Every variant on every subset in every model, two steps on tiny images.

`make check` runs a cover in which each pair of variant, subset and model meets at least once;
`make exhaustive` the whole product, the large models included.
"""

from __future__ import annotations

import math
import os

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from trainables.catalog import MODELS, VARIANTS
from trainables.models import make_model
from trainables.sam import SharpnessAware
from trainables.sam.subsets import perturbed_elements

# Those that choose what to perturb come last, so that the others meet every shift of the cover.
ASCENDING = sorted(
    (name for name, variant in VARIANTS.items() if variant.geometry),
    key=lambda name: VARIANTS[name].perturb_all,
)
SUBSETS = [
    "all",
    "norm",
    "no_norm",
    "norm_weight",
    "norm_bias",
    "bias",
    "head",
    "stem",
    "norm_last:0.5",
    "regex:weight",
    "random:matched",
    "top_fisher:matched",
    "top_magnitude:matched",
    "norm+head",
]
SMALL = [
    ("resnet8", "bn"),
    ("resnet8", "gn"),
    ("resnet8", "ln"),
    ("resnet8", "rms"),
    ("resnet8", "dyt"),
    ("resnet20", "bn"),
    ("preact_resnet18", "bn"),
    ("wrn16_4", "bn"),
    ("resnext29_32x4d", "bn"),
    ("convmixer", "bn"),
    ("vit", "ln"),
    ("vit", "rms"),
    ("vit", "dyt"),
    ("densenet100", "bn"),
]
# Every model as it is by default, and two of them with every normalization.
EVERY = [
    (name, norm)
    for name, facts in MODELS.items()
    for norm in facts.norms[: None if name in ("resnet8", "vit") else 1]
    if norm != "none"
]
Case = tuple[str, str, tuple[str, str]]


def cover() -> list[Case]:
    """Each variant with each subset, the model one further each time: so each pair meets."""
    cases = []
    for row, variant in enumerate(ASCENDING):
        for column, model in enumerate(SMALL):
            subset = SUBSETS[(row + column) % len(SUBSETS)]
            cases.append((variant, "all" if VARIANTS[variant].perturb_all else subset, model))
    return cases


def product() -> list[Case]:
    """The whole cross."""
    return [
        (variant, subset, model)
        for variant in ASCENDING
        for subset in (["all"] if VARIANTS[variant].perturb_all else SUBSETS)
        for model in EVERY
    ]


def test_the_cover_has_each_pair() -> None:
    cases = set(cover())
    free = [v for v in ASCENDING if not VARIANTS[v].perturb_all]
    assert {(v, s) for v, s, _ in cases} >= {(v, s) for v in free for s in SUBSETS}
    assert {(v, m) for v, _, m in cases} == {(v, m) for v in ASCENDING for m in SMALL}
    assert {(s, m) for _, s, m in cases} >= {(s, m) for s in SUBSETS for m in SMALL}


@pytest.mark.parametrize(
    ("variant", "subset", "model"), product() if os.environ.get("EXHAUSTIVE") else cover()
)
def test_two_steps_move_the_weights_and_leave_them_finite(
    variant: str, subset: str, model: tuple[str, str]
) -> None:
    name, norm = model
    torch.manual_seed(0)
    width = {"width": 4} if name.startswith("resnet") else {}
    net = make_model(name, num_classes=3, in_channels=1, image_size=8, norm=norm, **width)
    base = torch.optim.SGD(net.parameters(), lr=1e-3, momentum=0.9)
    if (subset, norm) == ("norm_bias", "rms"):
        with pytest.raises(ValueError, match="Looked for affine layers of type"):
            SharpnessAware(net, base, variant, subset, 1e-3)
        return
    elements = perturbed_elements(net, subset)
    optimizer = SharpnessAware(net, base, variant, subset, 1e-3)
    batch = torch.randn(4, 1, 8, 8), torch.tensor([0, 1, 2, 0])

    def losses(part: tuple[Tensor, Tensor]) -> Tensor:
        return cross_entropy(net(part[0]), part[1], reduction="none")

    before = [p.detach().clone() for p in net.parameters()]
    optimizer.begin_epoch(0, 2, samples=[batch], loss_fn=losses)
    for _ in range(2):
        loss = optimizer.step(losses, batch)
        assert math.isfinite(loss.item())
        assert optimizer.last_step.skipped.item() == 0
    assert any(not torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
    assert all(p.isfinite().all() for p in net.parameters())
    if optimizer.last_step.perturbed and not VARIANTS[variant].perturb_all:
        assert 0 < optimizer.last_step.perturbed <= elements
