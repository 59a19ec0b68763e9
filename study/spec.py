"""What a study is: strict types, resolved to what will run, hashed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from study.part import Count, Name, NotNegative, Part, Positive, Scalar, Seed, Trials, one_of
from study.records import Value
from study.workload import Workload
from trainables import catalog

SEARCH_KEYS = ("rho", "lr", "weight_decay", "momentum", "label_smoothing", "batch_size")
"""What a search may tune besides the options of the arm's variant."""
METHOD_KEYS = ("variant", "perturb")
"""What a search may choose a method by."""
ADAPTIVE = ("tpe", "gp", "cmaes")
"""Samplers that read how earlier trials ended."""
EPOCH_PRUNERS = ("median", "successive_halving", "hyperband")
"""Pruners that stop a trial by its validation accuracy after an epoch."""

Percent = Annotated[float, Field(ge=0, le=100)]
Retries = Annotated[int, Field(ge=0, le=1000)]


class Span(Part):
    """Where the search looks for one hyperparameter: a range, or choices.

    points: how many values of the range a grid takes, both ends among them. borrowed: set when
    the subset has no range of its own and took that of `norm`.
    """

    low: Annotated[float, Field(allow_inf_nan=False)] | None = None
    high: Annotated[float, Field(allow_inf_nan=False)] | None = None
    log: bool = False
    step: Positive | None = None
    choices: list[Scalar] | None = None
    points: Annotated[int, Field(ge=2, le=10_000)] | None = None
    borrowed: bool = False


class Tune(Part):
    """The search stage: budget, sampler, pruner, seed. trials_per_arm is absent for a grid.

    search_seeds: runs of each configuration, on as many seeds; their mean is its score.
    """

    trials_per_arm: Trials | None = None
    sampler: Annotated[str, one_of("sampler", ("qmc", "random", "grid", *ADAPTIVE))] = "qmc"
    pruner: Annotated[str, one_of("pruner", ("none", *EPOCH_PRUNERS, "wilcoxon"))] = "none"
    objective: Annotated[str, one_of("objective", ("validation_accuracy",))] = "validation_accuracy"
    seed: Seed = 0
    search_seeds: Annotated[int, Field(ge=1, le=1000)] = 1


def _once(words: list[str]) -> list[str]:
    if twice := [word for word in dict.fromkeys(words) if words.count(word) > 1]:
        text = f"{twice[0]} stands there twice; once is enough"
        raise PydanticCustomError("twice", "{text}", {"text": text})
    return words


class Confirm(Part):
    """The confirm stage: the same fresh seeds for every arm.

    measure: what is measured on the weights of its runs once all of them are done.
    """

    seeds: Annotated[int, Field(ge=2, le=10_000)]
    measure: Annotated[
        list[Annotated[str, one_of("measure", catalog.MEASURES)]], AfterValidator(_once)
    ] = Field(default=[])


class Verdict(Part):
    """The planned comparisons: each arm with the baseline, and the pairs of `also`.

    equivalence_margin: percentage points of test accuracy that would not matter.
    """

    baseline: str
    also: list[Annotated[list[str], Field(min_length=2, max_length=2)]] = Field(default=[])
    equivalence_margin: Positive
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95


def _gpus(gpus: float) -> float:
    if gpus > 1 and not gpus.is_integer():
        text = f"must be a share of one GPU, at most 1, or a whole number of them, not {gpus:g}"
        raise PydanticCustomError("gpus", "{text}", {"text": text})
    return gpus


class Resources(Part):
    """What one trial holds: GPUs, or a share of one, and CPU cores.

    With more than one GPU it trains in as many processes, its workers; cpu is then of each.
    max_trials: side by side. price_per_hour: of a GPU, or of a CPU core where a trial has no GPU,
    in any currency. seconds_per_epoch: of an arm with one gradient evaluation a step, where it is
    known; the others take as many times that.
    """

    cpu: Count = 1
    gpu: Annotated[NotNegative, AfterValidator(_gpus)] = 0.0
    max_trials: Count | None = None
    price_per_hour: Positive | None = None
    seconds_per_epoch: Positive | None = None

    @property
    def workers(self) -> int:
        """Processes that train one trial."""
        return max(1, int(self.gpu))

    @property
    def amounts(self) -> str:
        """What a trial holds, as a reader would say it."""
        if self.workers > 1:
            return f"{self.workers} workers with 1 GPU and {self.cpu} CPU each"
        return f"{self.cpu} CPU" + (f" and {self.gpu:g} GPU" if self.gpu else "")


class Settings(Part):
    """engine: how a trial is computed. What is left open, None, is decided by catalog.settings.

    channels_last: weights in the layout of convolutions. compile: the network by torch.compile.
    eval_batch: images of a batch of evaluation. batched_trials: how many trials of an arm and stage
    one process trains as one.
    """

    channels_last: bool | None = None
    compile: bool = False
    eval_batch: Count | None = None
    batched_trials: Annotated[int, Field(ge=1, le=64)] = 1

    def slot(self, index: int) -> tuple[int, int]:
        """The number of the group that the trial of this index is in, and its slot there."""
        return divmod(index, self.batched_trials)


class Checkpoint(Part):
    """When a trial keeps a checkpoint: after so many epochs or seconds, whichever comes first."""

    epochs: Count | None = None
    seconds: Positive | None = None


CHECKPOINT, RETRIES, STUCK_AFTER = Checkpoint(seconds=60), 3, 900.0
"""What a spec that says nothing of them gets."""
BEFORE_SETTINGS = Settings(channels_last=True, eval_batch=1024)
"""How studies ran whose journal says nothing of it."""


class Reference(Part):
    """reference: what others published for the arms of this study, to stand beside what it finds.

    source: where. accuracy: test accuracy in percent by arm, None where it is not known. curve: by
    arm, pairs of rho and test accuracy.
    """

    source: Annotated[str, Field(min_length=1)]
    accuracy: dict[str, Percent | None] = Field(default={})
    curve: dict[str, list[Annotated[list[Positive], Field(min_length=2, max_length=2)]]] = Field(
        default={}
    )


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

    def approximations(self, point: Mapping[str, Value]) -> list[str]:
        """What makes steps with these hyperparameters cheaper than their formula, and not equal to
        it; empty where they are."""
        return catalog.approximations(self.variant, {**self.options, **point})

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

    def span(self, key: str, point: Mapping[str, Value]) -> Span:
        """Where the search of the method that `point` chooses looks for `key`."""
        own = self.method(point).rho if key == "rho" else None
        return own or self.search[key]

    @property
    def title(self) -> str:
        """Its methods as a reader would call them."""
        return " or ".join(method.title for method in self.methods)

    @property
    def cost(self) -> float:
        """Gradient evaluations a step, of the costliest method."""
        return max(method.cost for method in self.methods)


class Spec(Part):
    """A study as it will run.

    retries: how often a trial may fail without coming any further than before. stuck_after: seconds
    without a sign of life from a trial, after which its process is ended.
    """

    study: Name
    question: str
    workload: Workload
    arms: dict[str, Arm]
    tune: Tune
    confirm: Confirm
    verdict: Verdict
    resources: Resources
    engine: Settings = BEFORE_SETTINGS
    checkpoint: Checkpoint = CHECKPOINT
    retries: Retries = RETRIES
    stuck_after: Positive = STUCK_AFTER
    reference: Reference | None = None

    def hashed(self) -> dict[str, Any]:
        """The plain values that decide the numbers: neither places, nor the question, nor what
        others found, nor how mishaps are met, nor what is measured once the numbers are there."""
        apart = {"question", "reference", "checkpoint", "retries", "stuck_after"}
        plain = self.model_dump(exclude=apart)
        del plain["confirm"]["measure"]
        for place in ("root", "stream"):
            del plain["workload"]["data"][place]
        plain["resources"] = self.resources.model_dump(include={"cpu", "gpu"})
        if plain["engine"]["batched_trials"] == 1:  # as a study of before there was this key
            del plain["engine"]["batched_trials"]
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
