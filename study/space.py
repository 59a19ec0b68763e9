"""The search space of an arm: what a range may be, its points, what a point means in training.

A point holds what the sampler sees; the hyperparameters of a trial follow from it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING

import numpy as np

from study.records import Value
from study.spec import ADAPTIVE, METHOD_KEYS, SEARCH_KEYS, Arm, Span, Spec
from trainables import catalog

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution

WHOLE = frozenset(
    ["batch_size"]
    + [
        name
        for variant in catalog.VARIANTS.values()
        for name, option in variant.options.items()
        if option.whole
    ]
)
"""Hyperparameters that take whole numbers."""

MAX_GRID = 10_000
"""Points of a grid; more are a mistake, and would fill the memory."""

Point = Mapping[str, Value]


def points(spec: Spec, name: str) -> list[Point]:
    """The points of the arm `name` that are known from the start, in order: a pure function of
    seed and index. All of them, or with an adaptive sampler those that it starts with.

    Every arm reads the same unit draws, one column a hyperparameter, rho first. An arm with
    nothing to tune gets empty points.
    """
    arm = spec.arms[name]
    if not arm.search:
        return [{} for _ in range(arm.trials)]
    if spec.tune.sampler == "grid":
        return grid(arm)
    count = startup(arm.trials) if spec.tune.sampler in ADAPTIVE else arm.trials
    columns = sorted(arm.search, key=lambda key: (key != "rho", key))
    return [
        # A narrow arm leaves the last columns unused.
        {key: at(key, arm.search[key], float(u)) for key, u in zip(columns, row, strict=False)}
        for row in _unit_draws(spec)[:count]
    ]


def startup(trials: int) -> int:
    """How many points an adaptive sampler starts with, before it reads how they ended."""
    return min(trials, max(2, min(10, trials // 4)))


def hyperparameters(arm: Arm, point: Point) -> Point:
    """What a trial at a point runs with: no options of methods that it did not choose, and rho,
    where the point gives a position, in the range suggested for its method."""
    method = arm.method(point)
    values = {key: point[key] for key in arm.search if key in point and _applies(key, arm, point)}
    if method.rho is not None:
        values["rho"] = at("rho", method.rho, float(point["rho"]))
    return values


def possible(arm: Arm, hyperparameters: Point) -> bool:
    """Whether a trial of the arm may run with these: the right ones, each in its range."""
    try:
        rho = arm.method(hyperparameters).rho
    except StopIteration:
        return False
    if hyperparameters.keys() != {key for key in arm.search if _applies(key, arm, hyperparameters)}:
        return False
    spans = {**arm.search, **({} if rho is None else {"rho": rho})}
    return all(_holds(spans[key], value) for key, value in hyperparameters.items())


def _holds(span: Span, value: Value) -> bool:
    if span.choices is not None:
        return value in span.choices
    if isinstance(value, (bool, str)) or span.low is None or span.high is None:
        return False
    return span.low <= value <= span.high


def point(arm: Arm, hyperparameters: Mapping[str, Value]) -> Point:
    """The point that `hyperparameters` came from, up to rounding."""
    method, values = arm.method(hyperparameters), dict(hyperparameters)
    if method.rho is not None:
        assert method.rho.low is not None
        assert method.rho.high is not None
        ratio = math.log(float(values["rho"]) / method.rho.low)
        values["rho"] = min(max(ratio / math.log(method.rho.high / method.rho.low), 0.0), 1.0)
    return values


def suggest(trial: optuna.Trial, arm: Arm) -> Point:
    """The point of an Optuna trial: as enqueued, the rest by its study's sampler."""
    point: dict[str, Value] = {}
    # The method first, because it decides what else there is to suggest.
    for key, distribution in sorted(
        distributions(arm).items(), key=lambda item: item[0] not in METHOD_KEYS
    ):
        if _applies(key, arm, point):
            point[key] = _suggest(trial, key, distribution)
    return point


def _suggest(trial: optuna.Trial, key: str, distribution: BaseDistribution) -> Value:
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    match distribution:
        case CategoricalDistribution(choices=choices):
            chosen: Value = trial.suggest_categorical(key, choices)  # type: ignore[assignment]
            return chosen
        case IntDistribution(low=low, high=high, log=log, step=step):
            return trial.suggest_int(key, low, high, step=step, log=log)
        case FloatDistribution(low=start, high=end, log=log, step=width):
            return trial.suggest_float(key, start, end, step=width, log=log)
    raise TypeError(distribution)


def _applies(key: str, arm: Arm, point: Point) -> bool:
    """Whether the method that a point chooses has the hyperparameter `key`."""
    return key in (*METHOD_KEYS, *SEARCH_KEYS) or arm.method(point).takes(key)


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
    """How many points the arm's grid has before those that mean the same count once."""
    return math.prod(len(span.choices or ()) or span.points or 1 for span in arm.search.values())


def grid(arm: Arm) -> list[Point]:
    """Every point of the arm's grid; those that mean the same hyperparameters once."""
    axes = [[(key, value) for value in _axis(key, s)] for key, s in arm.search.items()]
    meant: dict[tuple[tuple[str, Value], ...], Point] = {}
    for point in map(dict, itertools.product(*axes)):
        meant.setdefault(tuple(hyperparameters(arm, point).items()), point)
    return list(meant.values())


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


def span_problem(key: str, span: Span, option: catalog.Option | None, sampler: str) -> str | None:
    """What is wrong between the fields of one search range, or None. option: of the variant."""
    if span.choices is not None:
        if span.model_fields_set - {"choices"}:
            return "choices stand alone, without low, high, log, step or points"
        if not span.choices or len(set(span.choices)) < len(span.choices):
            return "choices must name at least one value, each once"
        return _first_problem(key, span.choices, option)
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
        return _first_problem(key, (int(span.low), int(span.high)), option)
    return _first_problem(key, (span.low, span.high), option)


def _first_problem(key: str, values: Sequence[Value], option: catalog.Option | None) -> str | None:
    return next(filter(None, (_value_problem(key, value, option) for value in values)), None)


def _value_problem(key: str, value: Value, option: catalog.Option | None) -> str | None:
    """What is wrong with one value of a searched hyperparameter, or None."""
    if option is not None:
        return option.problem(value)
    if isinstance(value, (bool, str)) or not math.isfinite(value):
        return f"{value!r} is not a finite number"
    if key == "batch_size" and not (isinstance(value, int) and value >= 1):
        return f"{value!r} is not a whole number from 1"
    if key in ("momentum", "label_smoothing") and not 0 <= value < 1:
        return f"{value!r} is not at least 0 and below 1"
    if key == "lr" and not value > 0:
        return f"{value!r} is not above 0"
    return f"{value!r} is below 0" if value < 0 else None
