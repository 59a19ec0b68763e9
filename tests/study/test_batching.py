"""Studies whose trials train in groups: what is refused, and what is handed out together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.storages import BaseStorage, InMemoryStorage

from study import stages, verdict
from study.course import Course, Group
from study.ledger import Ledger
from study.records import End, Result, Trial
from study.simulate import Simulation
from study.spec import Spec
from study.yamlfile import SpecError
from tests.study.synthetic import make_spec
from tests.study.test_simulated_studies import scores, truth

PAIRS = "engine.batched_trials=2"


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("engine.batched_trials=65", "engine.batched_trials: must be at most 64, not 65"),
        (
            "workload.model.norm=rms",
            "workload.model.norm: rms cannot be batched; these can: bn, gn, ln, none",
        ),
        (
            "workload.model.name=densenet100",
            "workload.model.name: densenet100 cannot be batched; these can: resnet8, resnet20, "
            "resnet32, resnet44, resnet56, preact_resnet18, wrn16_4, wrn28_10, resnext29_32x4d, "
            "convmixer",
        ),
        (
            "workload.precision=bfloat16",
            "workload.precision: trials are batched in float32 only",
        ),
        (
            "workload.accumulate=2",
            "workload.accumulate: a batch of batched trials stays whole; leave it out",
        ),
        ("engine.compile=true", "engine.compile: batched trials are not compiled; leave it out"),
        ("resources.gpu=2", "resources.gpu: batched trials train on one GPU; give 1 or less"),
        (
            "tune.search_seeds=2",
            "tune.search_seeds: batched trials have one search seed; leave it out",
        ),
        (
            "search.batch_size={choices: [32, 64]}",
            "search.batch_size: batched trials have batches of one size; leave it out of the "
            "search",
        ),
        (
            "arms.sam_on={variant: gsam, perturb: norm}",
            "arms.sam_on: gsam does more in a step than one pass at w and one at w + e",
        ),
        (
            "arms.sam_on={variant: sam, search: {rho: {low: 0.1, high: 1.0}, "
            "ascent: {choices: [batch, random]}}}",
            "arms.sam_on: sam takes its direction from random, not from the gradient of the batch",
        ),
    ],
)
def test_what_cannot_be_batched_is_refused_in_a_line(setting: str, told: str) -> None:
    with pytest.raises(SpecError) as caught:
        make_spec(PAIRS, setting)
    found = str(caught.value).removesuffix(" (engine.batched_trials)")
    assert found in (f"--set {setting}: {told}", f"test: {told}")


def test_the_groups_are_in_the_hash_and_their_absence_is_not() -> None:
    hashes = {make_spec(*words).hash for words in ((), (PAIRS,), ("engine.batched_trials=3",))}
    assert len(hashes) == 3
    assert make_spec("engine.batched_trials=1").hash == make_spec().hash
    assert "batched_trials" not in make_spec().hashed()["engine"]


class Walk:
    """The course of a study, walked by hand."""

    def __init__(self, spec: Spec, storage: BaseStorage, results: list[Result]) -> None:
        self.results = results
        self.ledger = Ledger(storage, spec)
        self.course = Course(
            [spec], self.ledger, lambda: list(results), lambda *_: None, lambda _: None
        )

    def next(self) -> Group:
        group = self.course.next()
        assert not isinstance(group, str), group
        return group

    def end(self, trial: Trial) -> None:
        told = End(trial.name, "finished", "", {"validation_accuracy": 50.0}, 1, 0.0)
        self.results.append(Result(trial, told))
        self.ledger.tell(told)
        self.course.ended(trial.name)


def of(groups: Sequence[Group]) -> list[tuple[str, list[int]]]:
    return [(group[0].arm, [trial.index for trial in group]) for group in groups]


def test_trials_of_an_arm_and_stage_are_handed_out_together() -> None:
    spec = make_spec(PAIRS, "arms.sgd.trials=3", "confirm.seeds=3")
    walk = Walk(spec, InMemoryStorage(), [])
    search = [walk.next() for _ in range(6)]
    assert sorted(of(search)) == [
        *(("sam_all", [0, 1]), ("sam_all", [2, 3])),
        *(("sam_on", [0, 1]), ("sam_on", [2, 3])),
        *(("sgd", [0, 1]), ("sgd", [2])),
    ]
    assert walk.course.next() == "wait"
    walk.end(search[0][0])
    walk.course.again(search[0][1:])
    assert walk.next() == search[0][1:]
    for group in search:
        for trial in group if group is not search[0] else group[1:]:
            walk.end(trial)
    confirm = [walk.next() for _ in range(6)]
    assert sorted(of(confirm)) == [
        (arm, indices) for arm in ("sam_all", "sam_on", "sgd") for indices in ([0, 1], [2])
    ]
    assert {trial.stage for group in confirm for trial in group} == {"confirm"}


def test_after_a_crash_those_that_had_not_ended_go_on_together() -> None:
    spec, storage = make_spec("engine.batched_trials=4"), InMemoryStorage()
    results: list[Result] = []
    before = Walk(spec, storage, results)
    out = [before.next() for _ in range(2)]
    for trial in (out[0][1], out[0][3]):
        before.end(trial)
    after = Walk(spec, storage, results)
    again = [after.next() for _ in range(3)]
    assert again[0] == (out[0][0], out[0][2])
    assert again[1] == out[1]
    assert of(again[2:])[0][1] == [0, 1, 2, 3]


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 5), st.lists(st.integers(1, 12), max_size=4), st.integers(1, 3))
def test_a_study_in_groups_has_the_trials_of_one_without(
    count: int, cuts: list[int], workers: int
) -> None:
    spec = make_spec(f"engine.batched_trials={count}")
    parts = Simulation(spec, truth, workers)
    for cut in cuts:
        parts.run(cut)
    parts.run()
    whole = Simulation(make_spec(), truth, workers).run()
    assert scores(parts.results) == scores(whole)
    found = verdict.decide(spec, parts.results).plain()
    assert found == verdict.decide(spec, whole).plain()


def test_an_extension_fills_the_group_that_was_begun() -> None:
    spec = make_spec("engine.batched_trials=4", "tune.trials_per_arm=6")
    longer = make_spec("engine.batched_trials=4", "tune.trials_per_arm=8", "confirm.seeds=8")
    simulation = Simulation(spec, truth)
    simulation.run()
    extended = replace(simulation, extensions=[longer], started=[])
    extended.run()
    indices = {(t.arm, t.stage, t.index) for t in extended.started}
    assert {(arm, "search", i) for arm in spec.arms for i in (6, 7)} <= indices
    assert stages.done([spec, longer], extended.results)
