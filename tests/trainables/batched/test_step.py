"""A step of a group is a step of each of its members, and no member feels the others."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import pytest
import torch

from tests.trainables.batched.groups import Apart, Batch, Group, Method, batches, losses, models
from trainables.catalog import VARIANTS, unbatched

SAM_ON = Method("sam", "norm", 0.5)
METHODS = {
    **{
        f"{variant} {perturb}": [Method(variant, perturb, rho)] * 3
        for variant, rho in (("sam", 0.1), ("asam", 0.5), ("asam_linf", 0.01))
        for perturb in ("all", "norm", "no_norm")
    },
    "sgd": [Method("none", "all", None)] * 3,
    **{name: [Method(name)] * 2 for name in ("asam_layer", "asam_filter", "fisher_sam")},
    "masked": [Method("sam", "random:0.3"), Method("sam", "top_magnitude:matched")],
    "all kinds": [
        Method("none", "all", None),
        Method("sam", "norm", 0.5, (("every", 2),)),
        Method("asam", "head", 0.5, (("radius", "shared"),), clip_norm=0.1),
        Method("sam", "all", 0.1, (("bn_statistics", "none"),)),
    ],
}


assert_close = partial(torch.testing.assert_close, rtol=1e-9, atol=1e-9)


def trained(group: Group | Apart, steps: int = 4) -> list[dict[int, torch.Tensor]]:
    return [group.step(batches(len(group.models), seed=step)) for step in range(steps)]


@pytest.mark.parametrize("norm", ["bn", "gn"])
@pytest.mark.parametrize("methods", METHODS.values(), ids=list(METHODS))
def test_a_group_trains_as_its_members_would_apart(methods: Sequence[Method], norm: str) -> None:
    members = models(len(methods), norm=norm, width=4)
    together, apart = Group(members, methods), Apart(members, methods)
    assert_close(trained(together), trained(apart))
    for a, b, one, other in zip(
        together.models, apart.models, together.optimizers, apart.optimizers, strict=True
    ):
        assert_close(a.state_dict(), b.state_dict())
        for key in ("perturbation_norm", "perturbed_loss", "skipped"):
            found, right = (getattr(each.last_step, key) for each in (one, other))
            assert_close(found, right)
        assert one.last_step.gradient_evaluations == other.last_step.gradient_evaluations
        assert one.last_step.perturbed == other.last_step.perturbed


def test_an_epoch_begins_for_each_member() -> None:
    """What looks at the training data looks at its own model; schedules follow its own epoch."""
    cosine = (("rho_schedule", "cosine"), ("start_epoch", 1))
    methods = [Method("ssam_f", "all", 0.1), SAM_ON, Method("sam", "all", 0.1, cosine)]
    members = models(3, width=4)
    together, apart = Group(members, methods), Apart(members, methods)
    samples = batches(3)
    for epoch in range(3):
        for each in (together, apart):
            for slot, (optimizer, model) in enumerate(
                zip(each.optimizers, each.models, strict=True)
            ):

                def of_model(batch: Batch, model: torch.nn.Module = model) -> torch.Tensor:
                    images, labels = batch
                    return losses(labels, model(images))

                optimizer.begin_epoch(min(epoch + slot, 2), 3, [samples[slot]], of_model)
        assert_close(trained(together, 2), trained(apart, 2))
    moved = [float(optimizer.last_step.perturbation_norm) for optimizer in together.optimizers]
    assert moved == pytest.approx([0.1, 0.5, 0.0])


def test_what_is_frozen_stays() -> None:
    members = models(2, width=4)
    for model in members:
        for name, p in model.named_parameters():
            p.requires_grad = "norm" in name
    methods = [SAM_ON, Method("sam", "norm", 0.1)]
    together, apart = Group(members, methods), Apart(members, methods)
    assert_close(trained(together), trained(apart))
    for model, before in zip(together.models, members, strict=True):
        assert torch.equal(*(each.get_parameter("head.weight") for each in (model, before)))


class Bits:
    """What a member in slot 1 of three comes to, in float32, beside all kinds of others."""

    def __init__(self, norm: str) -> None:
        subset = "head" if norm == "none" else "norm"
        self.methods = (
            Method("sam", "all", 0.1),
            Method("sam", subset, 0.5),
            Method("asam", "bias", 1.0),
        )
        self.members = [model.float() for model in models(3, norm=norm)]

    def of(
        self,
        change: float | None = None,
        ghosts: Sequence[int] = (),
        alike: bool = False,
        weights: float | None = None,
    ) -> list[torch.Tensor]:
        members = [self.members[1]] * 3 if alike else self.members
        group = Group(members, self.methods, ghosts)
        if weights is not None:
            torch.nn.init.constant_(group.models[0].get_parameter("head.weight"), weights)
            torch.nn.init.constant_(group.models[2].get_parameter("stem.0.weight"), weights)
        losses = [group.step(self.data(step, change))[1] for step in range(3)]
        return [*losses, *group.models[1].state_dict().values()]

    @staticmethod
    def data(step: int, change: float | None) -> list[Batch]:
        drawn = [(images.float(), labels) for images, labels in batches(3, seed=step)]
        if change is None:
            return drawn
        return [(x if i == 1 else x * change, labels) for i, (x, labels) in enumerate(drawn)]


@pytest.mark.parametrize("norm", ["bn", "gn", "none"])
def test_no_bit_of_a_member_depends_on_the_others(norm: str) -> None:
    bits = Bits(norm)
    right = bits.of()
    others = {
        "other images": bits.of(change=-3.0),
        "NaN": bits.of(change=float("nan")),
        "infinite": bits.of(change=float("inf")),
        "weights that overflow": bits.of(weights=1e38),
        "none there": bits.of(ghosts=(0, 2)),
        "copies of it": bits.of(ghosts=(0, 2), alike=True),
    }
    for name, found in others.items():
        assert all(map(torch.equal, found, right)), name


def test_a_member_whose_gradient_is_not_finite_is_skipped_alone() -> None:
    group = Group(models(2, width=4), [SAM_ON, SAM_ON])
    before = [p.detach().clone() for p in group.models[0].parameters()]
    buffers = group.optimizers[0].state_dict()["state"]
    data = batches(2)
    data[0] = (data[0][0] * float("nan"), data[0][1])
    group.step(data)
    assert [float(each.last_step.skipped) for each in group.optimizers] == [1, 0]
    assert all(map(torch.equal, group.models[0].parameters(), before))
    assert group.optimizers[0].state_dict()["state"] == buffers == {}


def test_a_group_goes_on_from_the_states_of_its_members() -> None:
    members, methods = models(2, width=4), [SAM_ON, Method("asam", "all", 0.5)]
    whole, first, second = (Group(members, methods) for _ in range(3))
    trained(whole, 4)
    trained(first, 2)
    for slot in range(2):
        second.models[slot].load_state_dict(first.models[slot].state_dict())
        second.optimizers[slot].load_state_dict(first.optimizers[slot].state_dict())
    for step in range(2, 4):
        second.step(batches(2, seed=step))
    for a, b in zip(whole.models, second.models, strict=True):
        torch.testing.assert_close(a.state_dict(), b.state_dict(), rtol=0, atol=0)


def test_the_catalog_says_which_methods_fit() -> None:
    whole = {name for name in VARIANTS if not unbatched(name, {})}
    assert whole == {
        *("none", "sam", "asam", "asam_linf", "asam_layer", "asam_filter", "fisher_sam", "ssam_f")
    }
    assert unbatched("sam", {"ascent": "previous"}).endswith("not from the gradient of the batch")
    assert unbatched("sam", {"ascent_precision": "bfloat16"}).endswith("leave ascent_precision out")
    assert unbatched("sam", {"m": 8}).endswith("leave m out")
    assert unbatched("sam", {"bn_statistics": "both"}).endswith("leave bn_statistics out")
