"""workload: what is fixed for every arm of a study."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from study.part import (
    Count,
    Fraction,
    NotNegative,
    Part,
    Positive,
    Scalar,
    Seed,
    Share,
    not_in,
    one_of,
)
from trainables import catalog


def _known_data(name: str) -> str:
    if name not in catalog.DATASETS and not catalog.is_own(name):
        text = not_in("data set", name, catalog.DATA_NAMES)
        raise PydanticCustomError("choice", "{text}", {"text": text})
    return name


def _known_model(name: str) -> str:
    if catalog.model_options(name) is None and not catalog.is_own(name):
        text = not_in("model", name, catalog.MODEL_NAMES)
        raise PydanticCustomError("choice", "{text}", {"text": text})
    return name


def _in_order(words: list[str]) -> list[str]:
    """Diagnostics as a set, in one order, so that two ways to write them make one hash."""
    return [word for word in catalog.DIAGNOSTICS if word in words]


class Data(Part):
    """workload.data. Sizes in images; label_noise: share of training labels made wrong; stream:
    whether images stay in their files and are decoded when they are needed."""

    name: Annotated[str, AfterValidator(_known_data)]
    train_size: Count | None = None
    validation_size: Count
    label_noise: Fraction = 0.0
    augment: str = ""
    split_seed: Seed = 0
    root: str | None = None
    image_size: Annotated[int, Field(ge=4, le=1024)] = 32
    stream: bool = False


class Model(Part):
    """workload.model. width: channels of the first stage of a resnet. norm: its normalization, a
    word of those that the model takes. affine: whether normalization layers have parameters.

    A model by import path takes any further keys: the options that its callable is called with.
    """

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)
    extra_keys = True
    __pydantic_extra__: dict[str, Scalar] = Field(init=False)

    name: Annotated[str, AfterValidator(_known_model)]
    width: Annotated[int, Field(ge=1, le=4096)] | None = None
    norm: str | None = None
    affine: bool | None = None

    @model_validator(mode="before")
    @classmethod
    def _options(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        own = catalog.is_own(data.get("name"))
        for key in data:
            if own and key in ("num_classes", "in_channels", "image_size"):
                text = "comes from the data set; leave it out"
            elif own or key in cls.model_fields:
                continue
            else:
                text = not_in("key", key, list(cls.model_fields))
            raise PydanticCustomError("key", "{text}", {"text": text, "key": key})
        return data


class Optimizer(Part):
    """workload.optimizer: the base optimizer. Keys that it does not take are None.

    decay_norm_and_bias: whether weight decay also acts on the parameters of normalization layers
    and on biases.
    """

    name: Annotated[str, one_of("optimizer", catalog.OPTIMIZERS)]
    lr: Positive
    weight_decay: NotNegative = 0.0
    decay_norm_and_bias: bool = True
    momentum: Fraction | None = None
    nesterov: bool | None = None
    beta1: Fraction | None = None
    beta2: Fraction | None = None


class Schedule(Part):
    """workload.schedule: how the learning rate changes. Keys that it does not take are None.

    per: how often it changes. warmup: epochs of linear rise before. milestones: shares of the
    epochs, rising, after each of which the rate is multiplied by gamma.
    """

    name: Annotated[str, one_of("schedule", catalog.SCHEDULES)] = "cosine"
    per: Annotated[str, one_of("interval", ("epoch", "step"))] = "epoch"
    warmup: NotNegative = 0.0
    milestones: Annotated[list[Share], Field(min_length=1)] | None = None
    gamma: Share | None = None


class Budget(Part):
    """workload.budget: what every arm spends as much of as the arm `of`, which has workload.epochs.

    Matched gradient evaluations give the cheaper arms more epochs; their schedules stretch.
    """

    match: Annotated[str, one_of("budget", ("epochs", "gradient_evaluations"))]
    of: str


class Workload(Part):
    """What is fixed for every arm.

    train: the parameters that learn, all others are frozen. clip_norm: largest l2 norm of the
    gradient that the base optimizer gets. ema: decay of the moving average of the weights that is
    scored in their place. accumulate: slices that a batch is cut into.
    precision: of the forward passes. diagnostics: what is measured in every step besides.
    """

    data: Data
    model: Model
    optimizer: Optimizer
    epochs: Count
    batch_size: Count
    label_smoothing: Fraction = 0.0
    budget: Budget | None = None
    schedule: Schedule = Schedule()
    train: Annotated[str, one_of("part to train", ("all", "norm", "no_norm"))] = "all"
    clip_norm: Positive | None = None
    ema: Share | None = None
    accumulate: Count = 1
    precision: Annotated[str, one_of("precision", ("float32", "bfloat16", "float16"))] = "float32"
    diagnostics: Annotated[
        list[Annotated[str, one_of("diagnostic", catalog.DIAGNOSTICS)]], AfterValidator(_in_order)
    ] = Field(default=[])
