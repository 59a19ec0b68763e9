"""The search space of an arm: what a range may be, its points, its Optuna distributions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING

import numpy as np

from study.records import Value
from study.spec import Arm, Span, Spec
from trainables import catalog

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

WHOLE = ("batch_size",)
"""Hyperparameters that take whole numbers."""

Point = Mapping[str, Value]


def points(spec: Spec, name: str) -> list[Point]:
    """What the search trials of the arm `name` try, in order: a pure function of seed and index.

    Every arm reads the same unit draws, one column a hyperparameter, rho first. An arm with
    nothing to tune gets empty points.
    """
    arm = spec.arms[name]
    if not arm.search:
        return [{} for _ in range(arm.trials)]
    if spec.tune.sampler == "grid":
        axes = [[(key, value) for value in _axis(key, s)] for key, s in arm.search.items()]
        return [dict(point) for point in itertools.product(*axes)]
    draws = _unit_draws(spec)[: arm.trials]
    return [
        # A narrow arm leaves the last columns unused.
        {
            key: at(key, span, float(u))
            for (key, span), u in zip(arm.search.items(), row, strict=False)
        }
        for row in draws
    ]


def _unit_draws(spec: Spec) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Draws in [0, 1), as many rows as the largest budget, as many columns as the widest arm."""
    rows = max(arm.trials for arm in spec.arms.values())
    columns = max(len(arm.search) for arm in spec.arms.values())
    generator = np.random.default_rng(spec.tune.seed)
    if spec.tune.sampler == "random":
        return generator.random((rows, columns))
    from scipy.stats import qmc  # imports half of scipy

    sobol = qmc.Sobol(columns, scramble=True, rng=generator)
    return np.asarray(sobol.random_base2(math.ceil(math.log2(rows)))[:rows])


def at(key: str, span: Span, u: float) -> Value:
    """The value at position `u` in [0, 1) of a range, on its step if it has one."""
    if span.choices is not None:
        return span.choices[min(int(u * len(span.choices)), len(span.choices) - 1)]
    assert span.low is not None
    assert span.high is not None
    if key in WHOLE or span.step is not None:
        # Each grid value owns an equal share of [0, 1), the ends included.
        if span.log:
            return min(math.floor(_between(span.low, span.high + 1, True, u)), int(span.high))
        # In decimals, as Optuna does: 0.1 + 2 * 0.1 is 0.3, an end of the range and not above it.
        low, high, step = (Decimal(str(number)) for number in (span.low, span.high, span.step or 1))
        count = int((high - low) // step) + 1
        value = low + step * min(int(u * count), count - 1)
        return int(value) if key in WHOLE else float(value)
    return _between(span.low, span.high, span.log, u)


def _between(low: float, high: float, log: bool, u: float) -> float:
    value = low * (high / low) ** u if log else low + (high - low) * u
    return min(max(value, low), high)


def _axis(key: str, span: Span) -> Iterator[Value]:
    """The values of a grid along one hyperparameter, both ends of a range among them."""
    if span.choices is not None:
        yield from span.choices
        return
    assert span.low is not None
    assert span.high is not None
    assert span.points is not None
    for i in range(span.points):
        last = i == span.points - 1
        value = (
            span.high if last else _between(span.low, span.high, span.log, i / (span.points - 1))
        )
        yield round(value) if key in WHOLE else value


def grid_size(arm: Arm) -> int:
    """Number of points of the arm's grid; 1 where there is nothing to tune."""
    return math.prod(
        len(s.choices) if s.choices is not None else s.points or 1 for s in arm.search.values()
    )


def distributions(arm: Arm) -> dict[str, BaseDistribution]:
    """The Optuna distributions of the arm's search space, by hyperparameter."""
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    def distribution(key: str, span: Span) -> BaseDistribution:
        if span.choices is not None:
            return CategoricalDistribution(span.choices)
        assert span.low is not None
        assert span.high is not None
        # The last step of a range that its step does not divide; Optuna would warn of the rest.
        high = span.high if span.step is None else float(at(key, span, math.nextafter(1, 0)))
        if key in WHOLE:
            step = 1 if span.log else int(span.step or 1)
            return IntDistribution(int(span.low), int(high), log=span.log, step=step)
        return FloatDistribution(span.low, high, log=span.log, step=span.step)

    return {key: distribution(key, span) for key, span in arm.search.items()}


def span_problem(key: str, span: Span, variant: str, sampler: str) -> str | None:
    """What is wrong between the fields of one search range, or None."""
    if span.choices is not None:
        if span.model_fields_set - {"choices"}:
            return "choices stand alone, without low, high, log, step or points"
        if not span.choices or len(set(span.choices)) < len(span.choices):
            return "choices must name at least one value, each once"
        return _first_problem(key, span.choices, variant)
    if span.low is None or span.high is None:
        return "give low and high, or choices"
    if not span.low < span.high:
        return f"low {span.low:g} must be below high {span.high:g}"
    if span.log and span.low <= 0:
        return f"a logarithmic range starts above 0, not at {span.low:g}"
    if span.log and span.step is not None:
        return "step and log exclude each other"
    if span.step is not None and not 1 <= (span.high - span.low) / span.step <= 1e9:
        return f"step {span.step:g} must fit into the range, at most 1e9 times"
    if sampler == "grid" and span.points is None:
        return "a grid needs points: N, or choices"
    if sampler != "grid" and span.points is not None:
        return "points is for the sampler grid"
    if span.points is not None and span.step is not None:
        return "step and points exclude each other"
    if key in WHOLE:
        if not all(float(n).is_integer() for n in (span.low, span.high, span.step or 1)):
            return f"{key} takes whole numbers"
        if span.points is not None and len(set(_axis(key, span))) < span.points:
            return f"the range holds fewer than {span.points} whole numbers; lower points"
        return _first_problem(key, (int(span.low), int(span.high)), variant)
    return _first_problem(key, (span.low, span.high), variant)


def _first_problem(key: str, values: Sequence[Value], variant: str) -> str | None:
    return next(filter(None, (_value_problem(key, value, variant) for value in values)), None)


def _value_problem(key: str, value: Value, variant: str) -> str | None:
    """What is wrong with one value of a searched hyperparameter, or None."""
    if (option := catalog.VARIANTS[variant].options.get(key)) is not None:
        return option.problem(value)
    if isinstance(value, (bool, str)) or not math.isfinite(value):
        return f"{value!r} is not a finite number"
    if key in WHOLE and not (isinstance(value, int) and value >= 1):
        return f"{value!r} is not a whole number from 1"
    if key in ("momentum", "label_smoothing") and not 0 <= value < 1:
        return f"{value!r} is not at least 0 and below 1"
    if key == "lr" and not value > 0:
        return f"{value!r} is not above 0"
    return f"{value!r} is below 0" if value < 0 else None
