"""What a file says of optimizer, schedule, precision and diagnostics."""

from __future__ import annotations

import json
from typing import Any

import pytest

from study import smoke, stages, tracking_names
from study.records import Trial
from study.spec import Spec
from tests.study.synthetic import make_spec
from tests.study.test_resolve import told

ADAMW = "workload.optimizer={name: adamw, lr: 0.001}"
LION = "workload.optimizer={name: lion, lr: 0.0001}"
STEPS = "workload.schedule={name: multistep}"


@pytest.mark.parametrize(
    ("assignments", "part"),
    [
        (
            ["workload.optimizer={name: adamw, lr: 0.1, momentum: 0.9}"],
            "workload.optimizer.momentum: adamw takes no momentum; it takes name, lr, "
            "weight_decay, decay_norm_and_bias, beta1, beta2",
        ),
        (["workload.optimizer={name: lion, lr: 0.1, nesterov: true}"], "lion takes no nesterov"),
        (
            ["workload.optimizer.beta1=0.8"],
            "workload.optimizer.beta1: sgd takes no beta1; it takes name, lr, weight_decay, "
            "decay_norm_and_bias, momentum, nesterov",
        ),
        ([ADAMW, "workload.optimizer.beta2=1"], "workload.optimizer.beta2: must be below 1, not 1"),
        ([ADAMW, "workload.optimizer.name=adam"], "unknown optimizer 'adam'; allowed: sgd, adamw"),
        (
            ["workload.optimizer={name: sgd, lr: 0.1, nesterov: true}"],
            "workload.optimizer.nesterov: nesterov needs a momentum above 0",
        ),
        (
            ["workload.optimizer.nesterov=true", "search.momentum={low: 0, high: 0.9}"],
            "search.momentum: nesterov needs a momentum above 0",
        ),
        (["workload.optimizer.nesterov=1"], "must be true or false, not 1"),
        (
            [ADAMW, "search.momentum={low: 0.1, high: 0.9}"],
            "search.momentum: adamw has no momentum",
        ),
        (
            [LION, "arms.sam_on.search={momentum: {choices: [0.5]}}"],
            "arms.sam_on.search.momentum: lion has no momentum; leave it out",
        ),
        (["workload.schedule.zzz=1"], "workload.schedule.zzz: unknown key 'zzz'; allowed: name,"),
        (["workload.schedule=cosine"], "workload.schedule: must be a mapping with the keys name"),
        (["workload.schedule.name=cosin"], "unknown schedule 'cosin'; allowed: cosine, multistep"),
        (["workload.schedule.per=batch"], "unknown interval 'batch'; allowed: epoch, step"),
        (["workload.schedule.gamma=0.1"], "cosine takes no gamma; it takes name, per, warmup"),
        ([STEPS, "workload.schedule.gamma=1"], "workload.schedule.gamma: must be below 1, not 1"),
        ([STEPS, "workload.schedule.milestones=[]"], "milestones: needs at least 1 entries"),
        ([STEPS, "workload.schedule.milestones=[0.5, 1]"], "milestones.1: must be below 1, not 1"),
        ([STEPS, "workload.schedule.milestones=[0.5, 0.5]"], "milestones: milestones must rise"),
        ([STEPS, "workload.schedule.milestones=[0.6, 0.5]"], "milestones: milestones must rise"),
        ([STEPS, "workload.schedule.warmup=2"], "comes before the warm-up of 2 epochs is over"),
        (["workload.schedule.warmup=-1"], "workload.schedule.warmup: must be at least 0, not -1"),
        (["workload.schedule.warmup=3"], "workload.schedule.warmup: 3 is not below the 3 epochs"),
        (["workload.schedule.warmup=0.5"], "0.5 is no whole number of epochs; give per: step"),
        (["workload.train=bias"], "unknown part to train 'bias'; allowed: all, norm, no_norm"),
        (["workload.clip_norm=0"], "workload.clip_norm: must be above 0, not 0"),
        (["workload.accumulate=0"], "workload.accumulate: must be at least 1, not 0"),
        (["workload.accumulate=3"], "workload.accumulate: 3 does not divide batch_size 64"),
        (
            ["workload.accumulate=4", "search.batch_size={choices: [32, 30]}"],
            "search.batch_size: accumulate 4 must divide every batch size; give choices",
        ),
        (["workload.accumulate=2", "search.batch_size={low: 8, high: 64}"], "every batch size"),
        (["workload.precision=half"], "unknown precision 'half'; allowed: float32, bfloat16"),
        (
            ["workload.precision=float16"],
            "workload.precision: float16 gains nothing on a CPU, and resources.gpu is 0",
        ),
        (["workload.diagnostics=[sharpness]"], "diagnostics.0: unknown diagnostic 'sharpness'"),
        (["workload.diagnostics=loss_rise"], "workload.diagnostics: must be a list, not"),
    ],
)
def test_what_does_not_fit_is_told_in_one_line(assignments: list[str], part: str) -> None:
    message = told(*assignments)
    assert part in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("assignment", "own"),
    [
        ("workload.optimizer={name: sgd, lr: 0.1}", {"momentum": 0.0, "nesterov": False}),
        (ADAMW, {"beta1": 0.9, "beta2": 0.999}),
        (LION, {"beta1": 0.9, "beta2": 0.99}),
    ],
)
def test_what_a_file_leaves_open_is_filled_in(assignment: str, own: dict[str, Any]) -> None:
    workload = make_spec(assignment).workload
    plain = workload.optimizer.model_dump(exclude_none=True)
    assert plain.pop("name") in assignment
    assert plain.pop("lr") > 0
    assert plain == {"weight_decay": 0.0, "decay_norm_and_bias": True, **own}
    assert workload.schedule.model_dump(exclude_none=True) == {
        "name": "cosine",
        "per": "epoch",
        "warmup": 0.0,
    }
    others = (workload.train, workload.clip_norm, workload.accumulate, workload.precision)
    assert others == ("all", None, 1, "float32")
    assert workload.diagnostics == []


def test_a_multistep_schedule_has_the_milestones_of_residual_networks() -> None:
    schedule = make_spec(STEPS).workload.schedule
    assert (schedule.milestones, schedule.gamma) == ([0.5, 0.75], 0.1)


CHANGES = [
    ["workload.optimizer.nesterov=true"],
    ["workload.optimizer.decay_norm_and_bias=false"],
    [ADAMW],
    [ADAMW, "workload.optimizer.beta1=0.8"],
    [LION],
    ["workload.schedule.name=constant"],
    ["workload.schedule.per=step"],
    ["workload.schedule.warmup=1"],
    [STEPS],
    [STEPS, "workload.schedule.gamma=0.2"],
    [STEPS, "workload.schedule.milestones=[0.5]"],
    ["workload.train=norm"],
    ["workload.clip_norm=1"],
    ["workload.accumulate=2"],
    ["workload.precision=bfloat16"],
    ["workload.diagnostics=[loss_rise]"],
]


def test_every_key_decides_the_hash_and_survives_json() -> None:
    specs = [make_spec(), *(make_spec(*assignments) for assignments in CHANGES)]
    assert len({spec.hash for spec in specs}) == len(specs)
    for spec in specs:
        assert Spec.model_validate(json.loads(json.dumps(spec.model_dump()))) == spec


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([], ["workload.schedule={name: cosine, per: epoch, warmup: 0}"]),
        ([ADAMW], [ADAMW, "workload.optimizer.beta2=0.999"]),
        ([STEPS], [STEPS, "workload.schedule.milestones=[0.5, 0.75]"]),
        (
            ["workload.diagnostics=[loss_rise, gradient_norms]"],
            ["workload.diagnostics=[gradient_norms, loss_rise, loss_rise]"],
        ),
    ],
)
def test_a_default_that_is_written_out_is_the_same_study(one: list[str], other: list[str]) -> None:
    assert make_spec(*one).hash == make_spec(*other).hash


@pytest.mark.parametrize("assignments", CHANGES)
def test_a_training_gets_what_the_workload_says(assignments: list[str]) -> None:
    from trainables.config import Config

    workload = make_spec(*assignments).workload
    config = Config(**stages.example_configs(make_spec(*assignments))["sam_on"])
    optimizer, schedule = workload.optimizer, workload.schedule
    assert (config.optimizer, config.lr) == (optimizer.name, optimizer.lr)
    assert (config.momentum, config.nesterov) == (optimizer.momentum, optimizer.nesterov)
    assert (config.beta1, config.beta2) == (optimizer.beta1, optimizer.beta2)
    assert config.decay_norm_and_bias == optimizer.decay_norm_and_bias
    assert (config.schedule, config.schedule_per) == (schedule.name, schedule.per)
    assert (config.warmup, config.gamma) == (schedule.warmup, schedule.gamma)
    assert config.milestones == schedule.milestones
    for key in ("train", "clip_norm", "accumulate", "precision", "diagnostics"):
        assert getattr(config, key) == getattr(workload, key)


def test_the_warm_up_stretches_with_the_epochs_of_an_arm() -> None:
    spec = make_spec(
        "workload.epochs=10",
        "workload.schedule.warmup=2",
        "workload.budget={match: gradient_evaluations, of: sam_all}",
    )
    configs = stages.example_configs(spec)
    assert {name: (c["epochs"], c["warmup"]) for name, c in configs.items()} == {
        "sgd": (20, 4.0),
        "sam_all": (10, 2.0),
        "sam_on": (10, 2.0),
    }


def test_a_smoke_run_has_no_gpu_and_a_warm_up_that_fits() -> None:
    small = smoke.smoke(
        make_spec(
            "workload.epochs=10",
            "workload.schedule.warmup=5",
            "workload.batch_size=96",
            "workload.accumulate=6",
            "workload.precision=float16",
            "resources={cpu: 1, gpu: 1.0}",
        )
    ).workload
    assert (small.precision, small.epochs, small.schedule.warmup) == ("bfloat16", 2, 1.0)
    assert (small.batch_size, small.accumulate) == (32, 2)


def test_params_are_flat_and_tell_only_what_is_unusual() -> None:
    def params(*assignments: str) -> dict[str, str]:
        header = {"spec": make_spec(*assignments).model_dump()}
        return tracking_names.trial_params(header, Trial("tiny", "sgd", "search", 0, 0, {}))

    usual = params()
    assert usual["optimizer"] == "sgd"
    assert usual["schedule"] == "cosine"
    assert not {"nesterov", "train", "accumulate", "precision", "warmup", "per"} & set(usual)
    changed = params(
        "workload.optimizer={name: adamw, lr: 0.001, decay_norm_and_bias: false}",
        "workload.schedule={name: multistep, per: step, warmup: 0.5}",
        "workload.precision=bfloat16",
        "workload.diagnostics=[loss_rise]",
    )
    assert set(changed.items()) - set(usual.items()) == {
        ("optimizer", "adamw"),
        ("lr", "0.001"),
        ("beta1", "0.9"),
        ("beta2", "0.999"),
        ("decay_norm_and_bias", "false"),
        ("schedule", "multistep"),
        ("schedule_per", "step"),
        ("warmup", "0.5"),
        ("milestones", "[0.5, 0.75]"),
        ("gamma", "0.1"),
        ("precision", "bfloat16"),
    }


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        (["arms.own={variant: sam, m: 48}"], "arms.own.m: 48 does not divide batch_size 64"),
        (
            ["arms.own={variant: sam, m: 16}", "search.batch_size={choices: [32, 40]}"],
            "arms.own.m: 16 does not divide batch_size 40",
        ),
        (
            ["arms.own={variant: sam, search: {m: {low: 8, high: 16}}}"],
            "arms.own.search.m: m must divide every batch size; give choices for both",
        ),
        (["arms.own={variant: sam, m: 16}", "workload.accumulate=2"], "leave accumulate out"),
        (
            [
                "arms.own={variant: sam, ascent: momentum, search: {rho: {low: 1, high: 2}}}",
                "workload.optimizer={name: adamw, lr: 0.1}",
            ],
            "arms.own: sam perturbs along the momentum of sgd; give it one",
        ),
        (
            ["arms.own={variant: sampa}", "workload.precision=float16", "resources.gpu=1"],
            "arms.own: sampa takes no scaled loss; give precision bfloat16",
        ),
        *(
            (
                [f"arms.own={arm}", f"workload.precision={precision}", "resources.gpu=1"],
                "arms.own: ascent_precision lowers that of one pass; with precision "
                f"{precision} all have it lowered: give float32, or leave it out",
            )
            for arm, precision in (
                ("{variant: sam, ascent_precision: bfloat16}", "bfloat16"),
                ("{variant: fsam, search: {ascent_precision: {choices: [bfloat16]}}}", "float16"),
            )
        ),
        (
            [
                "arms.own={variant: sam, start_epoch: 2}",
                "workload.budget={match: gradient_evaluations, of: sam_all}",
            ],
            "workload.budget.match: own costs more in some steps than in others; match epochs",
        ),
        (
            [
                "arms.own={variant: ae_sam, lambda_1: 0.0}",
                "workload.budget={match: gradient_evaluations, of: sam_all}",
            ],
            "workload.budget.match: own costs more in some steps than in others; match epochs",
        ),
        (
            [
                "arms.own={variant: sam, end_epoch: 0}",
                "workload.budget={match: gradient_evaluations, of: sam_all}",
            ],
            "workload.budget.match: own costs more in some steps than in others; match epochs",
        ),
    ],
)
def test_methods_that_do_not_fit_the_workload_are_refused(
    assignments: list[str], message: str
) -> None:
    assert message in told(*assignments)
