"""What decides a trial's numbers, besides the data set and the machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Config:
    """Everything that decides a trial's numbers, besides the data set and the machine.

    model: name, and model_options its other options. rho: None for variants without one. options:
    of the variant. epochs, batch_size: in images, an incomplete last batch is left out. seed:
    draws split, label noise, initialisation, order and augmentation. channels_last, compile,
    eval_batch: as in the engine settings of a study. The others as in its workload; None is the
    default of optimizer or schedule, or a key that they do not take.
    """

    model: str
    model_options: Mapping[str, Any]
    lr: float
    momentum: float | None
    weight_decay: float
    epochs: int
    batch_size: int
    label_smoothing: float
    variant: str
    perturb: str
    rho: float | None
    train_size: int | None
    validation_size: int
    label_noise: float
    augment: str
    seed: int
    options: Mapping[str, Any] = field(default_factory=dict)
    optimizer: str = "sgd"
    nesterov: bool | None = None
    beta1: float | None = None
    beta2: float | None = None
    decay_norm_and_bias: bool = True
    schedule: str = "cosine"
    schedule_per: str = "epoch"
    warmup: float = 0.0
    milestones: Sequence[float] | None = None
    gamma: float | None = None
    train: str = "all"
    clip_norm: float | None = None
    accumulate: int = 1
    precision: str = "float32"
    diagnostics: Sequence[str] = ()
    channels_last: bool = False
    compile: bool = False
    eval_batch: int = 1024
