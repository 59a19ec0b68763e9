"""What follows from a variant with its options: its cost, its limits, what it is called."""

from __future__ import annotations

from trainables.catalog.geometries import GEOMETRIES, Range
from trainables.catalog.options import share_of
from trainables.catalog.subsets import Kind
from trainables.catalog.variants import VARIANTS, Options


def cost(variant: str, options: Options) -> float:
    """Gradient evaluations a step of `variant` with all its options, on average; for ae_sam and a
    first or last epoch of perturbation at most that many."""
    every: int = options.get("every", 1)
    return 1 + VARIANTS[variant].ascent_cost(options) / every


def steady(variant: str, options: Options) -> bool:
    """Whether `cost` holds from the first epoch to the last, and not only at most."""
    whole_run = options.get("start_epoch", 0) == 0 and options.get("end_epoch") is None
    return whole_run and variant != "ae_sam"


def undivided(variant: str, options: Options) -> str:
    """Why `variant` with these options would depend on how many processes train, each with a part
    of every batch, or could not; empty where it does not. Fits behind its name."""
    ascent, m = options.get("ascent", "batch"), options.get("m")
    if share_of(ascent, "fraction") is not None and m is None:
        return "perturbs by the first samples of a whole batch; give m, of which each takes its own"
    if ascent == "random" and m is not None:
        return "draws a direction for each m samples of a batch, one after another; leave m out"
    return VARIANTS[variant].whole_batch


CLASHING = ("ascent", "ascent_precision")
"""Options that may exclude each other."""


def clash(options: Options) -> str:
    """Why these options of one variant exclude each other; empty where they do not."""
    ascent = options.get("ascent", "batch")
    if options.get("ascent_precision") is not None and ascent in ("previous", "momentum", "random"):
        return f"ascent {ascent} makes no pass that ascent_precision could speak of; leave one out"
    return ""


def approximations(variant: str, options: Options) -> list[str]:
    """In what the steps fall short of the ascent of `variant` to be cheaper; empty where they
    compute its formula to rounding. Each fits behind 'approximate: '."""
    if VARIANTS[variant].geometry is None:
        return []
    found = []
    if (share := share_of(options.get("ascent"), "fraction")) is not None:
        found.append(f"ascent on {share:g} of the batch")
    if options.get("ascent") == "previous":
        found.append("ascent along the gradient of the step before")
    if options.get("ascent_precision") is not None:
        found.append(f"ascent in {options['ascent_precision']}")
    if (every := options.get("every", 1)) > 1:
        found.append(f"perturbed in one of {every:g} steps")
    return found


def unbatched(variant: str, options: Options) -> str:
    """Why trials of `variant` with these options cannot be trained several as one; empty where they
    can. Fits behind its name."""
    if VARIANTS[variant].update != "perturbed":
        return "does more in a step than one pass at w and one at w + e"
    if (ascent := options.get("ascent", VARIANTS[variant].ascent)) != "batch":
        return f"takes its direction from {ascent}, not from the gradient of the batch"
    if options.get("ascent_precision") is not None:
        return "takes its direction in another precision; leave ascent_precision out"
    if options.get("m") is not None:
        return "perturbs for each m samples of a batch; leave m out"
    if options.get("bn_statistics") == "both":
        return "updates the statistics of BatchNorm in both passes; leave bn_statistics out"
    return ""


def geometry(variant: str, options: Options) -> str | None:
    """The geometry of `variant` with its options, None without an ascent."""
    chosen: str | None = options.get("geometry", VARIANTS[variant].geometry)
    return chosen


def suggested(variant: str, options: Options, kind: Kind) -> Range | None:
    """The range of rho that is suggested on a subset of this kind; None where none is known."""
    name = geometry(variant, options)
    if name is None or not VARIANTS[variant].has_range:
        return None
    if options.get("ascent", "batch") in ("momentum", "random"):
        return None
    return GEOMETRIES[name].rho.get("sparse" if options.get("density") == "matched" else kind)
