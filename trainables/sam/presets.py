"""What a user may ask for: variants, rho and options, checked against the catalog."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from trainables.catalog import GEOMETRIES, VARIANTS, Variant, clash, geometry


def preset_of(variant: str) -> Variant:
    """The catalog entry of `variant`; ValueError that lists all for an unknown one."""
    if variant not in VARIANTS:
        raise ValueError(f"unknown variant {variant!r}; allowed: {', '.join(VARIANTS)}")
    return VARIANTS[variant]


def check_rho(variant: str, rho: float | None) -> None:
    """Raise ValueError unless `rho` is a finite number >= 0, or None where there is no rho."""
    if preset_of(variant).geometry is None:
        if rho is not None:
            raise ValueError(f"variant {variant!r} takes no rho, got {rho!r}")
    elif (
        not isinstance(rho, (int, float))
        or isinstance(rho, bool)
        or not (math.isfinite(rho) and rho >= 0)
    ):
        raise ValueError(f"variant {variant!r} needs rho, a finite number >= 0, got {rho!r}")


def check_precision(options: Mapping[str, Any], parameters: Mapping[str, Tensor]) -> None:
    """Raise ValueError where `ascent_precision` is given and a parameter is not in float32, because
    autocast would leave it as it is."""
    others = [name for name, p in parameters.items() if p.dtype != torch.float32]
    if options.get("ascent_precision") is not None and others:
        raise ValueError(
            f"ascent_precision lowers that of float32, and {others[0]} is "
            f"{parameters[others[0]].dtype}; leave it out, or make the model float32"
        )


def complete_options(variant: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Options of `variant`, defaults filled in; ValueError for a wrong name or value, and for
    options that exclude each other."""
    options = preset_of(variant).options
    for name, value in given.items():
        if name not in options:
            raise ValueError(
                f"variant {variant!r} takes no option {name!r}; allowed: "
                f"{', '.join(options) or 'none'}"
            )
        problem = options[name].problem(value)
        if problem:
            raise ValueError(f"{name}: {problem}")
    complete = {name: option.default for name, option in options.items()} | dict(given)
    if why := clash(complete):
        raise ValueError(why)
    chosen = geometry(variant, complete)
    if chosen is not None:
        # What the geometry reads, whether or not this variant lets anyone choose it.
        if complete.get("eta") is None:
            complete["eta"] = GEOMETRIES[chosen].eta
        complete.setdefault("normalize_bias", True)
    return complete
