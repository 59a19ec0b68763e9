"""Base optimizers, learning-rate schedules and diagnostics by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Choice:
    """A word for `name` in a part of the workload.

    own: the keys that it takes and not every other word does, each with its default. Which values
    a key may have is the same for all words: study.spec says it.
    """

    title: str
    own: Mapping[str, Any] = field(default_factory=dict)


OPTIMIZERS: Mapping[str, Choice] = {
    "sgd": Choice(
        "stochastic gradient descent; weight decay is added to the gradient",
        {"momentum": 0.0, "nesterov": False},
    ),
    "adamw": Choice(
        "Loshchilov and Hutter, Decoupled Weight Decay Regularization, arXiv 1711.05101",
        {"beta1": 0.9, "beta2": 0.999},
    ),
    "lion": Choice(
        "Chen et al., Symbolic Discovery of Optimization Algorithms, arXiv 2302.06675",
        {"beta1": 0.9, "beta2": 0.99},
    ),
}

SCHEDULES: Mapping[str, Choice] = {
    "cosine": Choice("half a cosine from the learning rate to 0"),
    "multistep": Choice(
        "multiplied by gamma at each milestone, a share of the epochs",
        {"milestones": [0.5, 0.75], "gamma": 0.1},
    ),
    "constant": Choice("the same learning rate from first to last"),
}

DIAGNOSTICS = ("loss_rise", "cosine", "gradient_norms")
"""What a training may measure in every step besides its metrics."""
