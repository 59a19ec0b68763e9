"""Groups of small models with what trains them, and the same models apart."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from trainables.batched.network import GroupedNetwork
from trainables.batched.step import Turn, lock_step
from trainables.models import make_model
from trainables.sam import SharpnessAware

Batch = tuple[Tensor, Tensor]


def models(count: int, name: str = "resnet8", size: int = 8, **options: Any) -> list[nn.Module]:
    """Different models of one architecture in float64, no weight of theirs 0."""
    made = []
    for seed in range(count):
        torch.manual_seed(seed)
        model = make_model(name, num_classes=3, in_channels=2, image_size=size, **options)
        with torch.no_grad():
            for p in model.parameters():
                p.add_(0.05 * torch.randn_like(p))
        made.append(model.double())
    return made


def batches(count: int, samples: int = 6, size: int = 8, seed: int = 0) -> list[Batch]:
    """A batch for each model."""
    drawn = torch.Generator().manual_seed(seed)
    return [
        (
            torch.randn(samples, 2, size, size, generator=drawn, dtype=torch.float64),
            torch.randint(3, (samples,), generator=drawn),
        )
        for _ in range(count)
    ]


def losses(labels: Tensor, logits: Tensor) -> Tensor:
    """Cross-entropy of each image."""
    return cross_entropy(logits, labels, reduction="none")


@dataclass(frozen=True)
class Method:
    """What a member is trained with."""

    variant: str = "sam"
    perturb: str = "all"
    rho: float | None = 0.1
    options: tuple[tuple[str, Any], ...] = ()
    clip_norm: float | None = None

    def optimizer(self, model: nn.Module, lr: float) -> SharpnessAware:
        """Over SGD with momentum."""
        sgd = torch.optim.SGD(
            [p for p in model.parameters() if p.requires_grad],
            lr,
            momentum=0.9,
            weight_decay=0.01,
            fused=True,
        )
        return SharpnessAware(
            model, sgd, self.variant, self.perturb, self.rho, **dict(self.options)
        )


class Group:
    """Members of a grouped network by slot; those in `ghosts` take no turn."""

    def __init__(
        self, members: Sequence[nn.Module], methods: Sequence[Method], ghosts: Sequence[int] = ()
    ) -> None:
        self.models = [copy.deepcopy(member) for member in members]
        self.methods = methods
        self.optimizers = [
            method.optimizer(model, 0.05 * (1 + slot))
            for slot, (model, method) in enumerate(zip(self.models, methods, strict=True))
        ]
        self.network = GroupedNetwork(self.models)
        self.ghosts = ghosts

    def step(self, data: Sequence[Batch]) -> dict[int, Tensor]:
        """A step of all on a batch each."""
        return lock_step(
            self.network,
            {
                slot: Turn(
                    self.optimizers[slot],
                    images,
                    partial(losses, labels),
                    self.methods[slot].clip_norm,
                )
                for slot, (images, labels) in enumerate(data)
                if slot not in self.ghosts
            },
        )


class Apart:
    """The same members, each trained for itself."""

    def __init__(self, members: Sequence[nn.Module], methods: Sequence[Method]) -> None:
        self.models = [copy.deepcopy(member).train() for member in members]
        self.methods = methods
        self.optimizers = [
            method.optimizer(model, 0.05 * (1 + slot))
            for slot, (model, method) in enumerate(zip(self.models, methods, strict=True))
        ]

    def step(self, data: Sequence[Batch]) -> dict[int, Tensor]:
        """A step of all on a batch each."""
        return {slot: self._step(slot, batch) for slot, batch in enumerate(data)}

    def _step(self, slot: int, batch: Batch) -> Tensor:
        def of_model(batch: Batch) -> Tensor:
            images, labels = batch
            return losses(labels, self.models[slot](images))

        clip_norm = self.methods[slot].clip_norm
        return self.optimizers[slot].step(of_model, batch, clip_norm=clip_norm)
