"""Trials on several GPUs: what a spec may ask for, and how many fit a cluster."""

from __future__ import annotations

import pytest

from study.engine import fitting
from study.spec import Resources
from study.yamlfile import SpecError
from tests.study.synthetic import make_spec
from trainables import catalog

FOUR = "resources={cpu: 2, gpu: 4}"


def told(*assignments: str) -> str:
    with pytest.raises(SpecError) as error:
        make_spec(*assignments)
    return str(error.value)


@pytest.mark.parametrize(
    ("assignments", "part"),
    [
        (
            ["resources.gpu=1.5"],
            "resources.gpu: must be a share of one GPU, at most 1, or a whole number of them, "
            "not 1.5",
        ),
        (
            ["resources.gpu=3"],
            "workload.batch_size: 64 cannot be cut into equal parts for 3 workers (resources.gpu)",
        ),
        (
            ["workload.accumulate=32", FOUR],
            "64 cannot be cut into equal parts for 4 workers (resources.gpu), each in 32 slices",
        ),
        (
            [FOUR, "search.batch_size={choices: [32, 30]}"],
            "search.batch_size: every batch size must be cut into equal parts for 4 workers",
        ),
        (
            [FOUR, "arms.own={variant: sam, m: 32}"],
            "arms.own.m: 32 does not divide the 16 of 64 samples that each of 4 workers gets",
        ),
        (
            [FOUR, "arms.own={variant: sam, search: {m: {choices: [8, 32]}}}"],
            "arms.own.search.m: 32 does not divide the 16 of 64 samples",
        ),
        (
            [FOUR, "arms.own={variant: sampa}"],
            "arms.own: resources.gpu gives each worker a part of every batch, and sampa keeps",
        ),
        ([FOUR, "arms.own={variant: esam}"], "and esam compares the samples of a batch"),
        (
            [FOUR, "arms.own={variant: sam, ascent: 'fraction:0.5'}"],
            "and sam perturbs by the first samples of a whole batch; give m",
        ),
        (
            [FOUR, "arms.own={variant: sam, ascent: random, m: 8, search: {rho: {choices: [1]}}}"],
            "and sam draws a direction for each m samples",
        ),
        (
            [
                FOUR,
                "arms.own={variant: {choices: [sam, esam]}, perturb: norm, trials: 2}",
            ],
            "arms.own: resources.gpu gives each worker a part of every batch, and esam compares",
        ),
    ],
)
def test_what_several_workers_cannot_do_is_told_in_one_line(
    assignments: list[str], part: str
) -> None:
    message = told(*assignments)
    assert part in message
    assert "\n" not in message


def test_what_several_workers_can_do() -> None:
    made = make_spec(
        FOUR,
        "workload.accumulate=4",
        "arms.a={variant: sam, ascent: random, search: {rho: {choices: [1]}}}",
    )
    assert (made.resources.workers, made.resources.cpu) == (4, 2)
    made = make_spec(
        FOUR, "arms.a={variant: sam, ascent: 'fraction:0.5', m: 16}", "arms.b={variant: gsam}"
    )
    assert {"a", "b"} <= set(made.arms)
    assert make_spec("resources.gpu=0.25", "arms.own={variant: esam}").resources.workers == 1
    assert make_spec("resources.gpu=1", "arms.own={variant: sampa}").resources.workers == 1


def test_what_needs_whole_batches_says_why() -> None:
    assert {name for name in catalog.VARIANTS if catalog.undivided(name, {})} == {"esam", "sampa"}


@pytest.mark.parametrize(
    ("nodes", "wanted", "trials"),
    [
        ([(8, 0)], Resources(cpu=3), 2),
        ([(8, 0), (2, 0)], Resources(cpu=3), 2),
        ([(4, 1), (4, 0)], Resources(cpu=1, gpu=0.25), 4),
        # 0.6 of a GPU leaves nobody the rest of it, nor that of another GPU.
        ([(8, 2)], Resources(cpu=1, gpu=0.6), 2),
        ([(8, 4)], Resources(cpu=1, gpu=2.0), 2),
        ([(3, 4)], Resources(cpu=1, gpu=2.0), 1),
        # Workers of one trial may sit on several nodes.
        ([(8, 3), (8, 1)], Resources(cpu=2, gpu=4.0), 1),
        ([(4, 3), (8, 1)], Resources(cpu=2, gpu=4.0), 0),
        ([(8, 3), (8, 3)], Resources(cpu=1, gpu=2.0), 3),
    ],
)
def test_how_many_trials_fit_a_cluster(
    nodes: list[tuple[float, float]], wanted: Resources, trials: int
) -> None:
    amounts = [{"CPU": float(cpus), "GPU": float(gpus)} for cpus, gpus in nodes]
    assert fitting(amounts, wanted) == trials
