"""Search spaces: points are a pure function of seed and index, inside the range, and exact."""

from __future__ import annotations

import itertools
import math
import warnings

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from study import space
from study.spec import Arm, Method, Span, Spec
from tests.reference import points as reference
from tests.study.synthetic import make_spec

WIDE = (
    "search.lr={low: 0.01, high: 1, log: true}",
    "search.momentum={low: 0, high: 0.9, step: 0.1}",
    "search.batch_size={low: 8, high: 64, step: 8}",
    "search.bn_statistics={choices: [first, both, none]}",
)


@pytest.mark.parametrize(
    ("sampler", "draws"), [("qmc", reference.sobol), ("random", reference.uniform)]
)
def test_points_are_those_of_a_second_implementation(sampler: str, draws: object) -> None:
    assert callable(draws)
    spec = make_spec(f"tune.sampler={sampler}", "tune.seed=7", "tune.trials_per_arm=11", *WIDE)
    rows = draws(7, 5, 11)
    assert list(spec.arms["sam_on"].search) == [
        *("rho", "batch_size", "bn_statistics", "lr", "momentum")
    ]
    for point, (u, v, w, x, y) in zip(space.points(spec, "sam_on"), rows, strict=True):
        assert point["rho"] == pytest.approx(reference.in_range(0.1, 5, True, u), rel=1e-12)
        assert point["batch_size"] == reference.on_steps(8, 64, 8, v)
        assert point["bn_statistics"] == ["first", "both", "none"][int(w * 3)]
        assert point["lr"] == pytest.approx(reference.in_range(0.01, 1, True, x), rel=1e-12)
        assert point["momentum"] == reference.on_steps(0, 0.9, 0.1, y)
    for point, row in zip(space.points(spec, "sgd"), rows, strict=True):
        assert point["batch_size"] == reference.on_steps(8, 64, 8, row[0])


@settings(max_examples=30, deadline=None)
@given(
    sampler=st.sampled_from(["qmc", "random"]),
    seed=st.integers(0, 2**31 - 1),
    few=st.integers(1, 20),
    many=st.integers(1, 40),
)
def test_a_larger_budget_only_adds_points(sampler: str, seed: int, few: int, many: int) -> None:
    tune = (f"tune.sampler={sampler}", f"tune.seed={seed}")
    one = make_spec(*tune, f"tune.trials_per_arm={few}", f"arms.sam_all.trials={many}")
    other = make_spec(*tune, f"tune.trials_per_arm={many}")
    short, long = space.points(one, "sam_on"), space.points(other, "sam_on")
    assert len(short) == few
    assert short[:many] == long[:few]
    assert space.points(one, "sam_all") == space.points(other, "sam_all")


NUMBERS = st.floats(1e-6, 1e6) | st.sampled_from([0.1, 0.2, 0.3, 0.7, 1.1, 3.0])


@settings(max_examples=300, deadline=None)
@given(
    key=st.sampled_from(["rho", "batch_size"]),
    one=NUMBERS,
    other=NUMBERS,
    kind=st.sampled_from(["linear", "log", "step"]),
    parts=st.floats(1, 50),
    u=st.floats(0, 1, exclude_max=True) | st.just(math.nextafter(1, 0)),
)
def test_every_point_lies_in_the_range_as_optuna_understands_it(
    key: str, one: float, other: float, kind: str, parts: float, u: float
) -> None:
    if key in space.WHOLE:
        one, other = float(math.ceil(one)), float(math.ceil(other))
    if kind == "step":
        one, other = round(one, 3), round(other, 3)
    low, high = min(one, other), max(one, other)
    assume(low < high)
    step = round((high - low) / parts, 3) if kind == "step" else None
    if step is not None and key in space.WHOLE:
        step = float(round(step))
    assume(step is None or step > 0)
    span = Span(low=low, high=high, log=kind == "log", step=step)
    assume(space.span_problem(key, span, None, "qmc") is None)
    value = space.at(key, span, u)
    assert isinstance(value, int if key in space.WHOLE else float)
    assert low <= value <= high
    method = Method(variant="sam", perturb="all", options={})
    arm = Arm(methods=[method], search={key: span}, trials=1, seed_offset=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        distribution = space.distributions(arm)[key]
    assert distribution._contains(distribution.to_internal_repr(value))


@settings(max_examples=100, deadline=None)
@given(one=NUMBERS, other=NUMBERS, log=st.booleans(), points=st.integers(2, 9))
def test_a_grid_holds_both_ends_of_a_range_exactly(
    one: float, other: float, log: bool, points: int
) -> None:
    low, high = min(one, other), max(one, other)
    assume(low * 1.001 < high)
    values = list(space._axis("rho", Span(low=low, high=high, log=log, points=points)))
    assert (values[0], values[-1], len(values)) == (low, high, points)
    gaps = [math.log(b / a) if log else b - a for a, b in itertools.pairwise(map(float, values))]
    assert gaps == pytest.approx([gaps[0]] * len(gaps), rel=1e-4)


def grid(*assignments: str) -> Spec:
    return make_spec("tune={sampler: grid}", "search={}", *assignments)


def test_a_grid_covers_the_product_of_numbers_words_and_whole_numbers() -> None:
    arm = "{rho: {choices: [0.1, 2]}, batch_size: {low: 8, high: 16, points: 3}, bn_statistics: "
    spec = grid(
        "search.rho={choices: [1]}", f"arms.sam_on.search={arm}{{choices: [first, none]}}}}"
    )
    points = space.points(spec, "sam_on")
    assert [(p["rho"], p["batch_size"], p["bn_statistics"]) for p in points] == list(
        itertools.product([0.1, 2], [8, 12, 16], ["first", "none"])
    )
    assert all(type(p["batch_size"]) is int for p in points)
    assert len(space.grid(spec.arms["sam_on"])) == len(points) == spec.arms["sam_on"].trials
    assert space.grid(spec.arms["sgd"]) == [{}]
    assert space.points(spec, "sgd") == [{}] * 12


def test_a_logarithmic_range_of_whole_numbers_reaches_both_ends() -> None:
    span = Span(low=1, high=4, log=True)
    values = [space.at("batch_size", span, u) for u in (0, 0.3, 0.6, 0.8, math.nextafter(1, 0))]
    assert values[0] == 1
    assert values[-1] == 4
    assert set(values) == {1, 2, 3, 4}


def test_choices_share_the_draws_equally() -> None:
    span = Span(choices=["a", "b", "c"])
    assert [space.at("x", span, i / 9) for i in range(9)] == [*"aaabbbccc"]
