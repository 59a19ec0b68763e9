"""From a file to the spec that runs: what holds between keys, and what the hash covers."""

from __future__ import annotations

import json

import pytest

from study import resolve
from study.spec import Spec
from study.stages import example_configs
from study.yamlfile import Document, SpecError
from tests.study.command import SPEC
from tests.study.synthetic import make_spec


def told(*assignments: str) -> str:
    with pytest.raises(SpecError) as caught:
        make_spec(*assignments)
    assert str(caught.value).isprintable()
    return str(caught.value)


MAPPINGS = [
    "",
    "workload.",
    "workload.data.",
    "workload.model.",
    "workload.optimizer.",
    "arms.sam_on.",
    "arms.sam_on.search.",
    "cross.",
    "search.",
    "search.rho.",
    "tune.",
    "confirm.",
    "verdict.",
    "resources.",
    "engine.",
]


@pytest.mark.parametrize("place", MAPPINGS)
def test_an_unknown_key_is_refused_at_every_level(place: str) -> None:
    given = {
        "cross.": ["cross={variant: [asam], perturb: [all]}"],
        "search.rho.": ["search.rho={}"],
    }
    message = told(*given.get(place, []), f"{place}zzz=1")
    assert f"{place}zzz: unknown" in message
    assert "allowed: " in message


@pytest.mark.parametrize("place", [place[:-1] for place in MAPPINGS if place])
@pytest.mark.parametrize("value", ["5", "[a]", "true"])
def test_another_type_in_place_of_a_mapping_is_refused(place: str, value: str) -> None:
    assert told(f"{place}={value}").startswith(f"--set {place}={value}: {place}: must be")


@pytest.mark.parametrize(
    ("assignment", "part"),
    [
        ("workload.data.train_size=0", "workload.data.train_size: must be at least 1, not 0"),
        ("workload.data.validation_size=-5", "must be at least 1, not -5"),
        ("workload.data.label_noise=1.0", "must be below 1, not 1.0"),
        ("workload.data.split_seed=-1", "must be at least 0, not -1"),
        ("workload.data.root=/data", "digits takes no root; leave it out"),
        ("workload.data.image_size=32", "digits takes no image_size; leave it out"),
        ("workload.data.stream=true", "digits takes no stream; leave it out"),
        ("workload.data.train_size=true", "must be a whole number, not True"),
        ("workload.data.name=imagefolder", "give its path, --set workload.data.root=PATH"),
        ("workload.model={name: timm/resnet18, width: 4}", "timm/resnet18 takes no width"),
        ("workload.model.name=timm/../x", "unknown model 'timm/../x'"),
        ("workload.model={name: vit, width: 4}", "vit takes no width"),
        ("workload.model={name: wrn28_10, width: 4}", "model.width: wrn28_10 takes no width"),
        ("workload.model={name: timm/resnet18, norm: gn}", "timm/resnet18 takes no norm"),
        ("workload.model={name: timm/resnet18, affine: true}", "timm/resnet18 takes no affine"),
        ("workload.model={name: vit, norm: bn}", "norm for vit 'bn'; allowed: ln, rms, none, dyt"),
        ("workload.model.norm=rsm", "gn, ln, rms, none, dyt; did you mean 'rms'?"),
        ("workload.model.norm=5", "workload.model.norm: must be text, not 5"),
        ("workload.model.affine=1", "workload.model.affine: must be true or false, not 1"),
        ("workload.model={name: vit, norm: none, affine: false}", "model.affine: norm none has no"),
        ("workload.model.depth=3", "unknown key 'depth'; allowed: name, width, norm, affine"),
        ("workload.model={depth: 3}", "unknown key 'depth'; allowed: name, width, norm, affine"),
        ("workload.model.name=my.nets.make", "unknown model 'my.nets.make'; allowed: resnet8, "),
        ("workload.model.name='my.nets:'", "vit_small, timm/NAME, MODULE:CALLABLE"),
        ("workload.model.name='my nets:make'", "unknown model 'my nets:make'"),
        ("workload.model.name=my/nets.py:make", "unknown model 'my/nets.py:make'"),
        ("workload.model.name=a:b:c", "unknown model 'a:b:c'"),
        ("workload.model.name=.nets:make", "unknown model '.nets:make'"),
        ("workload.model={name: a:b, depth: [1]}", "depth: must be a number, a word, true or"),
        ("workload.model={name: a:b, depth: null}", "workload.model.depth: must be a number, a"),
        ("workload.model={name: a:b, image_size: 8}", "model.image_size: comes from the data set"),
        ("workload.data.name=my.data", "unknown data set 'my.data'; allowed: digits, cifar10,"),
        ("workload.data={name: a:b, validation_size: 9, image_size: 8}", "a:b takes no image_size"),
        ("workload.data={name: a:b, validation_size: 9, augment: flip}", "augmentation for a:b"),
        ("workload.data={name: cifar10, validation_size: 50000}", "ask for 50001 images"),
        ("workload.data={name: cifar100, validation_size: 9, image_size: 32}", "no image_size"),
        ("workload.optimizer.lr=0", "must be above 0, not 0"),
        ("workload.optimizer.momentum=1", "must be below 1, not 1"),
        ("engine.eval_batch=0", "engine.eval_batch: must be at least 1, not 0"),
        ("engine.compile=1", "engine.compile: must be true or false, not 1"),
        ("workload.epochs=0", "must be at least 1, not 0"),
        ("workload.batch_size=641", "641 is more than the 640 training images"),
        ("tune.trials_per_arm=null", "trials_per_arm is missing"),
        ("tune.trials_per_arm=1e3", "must be a whole number, not 1000.0"),
        ("arms.sam_on.trials=0", "arms.sam_on.trials: must be at least 1, not 0"),
        ("arms.sam_on.seed_offset=-1", "arms.sam_on.seed_offset: must be at least 0"),
        ("arms.sam_on.search=null", "must be a mapping, not None"),
        ("arms.a.b={variant: sam}", "arms.a.variant: is missing"),
        ("arms={'a b': {variant: sam}, c: {variant: sam}}", "must be a name of letters"),
        ("arms={a: {variant: sam}}", "at least two arms are needed"),
        ("confirm.seeds=10001", "must be at most 10000, not 10001"),
        ("verdict.confidence=0.5", "must be above 0.5, not 0.5"),
        ("verdict.equivalence_margin=0", "must be above 0, not 0"),
        ("verdict.also=[[sam_on, sam_onn]]", "verdict.also.0: unknown arm 'sam_onn'"),
        ("verdict.also=[[sgd, sgd]]", "planned already, or an arm with itself"),
        ("verdict.also=[[sgd, sam_on], [sam_on, sgd]]", "verdict.also.1: sam_on against sgd"),
        ("study=''", "must be a name of letters"),
        ("study=..", "must be a name of letters"),
        ("study=-x", "must be a name of letters"),
        ("study=größe", "must be a name of letters"),
        (f"study={'a' * 65}", "at most 64"),
        ('study="a\\n"', "must be a name of letters"),
        ("study=5", "must be text, not 5"),
        ("search.rho=suggest", "must be 'suggested' (rho only) or a mapping"),
        ("search.rho={low: 1}", "give low and high, or choices"),
        ("search.rho={low: 1, high: 1}", "low 1 must be below high 1"),
        ("search.rho={low: 0.1, high: 1, points: 3}", "points is for the sampler grid"),
        ("search.rho={low: 0.1, high: 1, log: true, step: 0.1}", "step and log exclude"),
        ("search.rho={low: 0, high: 1, step: 2}", "step 2 must fit into the range"),
        ("search.rho={low: 0, high: 1, step: 1.0e-30}", "at most 1e9 times"),
        ("search.rho={low: 0, high: 1, step: 0}", "must be above 0, not 0"),
        ("search.rho={choices: [1, 1.0]}", "each once"),
        ("search.rho={choices: [1], log: true}", "choices stand alone"),
        ("search.rho={choices: [[1]]}", "search.rho.choices.0: must be a number, a word"),
        ("search.rho={choices: [null]}", "search.rho.choices.0: must be a number, a word"),
        ("search.rho={choices: [a]}", "'a' is not a finite number"),
        ("search.rho={low: 0.1, high: 1, borrowed: true}", "unknown key 'borrowed'"),
        ("search.lr={low: 0, high: 1}", "search.lr: 0.0 is not above 0"),
        ("search.momentum={low: 0, high: 1}", "is not at least 0 and below 1"),
        ("search.batch_size={low: 1.5, high: 8}", "batch_size takes whole numbers"),
        ("search.batch_size={choices: [8, 8.5]}", "8.5 is not a whole number from 1"),
        ("search.bn_statistics={choices: [last]}", "'last' is not one of first, both, none"),
        ("search.bn_statistics={low: 0, high: 1}", "is not one of first, both, none"),
        ("search.eta={low: 0, high: 1}", "search.eta: unknown search key 'eta'"),
        ("arms.sgd.search={eta: {low: 0, high: 1}}", "arms.sgd.search.eta: unknown search key"),
        ("cross={variant: [], perturb: [all]}", "cross.variant: needs at least 1 entries"),
        ("cross={variant: [none], perturb: [all]}", "variant none perturbs nothing"),
        ("cross={variant: [asan], perturb: [all]}", "cross.variant.0: unknown variant 'asan'"),
        ("cross={variant: [asam], perturb: [nrom]}", "did you mean 'norm'?"),
        ("cross={variant: [asam], perturb: [all, random]}", "cross.perturb.1: subset 'random'"),
        ("cross={variant: [asam], perturb: [[norm, norm]]}", "'norm' is named twice in one union"),
        ("cross={variant: [asam], perturb: ['regex:a', 'regex:a.']}", "'asam_regex_a' a second"),
        (
            f"cross={{variant: [asam], perturb: ['regex:{60 * 'a'}']}}",
            "name it yourself under arms",
        ),
        ("cross={variant: [sam], perturb: [all]}", "makes the arm 'sam_all' a second time"),
        ("arms.sam_on.perturb=[norm, 5]", "arms.sam_on.perturb: a subset is a word or a list of"),
        ("arms.sam_on.perturb=[]", "arms.sam_on.perturb: a subset needs at least one word"),
        ("arms.sam_on.perturb=5", "arms.sam_on.perturb: must be a word, a list of words"),
        ("arms.sam_on.perturb=top_fisher:matchd", "did you mean 'matched'?"),
        ("cross={variant: [asam, asam], perturb: [all]}", "makes the arm 'asam_all' a second"),
    ],
)
def test_what_does_not_fit_together_is_refused(assignment: str, part: str) -> None:
    message = told(assignment)
    assert part in message
    assert message.startswith((f"--set {assignment}: ", "test: "))


def test_a_batch_is_not_larger_than_all_images_there_are() -> None:
    assert "801 is more than the 800 training images" in told(
        "workload.data.train_size=null", "workload.batch_size=801"
    )


def test_a_grid_takes_no_budget_but_its_size() -> None:
    grid = ("tune={sampler: grid}", "search.rho={low: 0.1, high: 1, points: 3}")
    spec = make_spec(*grid, "arms.sgd.trials=5")
    assert {name: arm.trials for name, arm in spec.arms.items()} == {
        "sgd": 5,
        "sam_all": 3,
        "sam_on": 3,
    }
    assert make_spec(*grid).arms["sgd"].trials == 3
    assert make_spec(*grid, "tune.trials_per_arm=3").arms["sam_on"].trials == 3
    assert "tune.trials_per_arm: the grid of arm sam_all has 3 points, not 4" in told(
        *grid, "tune.trials_per_arm=4"
    )
    assert "arms.sam_on.trials: the grid of arm sam_on has 3 points" in told(
        *grid, "arms.sam_on.trials=2"
    )
    assert "step and points exclude each other" in told(
        *grid, "search.rho={low: 0.1, high: 1, points: 3, step: 0.1}"
    )
    assert "fewer than 5 whole numbers" in told(
        *grid, "search.batch_size={low: 1, high: 3, points: 5}"
    )


def test_the_default_study_is_the_one_of_the_design() -> None:
    spec = resolve.load(SPEC)
    assert list(spec.arms) == ["sgd", "sam_all", "sam_on", "sam_no_norm"]
    assert [arm.trials for arm in spec.arms.values()] == [8] * 4
    assert spec.pairs == [
        ("sgd", "sam_all"),
        ("sam_on", "sam_all"),
        ("sam_no_norm", "sam_all"),
        ("sam_on", "sgd"),
    ]


def test_a_spec_survives_json_with_its_hash() -> None:
    spec = make_spec(
        "search.batch_size={choices: [8, 16]}",
        "arms.asam={variant: asam, search: {eta: {choices: [0, 0.5]}, normalize_bias: {choices: "
        "[true, false]}}}",
    )
    again = Spec.model_validate(json.loads(json.dumps(spec.model_dump())))
    assert again == spec
    assert again.hash == spec.hash
    assert again.arms["asam"].search["batch_size"].choices == [8, 16]
    assert all(type(n) is int for n in again.arms["asam"].search["batch_size"].choices or ())


def test_the_hash_does_not_cover_where_the_images_lie() -> None:
    images = "workload.data={name: imagefolder, validation_size: 10}"
    here = make_spec(images, "workload.data.root=/here")
    assert make_spec(images, "workload.data.root=/there").hash == here.hash
    smaller = make_spec(images, "workload.data.root=/here", "workload.data.image_size=8")
    assert smaller.hash != here.hash
    streamed = make_spec(images, "workload.data.root=/here", "workload.data.stream=true")
    assert streamed.workload.data.stream
    assert streamed.hash == here.hash


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            ["workload.data.augment=resized_crop_flip"],
            "workload.data.augment: resized_crop_flip cuts out of image files as they are decoded: "
            "it needs stream: true",
        ),
        (
            ["workload.data.stream=true", "resources.gpu=2"],
            "resources.gpu: each of the GPUs of one trial would decode every image; with stream "
            "give gpu: 1",
        ),
        (
            ["workload.data.stream=true", "engine.batched_trials=2"],
            "workload.data.stream: each of the batched trials would decode every image; leave it "
            "out (engine.batched_trials)",
        ),
    ],
)
def test_what_streaming_needs_and_what_it_cannot_do(settings: list[str], message: str) -> None:
    images = "workload.data={name: imagefolder, root: here, validation_size: 10, train_size: 99}"
    with pytest.raises(SpecError) as caught:
        make_spec(images, *settings)
    assert str(caught.value).endswith(message)


def test_a_model_of_ones_own_takes_options_which_the_hash_covers() -> None:
    model = "workload.model={name: my.nets:make, depth: 3, scale: 0.5, kind: wide, bias: true}"
    spec = make_spec(model)
    fields = example_configs(spec)["sgd"]
    assert fields["model"] == "my.nets:make"
    assert fields["model_options"] == {"depth": 3, "scale": 0.5, "kind": "wide", "bias": True}
    assert Spec.model_validate(json.loads(json.dumps(spec.model_dump()))) == spec
    hashes = {
        make_spec(model, *more).hash
        for more in ((), ("workload.model.depth=4",), ("workload.model.name=my.nets:other",))
    }
    assert len(hashes) == 3
    assert make_spec("workload.model={name: a:b, width: 3}").workload.model.width == 3
    assert make_spec("workload.model={name: a:b}").workload.model.width is None


def test_a_model_states_the_options_that_it_takes() -> None:
    def options(*assignments: str) -> object:
        return example_configs(make_spec(*assignments))["sgd"]["model_options"]

    assert options("workload.model={name: resnet20}") == {"width": 16, "norm": "bn", "affine": True}
    assert options("workload.model={name: vit_tiny}") == {"norm": "ln", "affine": True}
    assert options("workload.model={name: timm/resnet18}") == {}
    assert options("workload.model={name: a:b}") == {}
    given = "workload.model={name: wrn16_4, norm: dyt, affine: false}"
    assert options(given) == {"norm": "dyt", "affine": False}
    assert make_spec("workload.model.norm=bn").hash == make_spec().hash
    assert make_spec("workload.model.norm=gn").hash != make_spec().hash


def test_data_of_ones_own_is_named_by_import_path() -> None:
    own = "workload.data={name: my.data:load, validation_size: 100000}"
    spec = make_spec(own, "workload.data.root=/images")
    assert (spec.workload.data.root, spec.workload.data.augment) == ("/images", "none")
    assert make_spec(own, "workload.data.augment=crop_flip").workload.data.augment == "crop_flip"
    # How many images there are is not known before they are loaded.
    assert make_spec(own).workload.data.train_size is None


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_needs_no_root_and_is_mirrored(name: str) -> None:
    data = f"workload.data={{name: {name}, validation_size: 5000}}"
    spec = make_spec(data)
    assert (spec.workload.data.root, spec.workload.data.augment) == (None, "crop_flip")
    assert make_spec(data, "workload.data.root=/images").hash == spec.hash


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (["workload.optimizer.lr=1"], ["workload.optimizer.lr=1.0"]),
        (["arms.a={variant: asam, eta: 0}"], ["arms.a={variant: asam}"]),
        (["arms.sam_on.perturb=norm"], ["arms.sam_on.bn_statistics=first"]),
        (
            ["search.lr={low: 0.1, high: 1}", "search.momentum={low: 0, high: 0.9}"],
            ["search.momentum={low: 0, high: 0.9}", "search.lr={low: 0.1, high: 1}"],
        ),
    ],
)
def test_two_ways_to_write_one_study_are_one_study(one: list[str], other: list[str]) -> None:
    first, second = make_spec(*one), make_spec(*other)
    assert first.hash == second.hash
    # The order decides which draws a hyperparameter gets, so it must be the same too.
    for name, arm in first.arms.items():
        assert list(arm.search) == list(second.arms[name].search)


def test_a_file_needs_no_line_numbers_to_be_resolved() -> None:
    with pytest.raises(SpecError, match=r"^here: study: is missing$"):
        resolve.resolve(Document({}, {(): "here"}))


@pytest.mark.parametrize(
    ("assignments", "channels_last", "eval_batch"),
    [
        ((), True, 1024),
        (("workload.data={name: cifar10, validation_size: 100}",), True, 64),
        (("workload.data={name: cifar10, validation_size: 100}", "resources.gpu=1"), True, 4096),
        (("workload.model={name: vit}",), False, 1024),
        (("workload.model={name: 'my.nets:make'}",), False, 1024),
        (("engine={channels_last: false, eval_batch: 7, compile: true}",), False, 7),
    ],
)
def test_engine_settings_follow_from_model_image_and_device(
    assignments: tuple[str, ...], channels_last: bool, eval_batch: int
) -> None:
    spec = make_spec(*assignments)
    assert spec.engine.channels_last is channels_last
    assert spec.engine.eval_batch == eval_batch
    assert spec.engine.compile is ("engine" in str(assignments))
    assert all(
        (config["channels_last"], config["eval_batch"]) == (channels_last, eval_batch)
        for config in example_configs(spec).values()
    )


def test_engine_settings_are_in_the_hash() -> None:
    hashes = {make_spec(each).hash for each in ("engine={}", "engine.compile=true")}
    assert len(hashes | {make_spec("engine.eval_batch=64").hash}) == 3
