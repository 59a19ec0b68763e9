"""Trials in a group: reports, checkpoints and ends of each are its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainables.test_trial import SHORT
from trainables import data
from trainables.batched.run import GroupRun
from trainables.checkpoint import unpacked
from trainables.config import Config
from trainables.storage import open_storage, weights_of
from trainables.trial import Keeping, Report, TrialRun

SLOTS = 3
CONFIGS = [
    SHORT,
    replace(SHORT, rho=0.1, lr=0.05, seed=4, label_smoothing=0.0, epochs=2),
    replace(SHORT, variant="asam", perturb="all", seed=5),
]


class Bench:
    """Groups of the same trials over one storage."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)
        self.pool, self.facts = data.load_pool("digits")
        self.test, _ = data.load_test("digits")

    def group(
        self, slots: Sequence[int] = range(SLOTS), changed: Mapping[int, Config] = {}, **how: Any
    ) -> GroupRun:
        keeping = Keeping(self.folder, how.pop("epochs", None), None)
        return GroupRun(
            {
                slot: TrialRun(
                    name(slot),
                    changed.get(slot, CONFIGS[slot]),
                    keeping,
                    self.pool,
                    self.facts,
                    self.test,
                    "cpu",
                    slot=(slot, SLOTS),
                    **how,
                )
                for slot in slots
            },
            SLOTS,
        )

    def weights(self, slot: int) -> Mapping[str, torch.Tensor]:
        found: Mapping[str, torch.Tensor] = unpacked(
            open_storage(self.folder).read(weights_of(name(slot)))
        )["model"]
        return found


def name(slot: int) -> str:
    return f"study/arm/confirm/{slot}"


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def finish(group: GroupRun, trials: int) -> list[Report]:
    reports: list[Report] = []
    while sum(report.end is not None for report in reports) < trials:
        reports += group.step(float("inf"))
    return reports


def of(reports: Sequence[Report], slot: int) -> list[tuple[Any, ...]]:
    """What a trial told, but for how long it took."""
    return [
        (r.epoch, {k: v for k, v in r.metrics.items() if k != "seconds_per_epoch"}, r.end)
        for r in reports
        if r.trial == name(slot) and r.epoch is not None
    ]


def test_each_trial_tells_its_own_epochs_and_end(bench: Bench) -> None:
    reports = finish(bench.group(), SLOTS)
    told = [[epoch for epoch, _, _ in of(reports, slot)] for slot in range(SLOTS)]
    assert told == [[1, 2, 3], [1, 2], [1, 2, 3]]
    apart = [TrialRun(name(0), CONFIGS[0], Keeping(bench.folder, None, None), *alone(bench))]
    [right] = [of(finish_alone(run), 0) for run in apart]
    for (_, found, end), (_, metrics, ended) in zip(of(reports, 0), right, strict=True):
        # Rounding of float32, over a few steps.
        assert found == pytest.approx(metrics, rel=0.05, abs=3.0)
        assert (end is None) == (ended is None)


def alone(bench: Bench) -> tuple[Any, ...]:
    return bench.pool, bench.facts, bench.test, "cpu"


def finish_alone(run: TrialRun) -> list[Report]:
    reports = [run.step(float("inf"))]
    while reports[-1].end is None:
        reports.append(run.step(float("inf")))
    return reports


def test_a_trial_is_the_same_beside_any_others_or_none(bench: Bench) -> None:
    right = of(finish(bench.group(), SLOTS), 1)
    weights = dict(bench.weights(1))
    others = {0: replace(CONFIGS[0], lr=1e30), 2: replace(CONFIGS[0], seed=9, epochs=1)}
    reports = finish(bench.group(changed=others), SLOTS)
    assert [r.end.status for r in reports if r.trial == name(0) and r.end] == ["diverged"]
    for found in (of(reports, 1), of(finish(bench.group([1]), 1), 1)):
        assert found == right
        assert all(torch.equal(weights[key], t) for key, t in bench.weights(1).items())
    assert sum(t.untyped_storage().nbytes() for t in weights.values()) == sum(
        t.nbytes for t in weights.values()
    )


def test_one_that_is_stopped_leaves_the_others_as_they_are(bench: Bench) -> None:
    right = of(finish(bench.group(), SLOTS), 2)
    group = bench.group()
    first = group.step(float("inf"))
    group.stop(name(0))
    rest = finish(group, 2)
    assert of([*first, *rest], 2) == right
    assert [epoch for epoch, _, _ in of([*first, *rest], 0)] == [1]


def test_members_go_on_from_different_checkpoints(bench: Bench) -> None:
    right = finish(bench.group(), SLOTS)
    ticks = count()
    group = bench.group(clock=lambda: float(next(ticks)))
    group.step(7.0)  # a few steps of the first epoch
    group.keep()
    last = bench.group([2])
    while last.step(float("inf"))[0].epoch != 2:
        pass
    last.keep()
    resumed = bench.group()
    reports = finish(resumed, SLOTS)
    begun = {r.trial: r.resumed for r in reports if r.resumed is not None}
    assert 0 < begun[name(0)] == begun[name(1)] < 1
    assert begun[name(2)] == 2.0
    for slot in range(SLOTS):
        assert of(reports, slot) == of(right, slot)
