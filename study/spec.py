"""What a study is: strict types, resolved to what will run, hashed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from typing import Annotated, Any, ClassVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    model_validator,
)
from pydantic_core import PydanticCustomError

from study.records import Value
from trainables import catalog
from trainables.catalog import nearest

NAME = r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}"
SEARCH_KEYS = ("rho", "lr", "weight_decay", "momentum", "label_smoothing", "batch_size")
"""What a search may tune besides the options of the arm's variant."""
METHOD_KEYS = ("variant", "perturb")
"""What a search may choose a method by."""
ADAPTIVE = ("tpe", "gp", "cmaes")
"""Samplers that read how earlier trials ended."""
EPOCH_PRUNERS = ("median", "successive_halving", "hyperband")
"""Pruners that stop a trial by its validation accuracy after an epoch."""


def one_of(what: str, allowed: Collection[str]) -> AfterValidator:
    """A validator that refuses other words, naming the allowed ones and the nearest."""

    def check(word: str) -> str:
        if word not in allowed:
            raise PydanticCustomError("choice", "{text}", {"text": not_in(what, word, allowed)})
        return word

    return AfterValidator(check)


def not_in(what: str, word: object, allowed: Collection[str]) -> str:
    """What to tell of a word that is none of those allowed."""
    return f"unknown {what} {word!r}; allowed: {', '.join(allowed)}{nearest(word, allowed)}"


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


def _scalar(value: object) -> object:
    if not isinstance(value, (bool, int, float, str)):
        text = f"must be a number, a word, true or false, not {value!r}"
        raise PydanticCustomError("scalar", "{text}", {"text": text})
    return value


def _in_order(words: list[str]) -> list[str]:
    """Diagnostics as a set, in one order, so that two ways to write them make one hash."""
    return [word for word in catalog.DIAGNOSTICS if word in words]


Name = Annotated[str, Field(pattern=f"^{NAME}$")]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Share = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(ge=1, le=10**9)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]


class Part(BaseModel):
    """A mapping of the file with known keys only."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    extra_keys: ClassVar[bool] = False

    @model_validator(mode="before")
    @classmethod
    def _keys(cls, data: Any) -> Any:
        if isinstance(data, BaseModel):
            return data
        allowed = list(cls.model_fields)
        if not isinstance(data, dict):
            text = f"must be a mapping with the keys {', '.join(allowed)}"
            raise PydanticCustomError("mapping", "{text}", {"text": text})
        for key in data:
            if key not in allowed and not cls.extra_keys:
                text = not_in("key", key, allowed)
                raise PydanticCustomError("key", "{text}", {"text": text, "key": key})
        return data


class Data(Part):
    """workload.data. Sizes in images; label_noise: share of training labels made wrong."""

    name: Annotated[str, AfterValidator(_known_data)]
    train_size: Count | None = None
    validation_size: Count
    label_noise: Fraction = 0.0
    augment: str = ""
    split_seed: Seed = 0
    root: str | None = None
    image_size: Annotated[int, Field(ge=4, le=1024)] = 32


class Model(Part):
    """workload.model. width: channels of the first stage of a resnet. norm: its normalization, a
    word of those that the model takes. affine: whether normalization layers have parameters.

    A model by import path takes any further keys: the options that its callable is called with.
    """

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)
    extra_keys = True
    __pydantic_extra__: dict[str, Annotated[Value, BeforeValidator(_scalar)]] = Field(init=False)

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
    gradient that the base optimizer gets. accumulate: slices that a batch is cut into.
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
    accumulate: Count = 1
    precision: Annotated[str, one_of("precision", ("float32", "bfloat16", "float16"))] = "float32"
    diagnostics: Annotated[
        list[Annotated[str, one_of("diagnostic", catalog.DIAGNOSTICS)]], AfterValidator(_in_order)
    ] = Field(default=[])


class Span(Part):
    """Where the search looks for one hyperparameter: a range, or choices.

    points: how many values of the range a grid takes, both ends among them. borrowed: set when
    the subset has no range of its own and took that of `norm`.
    """

    low: Annotated[float, Field(allow_inf_nan=False)] | None = None
    high: Annotated[float, Field(allow_inf_nan=False)] | None = None
    log: bool = False
    step: Positive | None = None
    choices: list[Annotated[Value, BeforeValidator(_scalar)]] | None = None
    points: Annotated[int, Field(ge=2, le=10_000)] | None = None
    borrowed: bool = False


class Tune(Part):
    """The search stage: budget, sampler, pruner, seed. trials_per_arm is absent for a grid.

    search_seeds: runs of each configuration, on as many seeds; their mean is its score.
    """

    trials_per_arm: Count | None = None
    sampler: Annotated[str, one_of("sampler", ("qmc", "random", "grid", *ADAPTIVE))] = "qmc"
    pruner: Annotated[str, one_of("pruner", ("none", *EPOCH_PRUNERS, "wilcoxon"))] = "none"
    objective: Annotated[str, one_of("objective", ("validation_accuracy",))] = "validation_accuracy"
    seed: Seed = 0
    search_seeds: Annotated[int, Field(ge=1, le=1000)] = 1


class Confirm(Part):
    """The confirm stage: the same fresh seeds for every arm."""

    seeds: Annotated[int, Field(ge=2, le=10_000)]


class Verdict(Part):
    """The planned comparisons: each arm with the baseline, and the pairs of `also`.

    equivalence_margin: percentage points of test accuracy that would not matter.
    """

    baseline: str
    also: list[Annotated[list[str], Field(min_length=2, max_length=2)]] = Field(default=[])
    equivalence_margin: Positive
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95


class Resources(Part):
    """What one trial holds: CPU cores and GPUs (a share of one is allowed)."""

    cpu: Count = 1
    gpu: NotNegative = 0.0
    max_trials: Count | None = None


class Method(Part):
    """A variant on a subset, with the options that are set; variant none perturbs 'none'.

    rho: the suggested range, where the search gives rho as a position from 0 to 1 in it.
    """

    variant: str
    perturb: str
    options: dict[str, Value]
    rho: Span | None = None

    @property
    def title(self) -> str:
        """As a reader would call it."""
        return self.variant if self.perturb == "none" else f"{self.variant} on {self.perturb}"

    def takes(self, key: str) -> bool:
        """Whether the variant has an option of this name."""
        return key in catalog.VARIANTS[self.variant].options

    @property
    def cost(self) -> float:
        """Gradient evaluations a step."""
        return catalog.cost(self.variant, self.options)


class Arm(Part):
    """What is compared with other arms: one method, or several that its search chooses from.

    search: ranges by hyperparameter, resolved; `variant` and `perturb` among them where the arm
    has several methods.
    """

    methods: Annotated[list[Method], Field(min_length=1)]
    search: dict[str, Span]
    trials: int
    seed_offset: int

    def method(self, point: Mapping[str, Value]) -> Method:
        """The method that hyperparameters choose; the first one where they choose none."""
        return next(
            method
            for method in self.methods
            if point.get("variant", method.variant) == method.variant
            and point.get("perturb", method.perturb) == method.perturb
        )

    @property
    def title(self) -> str:
        """Its methods as a reader would call them."""
        return " or ".join(method.title for method in self.methods)

    @property
    def cost(self) -> float:
        """Gradient evaluations a step, of the costliest method."""
        return max(method.cost for method in self.methods)


class Spec(Part):
    """A study as it will run."""

    study: Name
    question: str
    workload: Workload
    arms: dict[str, Arm]
    tune: Tune
    confirm: Confirm
    verdict: Verdict
    resources: Resources

    def hashed(self) -> dict[str, Any]:
        """The plain values that decide the numbers: all but names of places and the question."""
        plain = self.model_dump()
        del plain["question"], plain["workload"]["data"]["root"], plain["resources"]["max_trials"]
        return plain

    @property
    def hash(self) -> str:
        """SHA-256, hexadecimal, of `hashed()` as canonical JSON."""
        text = json.dumps(self.hashed(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """The planned family (arm, against): every arm against the baseline, then `also`."""
        baseline = self.verdict.baseline
        family = [(arm, baseline) for arm in self.arms if arm != baseline]
        return [*family, *((a, b) for a, b in self.verdict.also)]
