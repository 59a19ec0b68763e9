"""The smallest study that takes the same way through the code."""

from __future__ import annotations

from pathlib import Path

import pytest

from study import smoke, space, stages
from study.resolve import load
from study.spec import Spec
from study.yamlfile import SpecError
from tests.study.command import ROOT, SPEC
from tests.study.synthetic import make_spec, search_trials
from trainables import catalog

OTHERWISE = (
    "verdict={baseline: sam_on, also: [[sgd, sam_all]], equivalence_margin: 0.5}",
    "resources={cpu: 4, gpu: 1.0}",
)
PHOTOGRAPHS = ROOT / "search_spaces" / "cifar10_images.yaml"


def test_baseline_and_first_other_arm_run_few_trials_and_seeds_under_another_name() -> None:
    small = smoke.smoke(make_spec(*OTHERWISE))
    assert small.study == "smoke_tiny"
    assert list(small.arms) == ["sgd", "sam_on"]
    assert small.pairs == [("sgd", "sam_on")]
    search = search_trials(small)
    assert [(t.arm, t.index) for t in search] == [
        ("sgd", 0),
        ("sgd", 1),
        ("sam_on", 0),
        ("sam_on", 1),
    ]
    assert small.confirm.seeds == small.workload.epochs == 2
    resources = small.resources
    assert (resources.cpu, resources.gpu, resources.max_trials) == (1, 0, 2)


def test_arms_search_spaces_and_everything_else_stay() -> None:
    spec = make_spec("workload.data.label_noise=0.4", "workload.label_smoothing=0.1")
    small = smoke.smoke(spec)
    for name, arm in small.arms.items():
        assert arm.model_copy(update={"trials": 4}) == spec.arms[name]
    workload, data = small.workload, small.workload.data
    assert workload.optimizer == spec.workload.optimizer
    assert (workload.label_smoothing, data.label_noise, data.augment) == (0.1, 0.4, "crop")
    assert (workload.model.name, workload.model.width) == ("resnet8", 4)


def test_a_few_batches_of_digits_stand_in_for_the_data_set() -> None:
    small = smoke.smoke(make_spec())
    data = small.workload.data
    assert (small.workload.batch_size, data.train_size, data.validation_size) == (32, 128, 64)
    assert stages.data_place(small)["stand_in"] == 192
    assert "stand_in" not in stages.data_place(make_spec())


@pytest.mark.parametrize(
    ("span", "largest"), [("{low: 16, high: 512}", 512), ("{choices: [8, 64, 300]}", 300)]
)
def test_the_largest_batch_that_a_search_may_try_fits(span: str, largest: int) -> None:
    small = smoke.smoke(make_spec(f"search.batch_size={span}"))
    assert small.workload.data.train_size == largest


def test_sizes_that_are_smaller_already_stay() -> None:
    small = smoke.smoke(
        make_spec(
            "workload.batch_size=8",
            "workload.epochs=1",
            "workload.data.validation_size=10",
            "workload.model.width=2",
        )
    ).workload
    assert (small.batch_size, small.epochs, small.model.width) == (8, 1, 2)
    assert (small.data.train_size, small.data.validation_size) == (32, 10)


def test_a_grid_keeps_two_values_of_each_axis() -> None:
    search = "{rho: {low: 0.1, high: 10, log: true, points: 7}, lr: {choices: [0.1, 0.2, 0.3]}}"
    small = smoke.smoke(make_spec("tune={sampler: grid}", f"search={search}"))
    assert [arm.trials for arm in small.arms.values()] == [2, 4]
    assert space.points(small, "sgd") == [{"lr": 0.1}, {"lr": 0.2}]
    assert space.points(small, "sam_all") == [
        {"rho": rho, "lr": lr} for rho in (0.1, 10.0) for lr in (0.1, 0.2)
    ]


@pytest.mark.parametrize("settings", [[], ["tune={sampler: random, trials_per_arm: 5}"]])
def test_what_a_journal_keeps_of_it_is_a_spec_with_the_same_hash(settings: list[str]) -> None:
    small = smoke.smoke(make_spec(*settings))
    again = Spec.model_validate(small.model_dump())
    assert again.hash == small.hash


def test_the_longest_name_still_is_one() -> None:
    small = smoke.smoke(make_spec(f"study={'x' * 64}"))
    assert Spec.model_validate(small.model_dump()).study == "smoke_" + "x" * 58


def test_a_data_set_needs_no_root() -> None:
    with pytest.raises(SpecError, match="give its path"):
        load(PHOTOGRAPHS)
    data = smoke.load(PHOTOGRAPHS).workload.data
    assert (data.name, data.image_size) == ("imagefolder", 32)
    assert smoke.load(PHOTOGRAPHS, ["workload.data.image_size=16"]).workload.data.image_size == 16


def test_large_images_are_few_and_still_streamed() -> None:
    large = ["workload.data.image_size=224", "workload.data.stream=true"]
    large.append("workload.data.augment=resized_crop_flip")
    workload = smoke.load(PHOTOGRAPHS, large).workload
    data = workload.data
    assert (data.image_size, data.stream, data.augment) == (224, True, "resized_crop_flip")
    assert (workload.batch_size, data.train_size, data.validation_size) == (8, 32, 16)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("workload.data=photographs", "workload.data: must be a mapping"),
        ("workload.data.name=digitz", "did you mean 'digits'"),
        ("stand_in=3", "unknown key 'stand_in'"),
        ("workload.data.stand_in=3", "unknown key 'stand_in'"),
    ],
)
def test_a_wrong_file_is_refused_as_without_smoke(setting: str, message: str) -> None:
    with pytest.raises(SpecError, match=message) as refused:
        smoke.load(SPEC, [setting])
    with pytest.raises(SpecError) as plainly:
        load(SPEC, [setting])
    assert str(refused.value) == str(plainly.value)


def test_a_missing_file_is_named() -> None:
    with pytest.raises(SpecError, match="no such file"):
        smoke.load(Path("missing.yaml"))


@pytest.mark.parametrize("name", catalog.MODELS)
def test_a_large_network_has_a_small_one_of_its_kind(name: str) -> None:
    norm = catalog.MODELS[name].norms[1]
    model = smoke.smoke(make_spec(f"workload.model={{name: {name}, norm: {norm}}}")).workload.model
    assert model.name == (catalog.MODELS[name].small or name)
    assert model.norm == norm
    assert catalog.MODELS[model.name].small is None
    assert (model.width is None) == (catalog.MODELS[model.name].width is None)
