"""A measured number."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """A number measured on a model.

    measure: its name, as in docs/measures.md. part: of the parameters (all, norm, rest), or a
    tensor's name, empty where it means nothing. at: a radius, an eps, a severity, a position or
    the left edge of a bin, None where there is none.
    """

    measure: str
    part: str
    at: float | None
    value: float
