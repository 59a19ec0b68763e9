"""What both passes of a step share runs once, and the numbers are those of two whole passes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD

from trainables.models import make_model
from trainables.sam import SharpnessAware

STEPS = 4


class Counted(nn.Linear):
    """Counts how often it runs."""

    ran = 0

    def forward(self, x: Tensor) -> Tensor:
        self.ran += 1
        return super().forward(x)


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = Counted(64, 16)
        self.scale = nn.Parameter(torch.ones(16))
        self.last = Counted(16, 5)

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.last(self.hidden(self.first(images.flatten(1)) * self.scale))
        return out

    def hidden(self, x: Tensor) -> Tensor:
        return x.tanh()


class InPlace(Plain):
    """Changes what a module returned."""

    def hidden(self, x: Tensor) -> Tensor:
        return x.relu_()

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.last(self.hidden(self.first(images.flatten(1))))
        return out


class Direct(Plain):
    """Reads a weight before the module that holds it runs."""

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.first(images.flatten(1) + self.last.weight.sum())
        out: Tensor = self.last(self.hidden(hidden))
        return out


class Drawing(Plain):
    def hidden(self, x: Tensor) -> Tensor:
        return F.dropout(x, 0.5)


def trained(
    make: Callable[[], nn.Module], perturb: str, *, whole: bool = False, **options: Any
) -> nn.Module:
    """A model after some steps; whole: each of two whole passes."""
    torch.manual_seed(0)
    model = make()
    base = SGD(model.parameters(), 0.1, momentum=0.9)
    optimizer = SharpnessAware(model, base, perturb=perturb, rho=0.2, **options)
    if whole:
        optimizer._reuse.recorded = optimizer._reuse.replayed = nothing  # type: ignore
        optimizer._reuse.parameters = lambda perturbed: set()  # type: ignore[method-assign]
    draws = torch.Generator().manual_seed(1)

    def losses(batch: tuple[Tensor, Tensor]) -> Tensor:
        return F.cross_entropy(model(batch[0]), batch[1], reduction="none")

    for _ in range(STEPS):
        images = torch.randn(8, 1, 8, 8, generator=draws)
        optimizer.step(losses, (images, torch.randint(0, 5, (8,), generator=draws)))
    return model


@contextmanager
def nothing(*given: object) -> Iterator[None]:
    yield


def assert_same(a: nn.Module, b: nn.Module) -> None:
    for (name, x), y in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
        assert torch.equal(x, y), name


@pytest.mark.parametrize("perturb", ["norm", "norm_last:0.3", "head", "norm_weight", "all"])
@pytest.mark.parametrize("name", ["resnet8", "resnet20", "wrn16_4", "vit", "densenet100"])
def test_weights_and_statistics_are_those_of_two_whole_passes(name: str, perturb: str) -> None:
    def make() -> nn.Module:
        width = {"width": 4} if name.startswith("resnet") else {}
        return make_model(name, num_classes=5, in_channels=1, image_size=8, **width)

    assert_same(trained(make, perturb), trained(make, perturb, whole=True))


@pytest.mark.parametrize(
    ("make", "runs"),
    [(Plain, STEPS + 1), (InPlace, 2 * STEPS), (Direct, 2 * STEPS), (Drawing, 2 * STEPS)],
)
def test_only_what_gives_the_same_is_left_out(make: type[Plain], runs: int) -> None:
    model, whole = trained(make, "head"), trained(make, "head", whole=True)
    assert isinstance(model, Plain)
    assert_same(model, whole)
    assert (model.first.ran, model.last.ran) == (runs, 2 * STEPS)


def test_chunks_of_a_batch_go_on_from_their_own_pass() -> None:
    model = trained(Plain, "head", m=4)
    assert_same(model, trained(Plain, "head", m=4, whole=True))
    assert isinstance(model, Plain)
    assert model.first.ran == 2 * STEPS + 1  # two chunks a step


def test_slices_that_share_a_perturbation_are_not_kept() -> None:
    assert_same(
        trained(Plain, "head", ascent="fraction:0.5"),
        trained(Plain, "head", ascent="fraction:0.5", whole=True),
    )


def test_a_pass_in_another_precision_is_not_gone_on_from() -> None:
    model = trained(Plain, "head", ascent_precision="bfloat16")
    assert_same(model, trained(Plain, "head", ascent_precision="bfloat16", whole=True))
    assert isinstance(model, Plain)
    assert model.first.ran == 2 * STEPS


def test_a_perturbation_of_zero_proves_nothing() -> None:
    torch.manual_seed(0)
    model = Direct()
    optimizer = SharpnessAware(model, SGD(model.parameters(), 0.1), perturb="head", rho=0.0)
    batch = (torch.randn(8, 1, 8, 8), torch.randint(0, 5, (8,)))
    for group in (0.0, 0.0, 0.5, 0.5, 0.5):
        optimizer.param_groups[0]["rho"] = group
        optimizer.step(lambda b: F.cross_entropy(model(b[0]), b[1], reduction="none"), batch)
    assert model.first.ran == 10


def test_a_pass_that_fails_leaves_nothing_behind() -> None:
    torch.manual_seed(0)
    model = Plain()
    optimizer = SharpnessAware(model, SGD(model.parameters(), 0.1), perturb="head", rho=0.5)
    batch = (torch.randn(8, 1, 8, 8), torch.randint(0, 5, (8,)))
    calls = 0

    def losses(b: tuple[Tensor, Tensor]) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 6:
            raise RuntimeError("the second pass of the third step")
        return F.cross_entropy(model(b[0]), b[1], reduction="none")

    for _ in range(2):
        optimizer.step(losses, batch)
    with pytest.raises(RuntimeError, match="third step"):
        optimizer.step(losses, batch)
    assert "forward" not in vars(model.first)
    before = model.first.ran
    model(batch[0])
    assert model.first.ran == before + 1
