"""Small networks with one kind of normalization layer each, and batches for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainables.sam import SharpnessAware

Batch = tuple[Tensor, Tensor]


def _conv_net(norm: Callable[[int], nn.Module]) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        norm(4),
        nn.Tanh(),
        nn.Conv2d(4, 6, 3, stride=2),
        norm(6),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(24, 3),
    )


def _line_net() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(36, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 3)
    )


NETS: dict[str, Callable[[], nn.Module]] = {
    "batch": lambda: _conv_net(nn.BatchNorm2d),
    "layer": _line_net,
    "group": lambda: _conv_net(lambda channels: nn.GroupNorm(2, channels)),
}
# Written by hand, so that they check the selection by module type.
NORM_NAMES = {
    "batch": ["1.weight", "1.bias", "4.weight", "4.bias"],
    "layer": ["2.weight", "2.bias"],
    "group": ["1.weight", "1.bias", "4.weight", "4.bias"],
}


def make_net(kind: str, dtype: torch.dtype = torch.float64) -> nn.Module:
    """The net of this kind, the same at every call; no weight is 0."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        net = NETS[kind]().double()
        with torch.no_grad():
            for p in net.parameters():
                p.add_(0.3 * torch.randn_like(p))
    return net.to(dtype)


def make_batches(count: int, samples: int = 12, dtype: torch.dtype = torch.float64) -> list[Batch]:
    """`count` batches of 6x6 images and labels."""
    generator = torch.Generator().manual_seed(2)
    return [
        (
            torch.randn(samples, 1, 6, 6, generator=generator, dtype=torch.float64).to(dtype),
            torch.randint(0, 3, (samples,), generator=generator),
        )
        for _ in range(count)
    ]


def loss_of(net: nn.Module) -> Callable[[Batch], Tensor]:
    """Cross-entropy of each sample."""
    return lambda batch: functional.cross_entropy(net(batch[0]), batch[1], reduction="none")


def sgd(net: nn.Module, **options: Any) -> torch.optim.SGD:
    """SGD with momentum and weight decay over all parameters."""
    return torch.optim.SGD(
        net.parameters(), **{"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01} | options
    )


def make(
    kind: str = "batch", dtype: torch.dtype = torch.float64, **options: Any
) -> tuple[nn.Module, SharpnessAware]:
    """A net and a SharpnessAware over SGD in its first of five epochs; options as of
    SharpnessAware, rho 0.1 unless given."""
    net = make_net(kind, dtype)
    if options.get("variant") != "none":
        options.setdefault("rho", 0.1)
    optimizer = SharpnessAware(net, sgd(net), **options)
    begin(net, optimizer, dtype=dtype)
    return net, optimizer


def begin(
    net: nn.Module,
    optimizer: SharpnessAware,
    epoch: int = 0,
    dtype: torch.dtype = torch.float64,
) -> None:
    """Tells the optimizer its epoch of five, with what it may want to look at."""
    samples = make_batches(2, dtype=dtype)
    optimizer.begin_epoch(epoch, 5, samples=samples, loss_fn=loss_of(net))


def weights_of(net: nn.Module) -> dict[str, Tensor]:
    """A copy of every parameter."""
    return {name: p.detach().clone() for name, p in net.named_parameters()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Whether the bits of two sets of tensors are the same."""
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
