"""Trials on a GPU: the same bits again, whatever the precision, and nobody waits for the device."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from tests.trainables.test_streaming import CONFIG as PHOTOGRAPHS
from tests.trainables.test_streaming import cache, held, root, streamed
from tests.trainables.test_training import CONFIG, digest
from trainables import data, policies
from trainables.catalog import MEASURES, VARIANTS
from trainables.config import Config
from trainables.image_ops import OPERATIONS
from trainables.measuring import measure
from trainables.training import Training
from trainables.trial import Keeping, TrialRun

__all__ = ["cache", "root"]  # fixtures

CASES = {
    "float32": CONFIG,
    "bfloat16": replace(CONFIG, precision="bfloat16", channels_last=True),
    "float16": replace(CONFIG, precision="float16", clip_norm=1.0),
    "colours": replace(CONFIG, augment="crop_flip+autoaugment+cutout+mixup"),
    "average": replace(CONFIG, ema=0.9, accumulate=2, diagnostics=["loss_rise", "cosine"]),
    "vit": replace(CONFIG, model="vit", model_options={}, lr=0.01),
    "dyt": replace(CONFIG, model_options={"width": 4, "norm": "dyt"}),
    "densenet": replace(CONFIG, model="densenet100", model_options={}, perturb="all", rho=0.05),
    "subset": replace(CONFIG, perturb="top_fisher:0.1"),
    "timm": replace(CONFIG, model="timm/resnet18", model_options={}, perturb="all", rho=0.05),
}
# ae_sam decides by what it reads from the device once a step: docs/variants.md.
VARIED = {
    name: replace(CONFIG, variant=name, perturb="all", rho=0.05 if variant.geometry else None)
    for name, variant in VARIANTS.items()
    if name != "ae_sam"
}


@pytest.fixture(scope="module")
def digits() -> tuple[data.Images, data.Facts]:
    return data.load_pool("digits")


@pytest.mark.parametrize("name", CASES)
def test_a_trial_gives_the_same_bits_again_and_after_a_checkpoint(
    digits: tuple[data.Images, data.Facts], name: str
) -> None:
    config = CASES[name]
    whole = Training(config, *digits, device="cuda")
    metrics = [whole.epoch() for _ in range(config.epochs)]
    begun = Training(config, *digits, device="cuda")
    assert begun.epoch()["train_loss"] == metrics[0]["train_loss"]
    pauses = iter([False, True])
    assert begun.advance(lambda: next(pauses)) is None
    kept = io.BytesIO()
    torch.save(begun.state_dict(), kept)
    torch.rand(5, device="cuda")
    resumed = Training(config, *digits, device="cuda")
    kept.seek(0)
    resumed.load_state_dict(torch.load(kept, weights_only=True))
    end = resumed.epoch()
    assert {**end, "seconds_per_epoch": 0} == {**metrics[-1], "seconds_per_epoch": 0}
    assert digest(resumed) == digest(whole)


@contextmanager
def no_waiting() -> Iterator[None]:
    """Any call that waits for the device raises RuntimeError."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def take_steps_without_waiting(training: Training) -> None:
    """The steps of an epoch, all after the first under `no_waiting`."""
    tally = training.begin()
    training.count(training.step(training.next_batch()))
    with no_waiting():
        while not tally.over:
            training.count(training.step(training.next_batch()))


@pytest.mark.parametrize("config", [*CASES.values(), *VARIED.values()], ids=[*CASES, *VARIED])
def test_no_step_waits_for_the_device(
    digits: tuple[data.Images, data.Facts], config: Config
) -> None:
    training = Training(config, *digits, device="cuda")
    training.epoch()
    take_steps_without_waiting(training)


def test_images_that_stay_in_their_files_train_as_those_in_memory(root: Path) -> None:
    whole, files = held(root), streamed(root)
    trainings = [
        Training(PHOTOGRAPHS, images, facts, device="cuda") for images, facts in (whole, files)
    ]
    for training in trainings:
        training.epoch()
    take_steps_without_waiting(trainings[1])
    trainings[1].finish()
    trainings[0].epoch()
    assert digest(trainings[0]) == digest(trainings[1])


@pytest.mark.parametrize("name", OPERATIONS)
def test_no_operation_on_images_waits_for_the_device(name: str) -> None:
    images = torch.zeros(4, 3, 32, 32, dtype=torch.uint8, device="cuda")
    magnitudes = torch.full((4,), 0.1, dtype=torch.float64)
    OPERATIONS[name](images, magnitudes)
    with no_waiting():
        OPERATIONS[name](images, magnitudes)


@pytest.mark.parametrize("policy", ["autoaugment", "randaugment"])
def test_a_policy_changes_pixels_as_on_the_cpu(policy: str) -> None:
    images = torch.randint(256, (256, 3, 32, 32), generator=torch.Generator().manual_seed(1))
    images = images.to(torch.uint8)
    wanted, got = (
        getattr(policies, policy)(images.to(device), torch.Generator().manual_seed(2)).cpu()
        for device in ("cpu", "cuda")
    )
    off = (wanted.int() - got.int()).abs()
    assert (off > 1).float().mean() < 1e-3


def test_numbers_are_near_those_of_the_cpu(
    digits: tuple[data.Images, data.Facts], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    config = replace(CONFIG, augment="none")
    metrics = [Training(config, *digits, device=device).epoch() for device in ("cpu", "cuda")]
    for key in ("train_loss", "validation_loss", "perturbation_norm"):
        assert metrics[1][key] == pytest.approx(metrics[0][key], rel=1e-3), key


def test_measures_of_a_model_are_the_same_again(
    digits: tuple[data.Images, data.Facts], tmp_path: Path
) -> None:
    test, _ = data.load_test("digits")
    keeping = Keeping(str(tmp_path), None, None)
    for arm in ("one", "other"):
        config = replace(CONFIG, seed=len(arm))
        run = TrialRun(f"study/{arm}/confirm/0", config, keeping, *digits, test, "cuda")
        while run.step(float("inf")).end is None:
            pass
    for what in MEASURES:
        other = ("study/other/confirm/0", asdict(replace(CONFIG, seed=5)))
        found = [
            measure(
                what,
                "study/one/confirm/0",
                asdict(replace(CONFIG, seed=3)),
                str(tmp_path),
                *digits,
                test,
                "cuda",
                1,
                *(other if what == "line" else ()),
            )
            for _ in range(2)
        ]
        assert found[0]
        assert found[0] == found[1], what
