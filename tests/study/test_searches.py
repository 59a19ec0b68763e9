"""What the search saw: formulas against brute force, decisions against literals."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from study import searches, seen
from study.analysis import Sample
from study.records import End, Result, Status, Trial
from study.searches import Count, Near
from study.spec import Spec
from tests.reference import searches as reference
from tests.study.synthetic import hill, make_contents, make_spec

CHANCE = 10.0
TUNED = "arms.sam_on.search={rho: {low: 0.1, high: 10, log: true}}"


def run(
    index: int, rho: float, accuracy: float | Status, repeat: int | None = None, arm: str = "sam_on"
) -> Result:
    """A search trial; a word in place of an accuracy is how it ended."""
    trial = Trial("tiny", arm, "search", index, repeat or 0, {"rho": rho}, repeat)
    status: Status = accuracy if isinstance(accuracy, str) else "finished"
    reached = CHANCE if isinstance(accuracy, str) else accuracy
    scores = {} if status == "failed" else {"validation_accuracy": reached}
    return Result(trial, End(trial.name, status, "", scores, 3, 0.0))


def confirmed(arm: str, accuracies: Sequence[float | Status]) -> list[Result]:
    results = []
    for i, accuracy in enumerate(accuracies):
        searched = run(i, 1.0, accuracy, arm=arm)
        trial = Trial("tiny", arm, "confirm", i, 100_000 + i, {"rho": 1.0})
        results.append(Result(trial, searched.end))
    return results


def look(spec: Spec, results: Sequence[Result], arm: str = "sam_on") -> searches.Search:
    return next(a for a in searches.look(spec, results).arms if a.arm == arm)


SCORE = st.one_of(st.floats(50, 99), st.sampled_from(["diverged", "failed", "pruned"]))


@settings(deadline=None, max_examples=60)
@given(st.lists(st.lists(SCORE, min_size=1, max_size=2), min_size=1, max_size=7))
def test_the_expected_best_is_the_mean_over_all_sets_of_trials(
    scores: list[list[float | Status]],
) -> None:
    results = [
        run(i, 0.1 + i, accuracy, repeat)
        for i, some in enumerate(scores)
        for repeat, accuracy in enumerate(some)
    ]
    found = look(make_spec("tune.sampler=random"), results)
    known = {r.trial.index for r in results if r.end.scores}
    assert found.n == len(found.best) == len(known)
    for k, best in enumerate(found.best, 1):
        assert best == pytest.approx(reference.expected_best(results, k), abs=1e-9)


def test_the_expected_best_of_many_trials_stays_exact() -> None:
    n = 2000
    found = searches.expected_best([float(i) for i in range(1, n + 1)])
    for k in (1, 2, 17, 1000, 1999, n):  # of the numbers 1 to n: k (n + 1) / (k + 1)
        assert found[k - 1] == pytest.approx(k * (n + 1) / (k + 1), rel=1e-12)


def test_adaptive_samplers_show_the_path_that_they_took() -> None:
    accuracies: list[float | Status] = ["diverged", 90.0, "failed", 80.0, 95.0, 94.0]
    results = [run(i, 0.1 + i, a) for i, a in enumerate(accuracies)]
    found = look(make_spec("tune.sampler=tpe"), results[::-1])
    assert found.best == (CHANCE, 90.0, 90.0, 95.0, 95.0)


@pytest.mark.parametrize(
    ("assignments", "kind"),
    [
        (["tune.sampler=random"], "expected best of k trials"),
        (["tune.sampler=qmc"], "expected best of k trials, approximate"),
        (["tune.sampler=random", "tune.pruner=median"], "expected best of k trials, approximate"),
        (["tune.sampler=tpe"], "best so far, in the order of the trials"),
        (
            ["tune={sampler: grid}", "search={rho: {choices: [0.1, 0.2]}}"],
            "expected best of k points of this grid, taken at random",
        ),
    ],
)
def test_what_the_best_of_k_trials_is_depends_on_the_sampler(
    assignments: list[str], kind: str
) -> None:
    assert searches.kind(make_spec(*assignments)) == kind


@settings(deadline=None, max_examples=60)
@given(
    st.dictionaries(st.floats(0.01, 10), st.floats(0, 100), min_size=3, max_size=8),
    st.floats(0.1, 60),
)
def test_near_the_best_is_as_far_as_small_steps_come(
    points: dict[float, float], tolerance: float
) -> None:
    chosen = max(points, key=lambda rho: points[rho])
    near = searches.near_best(points, chosen, tolerance)
    low, high = reference.near_best(points, chosen, tolerance)
    assert (near.low, near.high) == pytest.approx((low, high), rel=1e-3)
    assert near.low_open == (near.low == min(points))
    assert near.high_open == (near.high == max(points))


def test_the_ends_of_the_interval_lie_on_lines_in_log_rho() -> None:
    points = {0.1: 90.0, 1.0: 94.0, 10.0: 86.0, 100.0: 94.0}
    near = searches.near_best(points, 1.0, 2.0)
    assert (near.low, near.high) == pytest.approx((10**-0.5, 10**0.25))
    assert near == Near(
        near.low, near.high, low_open=False, high_open=False, between=True, apart=True
    )
    assert near.factor == pytest.approx(10**0.75)
    at_edge = searches.near_best({0.1: 90.0, 1.0: 89.0, 10.0: 80.0}, 0.1, 1.0)
    assert at_edge == Near(0.1, 1.0, low_open=True, high_open=False, between=True)
    with_zero = searches.near_best({0.0: 90.0, 1.0: 94.0, 2.0: 94.0}, 1.0, 1.0)
    assert (with_zero.low, with_zero.high_open) == (0.75, True)
    assert searches.near_best({0.0: 90.0, 1.0: 89.5}, 0.0, 1.0).factor is None


def test_near_is_the_larger_of_margin_and_noise_between_seeds() -> None:
    spec = make_spec(TUNED)
    search = [run(0, 0.1, 90.0), run(1, 1.0, 94.0), run(2, 10.0, 92.0)]
    before = searches.look(spec, search)
    assert (before.noise, before.tolerance) == (None, 0.5)
    noisy = [
        *confirmed("sam_on", [91.0, 95.0, "diverged"]),
        *confirmed("sam_all", [90.0, 90.0, 96.0]),
    ]
    after = searches.look(spec, [*search, *noisy])
    noise = math.sqrt((8 + 24) / 3)  # squares within the arms, 1 + 2 degrees of freedom
    assert after.noise == after.tolerance == pytest.approx(noise)
    near = after.arms[-1].near
    assert near is not None
    assert (near.low, near.high) == pytest.approx((10 ** -(noise / 4), 10.0))
    small = searches.look(spec, [*search, *confirmed("sam_on", [94.0, 94.1])])
    assert small.tolerance == 0.5


def test_a_diverged_neighbour_ends_the_interval_and_two_values_tell_nothing() -> None:
    results = [run(0, 0.1, 93.9), run(1, 1.0, 94.0), run(2, 10.0, "diverged")]
    near = look(make_spec(TUNED), results).near
    assert near is not None
    assert near.high == pytest.approx(10 ** (0.5 / 84))
    assert look(make_spec(TUNED), results[:2]).near is None


def test_beside_other_hyperparameters_no_line_joins_the_values_of_rho() -> None:
    spec = make_spec(
        "arms.sam_on.search={rho: {low: 0.1, high: 10, log: true}, lr: {low: 0.01, high: 1}}"
    )
    results = [run(0, 0.2, 90.0), run(1, 1.0, 93.8), run(2, 2.0, 91.0), run(3, 5.0, 94.0)]
    assert look(spec, results).near == Near(1.0, 5.0, low_open=False, high_open=True, between=False)


def test_the_edge_is_that_of_the_warning() -> None:
    results = [run(0, 0.1, 94.0), run(1, 1.0, 92.0), run(2, 5.0, 91.0)]
    assert look(make_spec(TUNED), results).edge == "low"
    results.append(run(3, 0.5, 95.0))
    assert look(make_spec(TUNED), results).edge is None


def test_diverged_runs_are_counted_in_quarters_of_the_range() -> None:
    rhos: list[tuple[float, float | Status]] = [
        (0.1, 90.0), (0.3, 91.0), (0.32, "pruned"), (1.0, 92.0), (9.0, "diverged"),
        (10.0, "failed"),
    ]  # fmt: skip
    results = [run(i, rho, accuracy) for i, (rho, accuracy) in enumerate(rhos)]
    counts = (Count(0, 2), Count(0, 1), Count(0, 1), Count(1, 1))
    assert look(make_spec(TUNED), results).diverged == counts
    choices = make_spec("arms.sam_on.search={rho: {choices: [0.1, 1.0, 10.0]}}")
    some = [run(0, 0.1, 90.0), run(1, 1.0, "diverged"), run(2, 10.0, "diverged")]
    counts = (Count(0, 1), Count(0, 0), Count(1, 1), Count(1, 1))
    assert look(choices, some).diverged == counts


def test_noise_of_seeds_stands_beside_what_configurations_differ() -> None:
    spec = make_spec()
    results = [run(0, 0.1, 90.0), run(1, 1.0, 94.0), run(2, 10.0, "diverged")]
    results += confirmed("sam_on", [93.0, 94.0])
    found = look(spec, results)
    assert found.configurations == Sample(92.0, math.sqrt(8), 2)
    assert found.seeds == Sample(93.5, math.sqrt(0.5), 2)
    untuned = [run(i, 1.0, accuracy, arm="sgd") for i, accuracy in enumerate([90.0, 92.0])]
    found = look(spec, [*untuned, *confirmed("sgd", [50.0, 60.0])], "sgd")
    assert found.seeds == Sample(91.0, math.sqrt(2), 2)
    assert (found.best, found.configurations, found.near) == ((), None, None)


def test_the_table_says_it_in_few_words() -> None:
    spec = make_spec(TUNED)
    results = [
        run(0, 0.1, 94.0), run(1, 0.5, 92.0), run(2, 3.0, 93.9), run(3, 9.0, "diverged"),
        *confirmed("sam_on", [93.0, 94.0]),
    ]  # fmt: skip
    table = seen.table(spec, searches.look(spec, results))
    empty = ("\N{EN DASH}",) * 6
    assert table.rows[:2] == (("sgd", *empty), ("sam_all", *empty))
    assert table.rows[2] == (
        "sam_on",
        "\N{LESS-THAN OR EQUAL TO} 0.1 to 0.18\nothers apart\nchosen: low edge",
        "\N{GREATER-THAN OR EQUAL TO} 1.8",
        "0/1 0/1 0/1 1/1",
        "2: 93.63\n4: 94.00",
        "1.13\nn = 3",
        "0.71\nn = 2",
    )


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("upto", [0, 1, 9, 12, 14])
def test_a_half_finished_search_can_be_looked_at(upto: int) -> None:
    spec = make_spec()
    found = searches.look(spec, make_contents(spec, upto=upto).results)
    assert len(seen.table(spec, found).rows) == len(spec.arms)
    whole = searches.look(spec, make_contents(spec, hill).results)
    assert whole == searches.look(spec, make_contents(spec, hill).results[::-1])
