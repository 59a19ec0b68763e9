"""Geometries: how an ascent direction becomes a perturbation, and the ranges of rho that fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from trainables.catalog.subsets import Kind


@dataclass(frozen=True)
class Range:
    """A numeric search range. low, high: inclusive ends; log: drawn uniformly in the logarithm."""

    low: float
    high: float
    log: bool = True


@dataclass(frozen=True)
class Geometry:
    """norm: what of the perturbation equals rho on the perturbed subset. rho: suggested range per
    kind of subset, empty where none is established. eta: default of the option."""

    norm: str
    rho: Mapping[Kind, Range] = field(default_factory=dict)
    eta: float = 0.0


GEOMETRIES: Mapping[str, Geometry] = {
    "l2": Geometry("l2", {"dense": Range(0.02, 1.0), "sparse": Range(0.1, 5.0)}),
    "elementwise": Geometry(
        "elementwise l2", {"dense": Range(0.2, 10.0), "sparse": Range(0.6, 30.0)}
    ),
    "elementwise_linf": Geometry(
        "elementwise linf", {"dense": Range(0.0005, 0.025), "sparse": Range(0.005, 0.25)}
    ),
    "layer": Geometry("layer l2", {"dense": Range(0.004, 0.2), "sparse": Range(0.02, 1.0)}),
    "filter": Geometry("filter l2"),
    "fisher": Geometry(
        "fisher l2", {"dense": Range(0.02, 1.0), "sparse": Range(0.02, 1.0)}, eta=1.0
    ),
}
