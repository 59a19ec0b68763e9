"""Stages and the rules of decision, as pure functions."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import pytest

from study import decide, stages
from study.course import Course, Group, Waiting
from study.ledger import Ledger, open_file
from study.records import End, Result, Status, Trial
from study.stages import Plan
from tests.study.synthetic import confirm_trials, make_spec, search_trials


def result(index: int, accuracy: float, status: Status = "finished") -> Result:
    trial = Trial("tiny", "sam_on", "search", index, 0, {"rho": float(index)})
    known = {} if status == "failed" else {"validation_accuracy": accuracy}
    return Result(trial, End(trial.name, status, "", known, 1, 0.0))


@pytest.mark.parametrize(
    ("results", "rho"),
    [
        ([], None),
        ([result(0, 0, "failed")], None),
        ([result(0, 50), result(1, 60)], 1),
        ([result(2, 60), result(1, 60), result(3, 60)], 1),
        ([result(0, 90, "diverged"), result(1, 5)], 1),
        ([result(0, 0, "failed"), result(2, 10, "diverged"), result(1, 10, "diverged")], 1),
    ],
)
def test_the_best_trial_is_chosen(results: list[Result], rho: float | None) -> None:
    assert decide.choose(results) == (None if rho is None else {"rho": rho})


def test_a_diverged_trial_is_no_measurement() -> None:
    assert decide.tell([result(0, 50).end], "qmc") == ("COMPLETE", 50)
    assert decide.tell([result(0, 10, "diverged").end], "tpe") == ("PRUNED", None)
    assert decide.tell([result(0, 0, "failed").end], "gp") == ("FAIL", None)


def test_an_arm_without_a_search_measures_the_noise_between_seeds_and_is_confirmed() -> None:
    spec = make_spec("tune.seed=3", "tune.trials_per_arm=2")
    sgd = [trial for trial in search_trials(spec) if trial.arm == "sgd"]
    assert [(t.name, t.seed, t.hyperparameters) for t in sgd] == [
        ("tiny/sgd/search/0", 3, {}),
        ("tiny/sgd/search/1", 4, {}),
    ]
    [first, *_] = confirm_trials(spec, {"sgd": {}})
    assert (first.name, first.seed) == ("tiny/sgd/confirm/0", 100_003)


def test_a_training_gets_what_the_workload_fixes_and_the_search_overrides() -> None:
    from trainables.config import Config

    spec = make_spec(
        "arms.asam={variant: asam, eta: 0.5}",
        "search.lr={low: 0.01, high: 1}",
        "search.batch_size={choices: [32]}",
        "arms.asam.search={bn_statistics: {choices: [both]}}",
    )
    for trial in search_trials(spec):
        config = Config(**stages.training_config(spec, trial))
        assert config.lr == trial.hyperparameters["lr"]
        assert config.rho == trial.hyperparameters.get("rho")
        assert (config.batch_size, config.momentum, config.epochs) == (32, 0.9, 3)
        assert config.model == "resnet8"
        assert config.model_options == {"width": 16, "norm": "bn", "affine": True}
        assert config.seed == trial.seed
        if trial.arm == "asam":
            assert config.options["eta"] == 0.5
            assert config.options["bn_statistics"] == "both"
        [method] = spec.arms[trial.arm].methods
        assert config.perturb == method.perturb
    assert spec.arms["asam"].methods[0].options["bn_statistics"] == "first"
    example = Config(**stages.example_configs(spec)["asam"])
    first = next(t for t in search_trials(spec) if t.arm == "asam")
    assert example == Config(**stages.training_config(spec, first))
    assert {f.name for f in dataclasses.fields(Config)} == set(stages.example_configs(spec)["sgd"])


def test_gradient_evaluations_count_whole_batches_and_the_cost_of_a_step() -> None:
    spec = make_spec()
    assert stages.gradient_evaluations(spec, "sgd", 640) == 3 * 10
    assert stages.gradient_evaluations(spec, "sam_on", 703) == 3 * 10 * 2
    assert stages.gradient_evaluations(spec, "sam_on", None) is None


def test_a_course_waits_while_a_trial_is_out_and_begins_each_stage_once(tmp_path: Path) -> None:
    spec = make_spec("tune.trials_per_arm=1", "confirm.seeds=2")
    results: list[Result] = []
    begun: list[tuple[str, int]] = []
    ledger = Ledger(open_file(tmp_path / "ledger.log"), spec)

    def begins(plan: Plan, so_far: Sequence[Result]) -> None:
        begun.append((plan.stage, len(so_far)))

    course = Course([spec], ledger, lambda: list(results), begins, lambda trial: None)

    def ends(group: Group | Waiting) -> None:
        assert not isinstance(group, str)
        [trial] = group
        told = End(trial.name, "finished", "", {"validation_accuracy": 50.0}, 1, 0.0)
        results.append(Result(trial, told))
        ledger.tell(told)
        course.ended(trial.name)

    search = [course.next() for _ in range(3)]
    assert course.next() == course.next() == "wait"
    for trial in search[:2]:
        ends(trial)
        assert course.next() == "wait"
    assert begun == [("search", 0)]
    ends(search[2])
    confirm = [course.next() for _ in range(6)]
    assert begun == [("search", 0), ("confirm", 3)]
    groups = [group for group in confirm if not isinstance(group, str)]
    assert {trial.stage for [trial] in groups} == {"confirm"}
    for trial in confirm:
        assert course.next() == "wait"
        ends(trial)
    assert course.next() == course.next() == "done"
    assert len(begun) == 2
