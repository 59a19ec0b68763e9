"""A grouped network computes what its models compute, and they stay what they were."""

from __future__ import annotations

import pytest
import torch

from tests.trainables.batched.groups import batches, models
from trainables.batched.network import GroupedNetwork
from trainables.catalog import MODELS, unbatched_model
from trainables.models import make_model

CASES = [(name, norm) for name, model in MODELS.items() for norm in model.norms]


@pytest.mark.parametrize(("name", "norm"), CASES)
def test_the_catalog_says_which_models_have_a_grouped_form(name: str, norm: str) -> None:
    with torch.device("meta"):
        pair = [
            make_model(name, num_classes=2, in_channels=3, image_size=8, norm=norm)
            for _ in range(2)
        ]
        if unbatched_model(name, norm) is None:
            GroupedNetwork(pair)
        else:
            with pytest.raises(ValueError, match=r"^\w+( \(.*\))? has no grouped form[^\n]*$"):
                GroupedNetwork(pair)


@pytest.mark.parametrize(
    ("name", "norm"),
    [
        *(("resnet8", norm) for norm in ("bn", "gn", "ln", "none")),
        *((name, "bn") for name in ("wrn16_4", "resnext29_32x4d", "convmixer")),
    ],
)
def test_logits_and_statistics_are_those_of_each_model(name: str, norm: str) -> None:
    apart, together = (models(2, name, norm=norm) for _ in range(2))
    network = GroupedNetwork(together)
    images = [images for images, _ in batches(2, samples=3)]
    found = network(images)
    for own, same, batch, logits in zip(apart, together, images, found, strict=True):
        torch.testing.assert_close(logits, own.train()(batch), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(same.state_dict(), own.state_dict(), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(same.eval()(batch), own.eval()(batch), rtol=1e-9, atol=1e-9)


def test_a_model_is_loaded_into_its_slot_alone() -> None:
    pair, [other] = models(2), models(1)
    network = GroupedNetwork(pair)
    first = {name: t.clone() for name, t in pair[0].state_dict().items()}
    pair[1].load_state_dict(other.state_dict())
    images = [images for images, _ in batches(1)] * 2
    torch.testing.assert_close(pair[0].state_dict(), first, rtol=0, atol=0)
    assert torch.equal(*network(images))  # as the first of two models is the first of one


def test_what_it_does_not_know_is_refused() -> None:
    pair = models(2)
    pair[0].add_module("blocks", torch.nn.Sequential(torch.nn.Linear(2, 2)))
    with pytest.raises(ValueError, match=r"^Linear \(blocks\.0\) has no grouped form$"):
        GroupedNetwork(pair)
