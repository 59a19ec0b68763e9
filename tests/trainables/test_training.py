"""The training loop of one trial: the same bits from the same seed, whatever ran before."""

from __future__ import annotations

import hashlib
import json
import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from trainables import data
from trainables.config import Config
from trainables.optimization import perturbed_share
from trainables.training import Training, deterministic, diverged

CONFIG = Config(
    model="resnet8",
    model_options={"width": 4},
    lr=0.1,
    momentum=0.9,
    weight_decay=5e-4,
    epochs=2,
    batch_size=32,
    label_smoothing=0.1,
    variant="sam",
    perturb="norm",
    rho=0.5,
    train_size=100,
    validation_size=50,
    label_noise=0.4,
    augment="crop",
    seed=3,
)


@pytest.fixture(scope="module")
def digits() -> tuple[data.Images, data.Facts]:
    deterministic(1)
    return data.load_pool("digits")


def trained(config: Config, digits: tuple[data.Images, data.Facts]) -> Training:
    training = Training(config, *digits)
    for _ in range(config.epochs):
        training.epoch()
    return training


def digest(training: Training) -> str:
    state = training.model.state_dict()
    return hashlib.sha256(b"".join(t.cpu().numpy().tobytes() for t in state.values())).hexdigest()


@pytest.mark.parametrize(("model", "options"), [("resnet8", {"width": 4}), ("vit", {})])
def test_a_seed_gives_the_same_weights_whatever_ran_before(
    digits: tuple[data.Images, data.Facts], model: str, options: dict[str, int]
) -> None:
    config = replace(CONFIG, model=model, model_options=options)
    first = digest(trained(config, digits))
    other = digest(trained(replace(config, seed=4), digits))
    torch.rand(7)
    assert digest(trained(config, digits)) == first != other
    source = (
        "from tests.trainables.test_training import *\n"
        f"config = replace(CONFIG, model={model!r}, model_options={options!r})\n"
        "deterministic(1)\nprint(digest(trained(config, data.load_pool('digits'))))"
    )
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True)
    assert done.stdout.strip() == first, done.stderr


def test_arms_see_the_same_data_and_start_from_the_same_weights(
    digits: tuple[data.Images, data.Facts],
) -> None:
    sam = Training(CONFIG, *digits)
    sgd = Training(replace(CONFIG, variant="none", perturb="none", rho=None), *digits)
    assert digest(sam) == digest(sgd)
    for (a, b), (c, d) in zip(sam.batches(), sgd.batches(), strict=True):
        assert torch.equal(a, c)
        assert torch.equal(b, d)


def test_rho_zero_is_the_base_optimizer(digits: tuple[data.Images, data.Facts]) -> None:
    zero = trained(replace(CONFIG, rho=0.0), digits)
    base = trained(replace(CONFIG, variant="none", perturb="none", rho=None), digits)
    assert digest(zero) == digest(base)


def test_an_epoch_reports_what_the_design_names(digits: tuple[data.Images, data.Facts]) -> None:
    training = Training(CONFIG, *digits)
    metrics = training.epoch()
    assert set(metrics) == {
        "train_loss",
        "train_accuracy",
        "validation_loss",
        "validation_accuracy",
        "perturbation_norm",
        "gradient_evaluations",
        "seconds_per_epoch",
    }
    # 100 images make 3 whole batches of 32; SAM takes 2 evaluations a step.
    assert training.steps == 3
    assert metrics["gradient_evaluations"] == 6
    assert metrics["perturbation_norm"] == pytest.approx(0.5, rel=1e-6)
    assert 0 <= metrics["train_accuracy"] <= 100
    assert (metrics["train_accuracy"] * 96 / 100) == pytest.approx(
        round(metrics["train_accuracy"] * 96 / 100)
    )


def test_validation_is_the_mean_over_clean_validation_images(
    digits: tuple[data.Images, data.Facts],
) -> None:
    pool, facts = digits
    training = Training(CONFIG, pool, facts)
    metrics = training.epoch()
    chosen = data.split(
        pool.labels, classes=10, seed=3, train_size=100, validation_size=50, label_noise=0.4
    ).validation
    pixels = torch.tensor(pool.images[chosen]).float() / 255
    mean = torch.tensor(facts.mean)[:, None, None]
    std = torch.tensor(facts.std)[:, None, None]
    training.model.eval()
    with torch.no_grad():
        logits = training.model((pixels - mean) / std)
    labels = torch.tensor(pool.labels[chosen])
    right = (logits.argmax(1) == labels).float().mean().item()
    assert metrics["validation_accuracy"] == pytest.approx(100 * right)
    loss = torch.nn.functional.cross_entropy(logits, labels).item()
    assert metrics["validation_loss"] == pytest.approx(loss, rel=1e-5)
    # several batches of an evaluation, of which the last is not full
    many = np.resize(chosen, 2065)
    _, correct = training.test(data.Images(pool.images[many], pool.labels[many]))
    bits = (logits.argmax(1) == labels).numpy()
    assert correct.bits == np.packbits(np.resize(bits, 2065)).tobytes()


def test_the_learning_rate_follows_half_a_cosine(digits: tuple[data.Images, data.Facts]) -> None:
    training = Training(replace(CONFIG, epochs=4), *digits)
    rates = []
    for _ in range(4):
        rates.append(training.optimizer.param_groups[0]["lr"])
        training.epoch()
    assert rates == pytest.approx([0.1 * (1 + math.cos(math.pi * e / 4)) / 2 for e in range(4)])


def test_the_test_set_changes_nothing(digits: tuple[data.Images, data.Facts]) -> None:
    test, _ = data.load_test("digits")
    plain, tested = Training(CONFIG, *digits), Training(CONFIG, *digits)
    plain.epoch()
    tested.epoch()
    scores, correct = tested.test(test)
    assert set(scores) == {"test_loss", "test_accuracy"}
    assert correct.images == len(test.labels) == 697
    right = np.unpackbits(np.frombuffer(correct.bits, np.uint8), count=697)
    assert scores["test_accuracy"] == 100 * (int(right.sum()) / 697)
    plain.epoch()
    tested.epoch()
    assert digest(plain) == digest(tested)


def test_losses_that_overflow_are_divergence(digits: tuple[data.Images, data.Facts]) -> None:
    training = Training(replace(CONFIG, lr=1e30), *digits)
    assert not diverged({"train_loss": 1.0, "validation_loss": 1.0})
    assert diverged(training.epoch()) or diverged(training.epoch())


def test_the_share_of_perturbed_parameters(digits: tuple[data.Images, data.Facts]) -> None:
    model = Training(CONFIG, *digits).model
    norm = perturbed_share(CONFIG, model)
    rest = perturbed_share(replace(CONFIG, perturb="no_norm"), model)
    assert norm + rest == pytest.approx(perturbed_share(replace(CONFIG, perturb="all"), model))
    assert 0 < norm < rest < 100
    assert perturbed_share(replace(CONFIG, variant="none"), model) == 0
    for word in ("random", "top_fisher", "top_magnitude"):
        matched = replace(CONFIG, perturb=f"{word}:matched")
        assert perturbed_share(matched, model) == norm
        assert perturbed_share(replace(CONFIG, perturb=f"{word}:0.5"), model) == pytest.approx(50)


def test_timing_measures_every_arm_or_says_why_not() -> None:
    fields = {**CONFIG.__dict__}

    def ask(workers: int = 1, **config: object) -> dict[str, dict[str, float]]:
        request = {
            "place": {"name": "digits"},
            "configs": {"a": fields | config},
            "threads": 1,
            "gpu": False,
            "workers": workers,
        }
        done = subprocess.run(
            [sys.executable, "-m", "trainables.timing"],
            input=json.dumps(request),
            capture_output=True,
            text=True,
            check=True,
        )
        answer: dict[str, dict[str, float]] = json.loads(done.stdout)
        return answer

    arm = ask()["a"]
    assert arm["seconds"] > 0
    assert arm["steps"] == 3
    assert ask(workers=2)["a"]["steps"] == 3  # 100 images make 6 batches of 16
    assert "more than the 100 training images" in str(ask(batch_size=101)["error"])


def test_weights_lie_as_the_config_says(digits: tuple[data.Images, data.Facts]) -> None:
    layout = torch.channels_last
    for wanted in (True, False):
        model = Training(replace(CONFIG, channels_last=wanted), *digits).model
        kernels = [p for p in model.parameters() if p.dim() == 4 and min(p.shape[1:]) > 1]
        assert kernels
        assert all(p.is_contiguous(memory_format=layout) is wanted for p in kernels)


def test_the_batches_of_evaluation_change_no_score(
    digits: tuple[data.Images, data.Facts],
) -> None:
    scores = [
        trained(replace(CONFIG, epochs=1, eval_batch=size), digits).test(digits[0])[0]
        for size in (7, 4096)
    ]
    assert scores[0]["test_accuracy"] == scores[1]["test_accuracy"]
    assert scores[0]["test_loss"] == pytest.approx(scores[1]["test_loss"], rel=1e-5)


def test_a_compiled_network_trains_and_resumes_as_the_plain_one(
    digits: tuple[data.Images, data.Facts], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without code generation, which needs a compiler for C++ and half a minute.
    real, calls = torch.compile, []

    def compile(model: torch.nn.Module) -> object:
        calls.append(model)
        return real(model, backend="aot_eager")

    monkeypatch.setattr(torch, "compile", compile)
    plain = trained(CONFIG, digits)
    compiled = trained(replace(CONFIG, compile=True), digits)
    assert len(calls) == 1
    for name, tensor in plain.model.state_dict().items():
        torch.testing.assert_close(compiled.model.state_dict()[name], tensor, rtol=1e-3, atol=1e-4)
    Training(CONFIG, *digits).load_state_dict(compiled.state_dict())


@pytest.mark.parametrize("augment", ["crop+cutout", "none+mixup", "crop+randaugment+cutout+mixup"])
def test_every_augmentation_trains_and_resumes_bit_for_bit(
    digits: tuple[data.Images, data.Facts], augment: str
) -> None:
    config = replace(CONFIG, augment=augment)
    whole = trained(config, digits)
    first = Training(config, *digits)
    first.epoch()
    second = Training(config, *digits)
    second.load_state_dict(first.state_dict())
    second.epoch()
    assert digest(second) == digest(whole) != digest(trained(CONFIG, digits))


def test_a_mixed_label_counts_as_its_larger_part(digits: tuple[data.Images, data.Facts]) -> None:
    training = Training(replace(CONFIG, augment="none+mixup", epochs=30, rho=0.1), *digits)
    while training.done < 30:
        metrics = training.epoch()
    assert metrics["train_accuracy"] > 20  # 40 % of the labels are wrong, of 10 classes
    assert metrics["train_accuracy"] < 90


def test_a_moving_average_is_scored_in_place_of_the_weights(
    digits: tuple[data.Images, data.Facts],
) -> None:
    config = replace(CONFIG, ema=0.9)
    training, plain = Training(config, *digits), Training(CONFIG, *digits)
    expected = {name: tensor.clone() for name, tensor in plain.model.state_dict().items()}
    for epoch in range(config.epochs):
        tally = training.begin()
        plain.begin()
        while not tally.over:
            training.count(training.step(training.next_batch()))
            plain.count(plain.step(plain.next_batch()))
            for name, tensor in plain.model.state_dict().items():
                if tensor.is_floating_point():
                    expected[name] = 0.9 * expected[name] + 0.1 * tensor
        metrics, of_weights = training.finish(), plain.finish()
        assert metrics["train_loss"] == of_weights["train_loss"]
        assert metrics["validation_loss"] != of_weights["validation_loss"]
        if epoch == 0:
            resumed = Training(config, *digits)
            resumed.load_state_dict(training.state_dict())
    assert digest(training) == digest(plain)
    for name, tensor in training.scored.state_dict().items():
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor, expected[name], rtol=1e-4, atol=1e-6)
    assert resumed.epoch()["validation_loss"] == metrics["validation_loss"]
