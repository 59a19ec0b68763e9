"""How much the training loss rises around the weights of a model: docs/measures.md."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from trainables.measures import apgd
from trainables.measures.apgd import Norm
from trainables.measures.row import Row
from trainables.measures.subject import Batch, Subject
from trainables.measures.surface import Surface

IMAGES = 512
DRAWS = 5
"""Draws a batch of the average case."""
NORMS: tuple[Norm, ...] = ("l2", "linf")


@dataclass(frozen=True)
class Kind:
    """A ball: its norm, and whether it is measured in units of |w|, with normalised logits."""

    norm: Norm
    adaptive: bool

    @property
    def name(self) -> str:
        """As it stands in names of measures."""
        return self.norm + ("_adaptive" if self.adaptive else "")


KINDS = tuple(Kind(norm, adaptive) for norm in NORMS for adaptive in (False, True))

Radii: TypeAlias = Mapping[str, Mapping[str, tuple[float, ...]]]
"""By family of models and kind: the first and the third of those of Andriushchenko et al."""
AVERAGE: Radii = {
    "cnn": {
        "l2": (0.05, 0.2),
        "l2_adaptive": (0.05, 0.2),
        "linf": (0.1, 0.4),
        "linf_adaptive": (0.1, 0.4),
    },
    "vit": {
        "l2": (0.005, 0.02),
        "l2_adaptive": (0.1, 0.4),
        "linf": (0.01, 0.04),
        "linf_adaptive": (0.1, 0.4),
    },
}
WORST: Radii = {
    "cnn": {
        "l2": (0.25, 1.0),
        "l2_adaptive": (0.25, 1.0),
        "linf": (5e-4, 2e-3),
        "linf_adaptive": (1e-3, 4e-3),
    },
    "vit": {
        "l2": (0.025, 0.1),
        "l2_adaptive": (0.5, 2.0),
        "linf": (1e-5, 4e-5),
        "linf_adaptive": (5e-4, 2e-3),
    },
}


def sharpness(subject: Subject) -> Iterator[Row]:
    """Rise of the loss on average and at worst, for every part, kind and radius."""
    family = "cnn" if is_convolutional(subject.model) else "vit"
    batches = subject.training_batches(IMAGES)
    for part, names in subject.parts.items():
        surface = Surface(subject.model, names)
        for kind in KINDS:
            functions = [_around(surface, kind, batch) for batch in batches]
            near, far = AVERAGE[family][kind.name], WORST[family][kind.name]
            # Of one seed: the same draws for every arm and radius, and for adaptive or not.
            generator = subject.generator(1, NORMS.index(kind.norm))
            average = [
                average_rise(f, draws(surface.weights, kind.norm, generator), near)
                for f in functions
            ]
            worst = [worst_rise(f, surface.weights, kind.norm, far) for f in functions]
            for case, radii, rises in (("average", near, average), ("worst", far, worst)):
                for radius, rise in zip(radii, torch.stack(rises).mean(0).tolist(), strict=True):
                    yield Row(f"{case}_{kind.name}", part, radius, rise)


def average_rise(
    function: Callable[[Tensor], Tensor], drawn: Sequence[Tensor], radii: Sequence[float]
) -> Tensor:
    """Mean of f(r u) - f(0) over the draws u for each of the radii r, [radii]."""
    with torch.no_grad():
        values = [torch.stack([function(radius * u) for radius in radii]) for u in drawn]
        return torch.stack(values).mean(0) - function(torch.zeros_like(drawn[0]))


def worst_rise(
    function: Callable[[Tensor], Tensor], like: Tensor, norm: Norm, radii: Sequence[float]
) -> Tensor:
    """Largest f(z) - f(0) found where norm(z) <= r, for each of the radii r, [radii]; at least 0.

    like: shape and device of z, [N].
    """
    begin = apgd.start(function, like)
    best = [apgd.largest(function, begin, norm, radius).value for radius in radii]
    return torch.stack(best) - begin.value


def draws(like: Tensor, norm: Norm, generator: torch.Generator) -> list[Tensor]:
    """DRAWS vectors of standard normal elements (l2), or of uniform ones in -1 ... 1 (linf)."""
    empty = [torch.empty_like(like) for _ in range(DRAWS)]
    if norm == "l2":
        return [u.normal_(generator=generator) for u in empty]
    return [u.uniform_(-1, 1, generator=generator) for u in empty]


def is_convolutional(model: nn.Module) -> bool:
    """Whether it has convolutions other than one, which would embed patches."""
    return sum(isinstance(module, _ConvNd) for module in model.modules()) > 1


def _around(surface: Surface, kind: Kind, batch: Batch) -> Callable[[Tensor], Tensor]:
    """The loss of a batch at w + T z as a function of z; T = |w| where adaptive, else 1."""
    weights = surface.weights
    scale = weights.abs() if kind.adaptive else torch.ones_like(weights)
    return lambda z: surface.loss(weights + scale * z, batch, normalised=kind.adaptive)
