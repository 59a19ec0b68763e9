"""Variants of SAM: presets over the parts of trainables.sam. docs/variants.md has the formulas."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from trainables.catalog.geometries import GEOMETRIES
from trainables.catalog.options import Option, share_of

Options = Mapping[str, Any]


def _ascent_cost(options: Options) -> float:
    """Gradient evaluations of the pass at w."""
    ascent = options.get("ascent", "batch")
    return 1.0 if ascent == "batch" else share_of(ascent, "fraction") or 0.0


@dataclass(frozen=True)
class Variant:
    """A SAM algorithm: a preset over the choices of trainables.sam.

    geometry: how the ascent direction becomes a perturbation, None where there is no ascent.
    ascent: where the direction comes from. update: which gradient the base optimizer gets.
    ascent_cost: gradient evaluations of a perturbed step beyond the one of the base optimizer (one
    forward and backward over one full batch counts 1), from the options.
    has_range: whether the geometry's suggested range of rho fits. norm_is_rho: whether the
    geometry's norm of the perturbation equals rho on the perturbed subset. zero_is_base: whether
    rho = 0 gives the base optimizer. stored: which weights the parameters hold between two steps.
    base_steps: base optimizer updates a step; `k`: as many as the option says. perturb_all:
    whether it chooses what to perturb itself. takes_scaler: whether its losses may be scaled.
    reads_epoch: whether it has to know the epoch, whatever its options. whole_batch: why it cannot
    train in several processes, each with a part of every batch; empty where it can.
    """

    title: str
    paper: str
    geometry: str | None = "l2"
    ascent: str = "batch"
    update: str = "perturbed"
    options: Mapping[str, Option] = field(default_factory=dict)
    ascent_cost: Callable[[Options], float] = _ascent_cost
    has_range: bool = True
    norm_is_rho: bool = True
    zero_is_base: Literal["exact", "rounding", "no"] = "exact"
    stored: Literal["clean"] = "clean"
    base_steps: Literal[1, "k"] = 1
    perturb_all: bool = False
    takes_scaler: bool = True
    reads_epoch: bool = False
    whole_batch: str = ""


_WHEN = {
    "every": Option(1, "perturb in every k-th step only", low=1, whole=True),
    "start_epoch": Option(0, "first epoch that perturbs", low=0, whole=True),
    "end_epoch": Option(None, "first epoch that perturbs no longer", low=0, whole=True),
    "rho_schedule": Option(
        "constant", "how rho changes over the epochs", words=("constant", "linear", "cosine", "lr")
    ),
    "rho_end": Option(0.0, "share of rho at the end of the schedule", low=0.0),
}
_PASSES = {
    "bn_statistics": Option(
        "first",
        "which forward passes update BatchNorm statistics",
        words=("first", "both", "none"),
    ),
    "dropout_masks": Option(
        "independent", "dropout of the two passes", words=("independent", "same")
    ),
}
_SCALES = {
    "eta": Option(0.0, "added to |w|, as the geometry says", low=0.0),
    "normalize_bias": Option(True, "the geometry's scale for biases too; otherwise 1 there"),
}
_GEOMETRY = {
    "geometry": Option("l2", "how a direction becomes a perturbation", words=tuple(GEOMETRIES)),
    **_SCALES,
    "eta": Option(None, "of the geometry; by default 0, for fisher 1", low=0.0),
}
_RADIUS = {
    "radius": Option(
        "renormalised",
        "norms over the perturbed parameters, or over all of them",
        words=("renormalised", "shared"),
    )
}
_M = {"m": Option(None, "samples a perturbation", low=1, whole=True)}
_ASCENT = {
    "ascent": Option(
        "batch",
        "where the direction comes from",
        words=("batch", "previous", "momentum", "random"),
        share="fraction",
    )
}
_ASCENT_PRECISION = {
    "ascent_precision": Option(
        None, "of the pass at w, whose gradient serves the ascent alone", words=("bfloat16",)
    )
}
_COMMON = {**_WHEN, **_PASSES, **_RADIUS, **_M}
_FREE = {
    **_COMMON,
    **_GEOMETRY,
}
"""Options of a variant that takes any geometry."""
_MASKED = {
    "density": Option(
        0.5, "share of all parameters in the mask", 0.0, 1.0, True, words=("matched",)
    ),
    "refresh": Option(5, "epochs between two masks", low=1, whole=True),
}


def _without(options: Mapping[str, Option], *names: str) -> dict[str, Option]:
    return {name: option for name, option in options.items() if name not in names}


def _sam(title: str, paper: str, geometry: str) -> Variant:
    """SAM itself in one geometry."""
    scales: dict[str, dict[str, Option]] = {
        "l2": {},
        "fisher": {"eta": Option(1.0, "weight of g^2 in F", low=0.0)},
    }
    options = {**_COMMON, **_ASCENT, **_ASCENT_PRECISION, **scales.get(geometry, _SCALES)}
    return Variant(title, paper, geometry, options=options)


_MUELLER = "Mueller et al., Normalization Layers Are All That SAM Needs, arXiv 2306.04226"

VARIANTS: Mapping[str, Variant] = {
    "none": Variant(
        title="base optimizer without perturbation",
        paper="",
        geometry=None,
        ascent_cost=lambda options: 0.0,
        norm_is_rho=False,
    ),
    "sam": _sam(
        "SAM: e = rho g / ||g||",
        "Foret et al., Sharpness-Aware Minimization, arXiv 2010.01412, equation 2",
        "l2",
    ),
    "asam": _sam(
        "ASAM, elementwise l2: e = rho T^2 g / ||T g||, T = |w| + eta",
        "Kwon et al., ASAM, arXiv 2102.11600, equation 3 and section 3",
        "elementwise",
    ),
    "asam_linf": _sam(
        "ASAM, elementwise linf: e = rho T sign(g), T = |w| + eta", _MUELLER, "elementwise_linf"
    ),
    "asam_layer": _sam("ASAM, layerwise l2: T = ||w_l|| (1 + eta)", _MUELLER, "layer"),
    "asam_filter": _sam(
        "ASAM, filterwise l2: T = ||w_f|| + eta",
        "Kwon et al., ASAM, arXiv 2102.11600, section 3",
        "filter",
    ),
    "fisher_sam": _sam(
        "Fisher-SAM: e = rho F^-1 g / ||F^-1/2 g||, F = 1 + eta g^2",
        "Kim et al., Fisher SAM, arXiv 2206.04920",
        "fisher",
    ),
    "gsam": Variant(
        title="GSAM: descends also along the part of g orthogonal to the perturbed gradient",
        paper="Zhuang et al., Surrogate Gap Minimization, arXiv 2203.08065",
        update="gsam",
        options={
            "alpha": Option(0.4, "weight of the orthogonal part", low=0.0),
            **_FREE,
            "rho_schedule": replace(_WHEN["rho_schedule"], default="lr"),
            "rho_end": replace(_WHEN["rho_end"], default=0.167),
        },
        zero_is_base="rounding",
    ),
    "looksam": Variant(
        title="LookSAM: the sharpness part of the gradient is renewed in every k-th step only",
        paper="Liu et al., Towards Efficient and Scalable SAM, arXiv 2203.02714",
        update="looksam",
        options={
            "k": Option(5, "steps between two perturbations", low=1, whole=True),
            "alpha": Option(0.7, "weight of the kept part", low=0.0),
            **_without(_FREE, "every"),
        },
        ascent_cost=lambda options: 1 / options["k"],
        zero_is_base="no",
    ),
    "esam": Variant(
        title="ESAM: random parts of the weights, the most sensitive part of the batch",
        paper="Du et al., Efficient Sharpness-aware Minimization, arXiv 2110.03141",
        update="esam",
        options={
            "beta": Option(0.6, "probability that a tensor is perturbed", 0.0, 1.0, True),
            "gamma": Option(0.5, "share of the batch in the second pass", 0.0, 1.0, True),
            **_without(_FREE, "m", "radius"),
        },
        ascent_cost=lambda options: 1 / 3 + options["gamma"],
        norm_is_rho=False,
        zero_is_base="no",
        whole_batch="compares the samples of a batch with each other",
    ),
    "ssam_f": Variant(
        title="SSAM-F: SAM on the elements of largest empirical Fisher information",
        paper="Mi et al., Make Sharpness-Aware Minimization Stronger, arXiv 2210.05177",
        options={
            **_MASKED,
            "fisher_samples": Option(1024, "samples that score the elements", low=1, whole=True),
            **_FREE,
            **_ASCENT_PRECISION,
        },
        perturb_all=True,
        reads_epoch=True,
    ),
    "ssam_d": Variant(
        title="SSAM-D: SAM on elements that are dropped by gradient and grown at random",
        paper="Mi et al., Make Sharpness-Aware Minimization Stronger, arXiv 2210.05177",
        update="ssam_d",
        options={
            **_MASKED,
            "drop_rate": Option(0.5, "share of the mask that is dropped at first", 0.0, 1.0),
            **_FREE,
            **_ASCENT_PRECISION,
        },
        perturb_all=True,
        reads_epoch=True,
    ),
    "lookbehind": Variant(
        title="Lookbehind: k ascent steps, each with a descent step, then interpolation",
        paper="Mordido et al., Lookbehind-SAM, arXiv 2307.16704",
        update="lookbehind",
        takes_scaler=False,
        options={
            "k": Option(2, "ascent and descent steps", low=1, whole=True),
            "alpha": Option(0.5, "share of the way to the fast weights", 0.0, 1.0, True),
            **_without(_FREE, "m", "dropout_masks", "radius"),
        },
        ascent_cost=lambda options: float(options["k"]),
        zero_is_base="no",
        base_steps="k",
    ),
    "sampa": Variant(
        title="SAMPa: perturbs with the gradient at an auxiliary point; two passes at once",
        paper="Xie et al., SAMPa, arXiv 2410.10683",
        update="sampa",
        takes_scaler=False,
        options={
            "lambda_": Option(0.2, "weight of the gradient at the auxiliary point", 0.0, 1.0),
            **_without(_FREE, "m", "dropout_masks", "radius", "every"),
        },
        zero_is_base="no",
        whole_batch="keeps the batch of the step before",
    ),
    "msam": Variant(
        title="Momentum-SAM: e = -rho v / ||v||, v the momentum",
        paper="Becker et al., Momentum-SAM, arXiv 2401.12033",
        ascent="momentum",
        options=_without(_FREE, "dropout_masks", "m", "radius"),
        ascent_cost=lambda options: 0.0,
        has_range=False,
    ),
    "fsam": Variant(
        title="Friendly SAM: perturbs without the part of g that all batches share",
        paper="Li et al., Friendly Sharpness-Aware Minimization, arXiv 2403.12350",
        ascent="friendly",
        options={
            "sigma": Option(1.0, "weight of the shared part", low=0.0),
            "decay": Option(0.9, "of the moving average that stands for it", 0.0, 1.0),
            **_FREE,
            **_ASCENT_PRECISION,
        },
    ),
    "vasso": Variant(
        title="VaSSO: perturbs along a moving average of g",
        paper="Li and Giannakis, VaSSO, arXiv 2309.15639",
        ascent="averaged",
        options={
            "theta": Option(0.9, "weight of the newest gradient", 0.0, 1.0, True),
            **_FREE,
            **_ASCENT_PRECISION,
        },
    ),
    "wsam": Variant(
        title="WSAM, decoupled: a base step with g, then a step along g_p - g",
        paper="Yue et al., Sharpness-Aware Minimization Revisited, arXiv 2305.15817",
        update="wsam",
        options={
            "gamma": Option(0.9, "weight of the sharpness, below 1", 0.0, 0.999),
            **_FREE,
        },
        zero_is_base="rounding",
    ),
    "stable_sam": Variant(
        title="StableSAM: the perturbed gradient with the length of g",
        paper="Tan et al., Stabilizing Sharpness-aware Minimization, arXiv 2401.07250",
        update="stable_sam",
        options=_FREE,
        zero_is_base="rounding",
    ),
    "ae_sam": Variant(
        title="AE-SAM: perturbs only where the gradient is large",
        paper="Jiang et al., An Adaptive Policy to Employ SAM, arXiv 2304.14647",
        update="ae_sam",
        reads_epoch=True,
        options={
            "delta": Option(0.9, "of the running mean and variance of ||g||^2", 0.0, 1.0),
            "lambda_1": Option(-1.0, "threshold at the end"),
            "lambda_2": Option(1.0, "threshold at the start"),
            **_without(_FREE, "m"),
        },
        zero_is_base="rounding",
    ),
    "ire": Variant(
        title="SAM with implicit regularization enhancement: longer steps in flat directions",
        paper="Wang et al., Improving Generalization by Enhancing IR, arXiv 2405.20763",
        update="ire",
        options={
            "rank": Option(0.2, "share of the elements that count as sharp", 0.0, 1.0),
            "mu": Option(2.0, "how much longer the step is elsewhere", low=0.0),
            "refresh": Option(10, "steps between two masks", low=1, whole=True),
            "ire_start": Option(0, "first epoch with longer steps", low=0, whole=True),
            **_FREE,
        },
        zero_is_base="no",
    ),
}
