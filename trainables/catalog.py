"""Facts that both packages read, without torch: variants, subsets, models and data sets.

Everything that a spec may name is declared here once; `study.spec` checks against it and
`trainables` builds from it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["dense", "sparse"]


@dataclass(frozen=True)
class Range:
    """A numeric search range. low, high: inclusive ends; log: drawn uniformly in the logarithm."""

    low: float
    high: float
    log: bool = True


@dataclass(frozen=True)
class Option:
    """An option of a variant, given by name in an arm or as a keyword of SharpnessAware.

    default: its value when absent; low: smallest allowed number; choices: allowed words.
    A bool default means that the option is a switch.
    """

    default: float | bool | str
    help: str
    low: float | None = None
    choices: tuple[str, ...] = ()

    def problem(self, value: object) -> str | None:
        """What is wrong with `value`, or None. The text fits behind 'NAME: '."""
        if self.choices:
            if value not in self.choices:
                return f"{value!r} is not one of {', '.join(self.choices)}"
        elif isinstance(self.default, bool):
            if not isinstance(value, bool):
                return f"{value!r} is not true or false"
        elif isinstance(value, bool) or not isinstance(value, (int, float)):
            return f"{value!r} is not a number"
        elif self.low is not None and not value >= self.low:
            return f"{value!r} is below {self.low:g}"
        return None


@dataclass(frozen=True)
class Variant:
    """A SAM algorithm: a preset over the choices of trainables.sam.

    geometry: how the ascent gradient becomes a perturbation, None where there is no ascent.
    rho: suggested range per kind of subset; empty where the variant has no rho.
    cost: gradient evaluations a step (one forward and backward over one full batch counts 1).
    norm: which norm of the perturbation equals rho on the perturbed subset.
    zero_is_base: whether rho = 0 gives the base optimizer.
    stored: which weights the parameters hold between two steps.
    base_steps: base optimizer updates a step.
    """

    title: str
    paper: str
    geometry: str | None
    rho: Mapping[Kind, Range]
    cost: float
    norm: Literal["l2", "elementwise l2", "none"]
    options: Mapping[str, Option] = field(default_factory=dict)
    zero_is_base: Literal["exact", "rounding", "no"] = "exact"
    stored: Literal["clean", "perturbed"] = "clean"
    base_steps: int = 1


_BN_STATISTICS = Option(
    "first", "which forward passes update BatchNorm statistics", choices=("first", "both", "none")
)

VARIANTS: Mapping[str, Variant] = {
    "none": Variant(
        title="base optimizer without perturbation",
        paper="",
        geometry=None,
        rho={},
        cost=1,
        norm="none",
    ),
    "sam": Variant(
        title="SAM: e = rho g / ||g||",
        paper="Foret et al., Sharpness-Aware Minimization, arXiv 2010.01412, equation 2",
        geometry="l2",
        rho={"dense": Range(0.02, 1.0), "sparse": Range(0.1, 5.0)},
        cost=2,
        norm="l2",
        options={"bn_statistics": _BN_STATISTICS},
    ),
    "asam": Variant(
        title="ASAM, elementwise l2: e = rho T^2 g / ||T g||, T = |w| + eta",
        paper="Kwon et al., ASAM, arXiv 2102.11600, equation 3 and section 3",
        geometry="elementwise",
        rho={"dense": Range(0.2, 10.0), "sparse": Range(0.6, 30.0)},
        cost=2,
        norm="elementwise l2",
        options={
            "eta": Option(0.0, "added to |w| in T", low=0.0),
            "normalize_bias": Option(True, "T = |w| + eta for biases too; otherwise T = 1 there"),
            "bn_statistics": _BN_STATISTICS,
        },
    ),
}

SUBSETS: Mapping[str, Kind] = {"all": "dense", "norm": "sparse", "no_norm": "dense"}


@dataclass(frozen=True)
class DataSet:
    """What is known of a data set before it is read.

    pool, test, classes: their numbers where fixed; takes: keys of workload.data that other data
    sets do not take; needs_root: whether data.root must be given; augment: allowed augmentations,
    the first is the default; flips only where a mirrored image is one of the same class.
    """

    title: str
    augment: tuple[str, ...]
    takes: tuple[str, ...] = ()
    needs_root: bool = False
    pool: int | None = None
    test: int | None = None
    classes: int | None = None


DATASETS: Mapping[str, DataSet] = {
    "digits": DataSet(
        title="handwritten digits of scikit-learn, 8x8, grey",
        augment=("crop", "none"),
        pool=1100,
        test=697,
        classes=10,
    ),
    "cifar10": DataSet(
        title="CIFAR-10: photographs, 32x32, colour",
        augment=("crop_flip", "crop", "none"),
        takes=("root",),
        pool=50_000,
        test=10_000,
        classes=10,
    ),
    "cifar100": DataSet(
        title="CIFAR-100: photographs, 32x32, colour",
        augment=("crop_flip", "crop", "none"),
        takes=("root",),
        pool=50_000,
        test=10_000,
        classes=100,
    ),
    "imagefolder": DataSet(
        title="a folder with train/CLASS/ and test/CLASS/ of image files",
        augment=("crop_flip", "crop", "none"),
        takes=("root", "image_size"),
        needs_root=True,
    ),
}

OWN = "MODULE:CALLABLE"
_IDENTIFIER = r"[^\W\d]\w*"
_IMPORT_PATH = re.compile(rf"{_IDENTIFIER}(\.{_IDENTIFIER})*:{_IDENTIFIER}")
_OWN_DATA = DataSet(
    title="a data set of the user's own", augment=("none", "crop", "crop_flip"), takes=("root",)
)
DATA_NAMES = (*DATASETS, OWN)


def is_own(name: object) -> bool:
    """Whether a model or data set is named by import path, as in my_package.nets:make_net."""
    return isinstance(name, str) and _IMPORT_PATH.fullmatch(name) is not None


def data_set(name: str) -> DataSet:
    """What is known of a data set. Raises KeyError for a name of no known form."""
    return _OWN_DATA if is_own(name) else DATASETS[name]


RESNETS = ("resnet8", "resnet20", "resnet32", "resnet44", "resnet56")
_TIMM = re.compile(r"timm/[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)?")


def model_options(name: str) -> tuple[str, ...] | None:
    """Options that the model `name` takes besides its name, or None for one not declared here.

    Of a user's own model nothing is declared: it gets every option.
    """
    if name in RESNETS:
        return ("width",)
    return () if name == "vit" or _TIMM.fullmatch(name) else None


MODEL_NAMES = (*RESNETS, "vit", "timm/NAME", OWN)
