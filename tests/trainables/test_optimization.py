"""Base optimizers, schedules, precision and diagnostics of a training."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.trainables.test_training import CONFIG, digest, trained
from trainables import data
from trainables.config import Config
from trainables.diagnostics import Diagnostics
from trainables.optimization import base_optimizer, freeze, schedule
from trainables.sam import LastStep
from trainables.training import Training, deterministic, diverged

Digits = tuple[data.Images, data.Facts]
PLAIN = replace(CONFIG, variant="none", perturb="none", rho=None)
ADAMW = replace(CONFIG, optimizer="adamw", momentum=None, lr=0.002)
LION = replace(CONFIG, optimizer="lion", momentum=None, lr=0.0005)
VIT = replace(CONFIG, model="vit", model_options={})


@pytest.fixture(scope="module")
def digits() -> Digits:
    deterministic(1)
    return data.load_pool("digits")


def state(training: Training) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in training.model.named_parameters()}


def test_the_default_is_sgd_on_half_a_cosine_bit_for_bit(digits: Digits) -> None:
    config = replace(PLAIN, epochs=3)
    source = Training(config, *digits)
    model = source.model
    base = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, fused=True)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(base, T_max=3)
    for _ in range(3):
        model.train()
        for images, labels in source.batches():
            base.zero_grad()
            loss = F.cross_entropy(model(images), labels, label_smoothing=0.1)
            loss.backward()  # type: ignore[no-untyped-call]
            base.step()
        cosine.step()
    assert digest(trained(config, digits)) == digest(source)


def cosine(share: float) -> float:
    return (1 + math.cos(math.pi * share)) / 2


def constant(share: float) -> float:
    return 1.0


@pytest.mark.parametrize("per", ["epoch", "step"])
@pytest.mark.parametrize("warmup", [0, 1, 3])
@pytest.mark.parametrize(("name", "after"), [("cosine", cosine), ("constant", constant)])
def test_the_rate_rises_linearly_and_then_follows_its_closed_form(
    per: str, warmup: int, name: str, after: Callable[[float], float]
) -> None:
    config = replace(CONFIG, lr=0.5, epochs=10, schedule=name, schedule_per=per, warmup=warmup)
    units = 7 if per == "step" else 1
    total, rise = 10 * units, warmup * units
    expected = [
        0.5 * ((i + 1) / rise if i < rise else after((i - rise) / (total - rise)))
        for i in range(total)
    ]
    assert rates(config, total) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, [1] * 5 + [0.1] * 3 + [0.01] * 2),  # the second begins with the epoch after 0.75
        ({"milestones": [0.7], "gamma": 0.5}, [1] * 7 + [0.5] * 3),
        ({"warmup": 2}, [0.5, 1, 1, 1, 1, 0.1, 0.1, 0.1, 0.01, 0.01]),
        ({"warmup": 5}, [0.2, 0.4, 0.6, 0.8, 1, 0.1, 0.1, 0.1, 0.01, 0.01]),
        ({"milestones": [0.01], "gamma": 0.5}, [1] + [0.5] * 9),
    ],
)
def test_the_rate_falls_at_milestones_counted_from_the_start(
    fields: dict[str, Any], expected: list[float]
) -> None:
    config = replace(CONFIG, lr=1.0, epochs=10, schedule="multistep", **fields)
    assert rates(config, 10) == pytest.approx(expected, rel=1e-12)
    stretched = rates(replace(config, schedule_per="step"), 70)
    assert stretched[-1] == pytest.approx(expected[-1])


def rates(config: Config, count: int) -> list[float]:
    optimizer = base_optimizer(nn.Linear(1, 1), config)
    following, found = schedule(optimizer, config, steps=7), []
    for _ in range(count):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        following.step()
    return found


def test_a_training_steps_its_schedule_as_often_as_told(digits: Digits) -> None:
    config = replace(CONFIG, epochs=2, warmup=0.5, schedule_per="step")
    training, found = Training(config, *digits), []
    step = training.step

    def noted(batch: tuple[Tensor, Tensor]) -> Tensor:
        found.append(training.optimizer.param_groups[0]["lr"])
        return step(batch)

    training.step = noted  # type: ignore[method-assign]
    training.epoch()
    training.epoch()
    # 3 steps an epoch: round(1.5) of warm-up, then 4 of the cosine.
    expected = [0.05, 0.1, *(0.1 * cosine(i / 4) for i in range(4))]
    assert found == pytest.approx(expected, rel=1e-12)


def test_an_unknown_optimizer_or_schedule_is_refused() -> None:
    with pytest.raises(ValueError, match="'adam'; allowed: sgd, adamw, lion"):
        base_optimizer(nn.Linear(1, 1), replace(CONFIG, optimizer="adam"))
    sgd = base_optimizer(nn.Linear(1, 1), CONFIG)
    with pytest.raises(ValueError, match="'line'; allowed: cosine, multistep, constant"):
        schedule(sgd, replace(CONFIG, schedule="line"), steps=1)


class Net(nn.Module):
    """Layers under names that say something else."""

    def __init__(self) -> None:
        super().__init__()
        self.norm_proj = nn.Conv2d(1, 2, 3)
        self.layer = nn.BatchNorm2d(2)
        self.ln_f = nn.LayerNorm(4)
        self.scale = nn.Parameter(torch.ones(3))
        self.head = nn.Linear(4, 2)


SPARED = {"norm_proj.bias", "head.bias", "layer.weight", "layer.bias", "ln_f.weight", "ln_f.bias"}


@pytest.mark.parametrize("config", [CONFIG, ADAMW, LION])
@pytest.mark.parametrize("everything", [True, False])
def test_weight_decay_spares_normalization_layers_and_biases_where_told(
    config: Config, everything: bool
) -> None:
    net = Net()
    optimizer = base_optimizer(
        net, replace(config, weight_decay=0.5, lr=0.1, decay_norm_and_bias=everything)
    )
    for p in net.parameters():
        torch.nn.init.ones_(p)
        p.grad = torch.zeros_like(p)
    optimizer.step()
    for name, p in net.named_parameters():
        spared = name in SPARED and not everything
        assert p.detach().flatten()[0].item() == pytest.approx(1.0 if spared else 0.95), name
    counted = [p for group in optimizer.param_groups for p in group["params"]]
    assert set(counted) == set(net.parameters())
    assert len(counted) == len(set(counted))


def test_an_optimizer_takes_its_own_keys_or_their_defaults() -> None:
    def group(config: Config) -> dict[str, Any]:
        return base_optimizer(nn.Linear(1, 1), config).param_groups[0]

    assert group(ADAMW)["betas"] == (0.9, 0.999)
    assert group(LION)["betas"] == (0.9, 0.99)
    assert group(replace(LION, beta1=0.95, beta2=0.98))["betas"] == (0.95, 0.98)
    assert (group(CONFIG)["momentum"], group(CONFIG)["nesterov"]) == (0.9, False)
    assert group(replace(CONFIG, momentum=None))["momentum"] == 0
    assert group(replace(CONFIG, nesterov=True))["nesterov"]


@pytest.mark.parametrize("config", [ADAMW, LION, replace(CONFIG, nesterov=True)])
@pytest.mark.parametrize("variant", ["sam", "none"])
def test_two_epochs_are_finite_and_the_same_bits_again(
    digits: Digits, config: Config, variant: str
) -> None:
    if variant == "none":
        config = replace(config, variant="none", perturb="none", rho=None)
    training = Training(config, *digits)
    for _ in range(2):
        assert not diverged(training.epoch())
    assert digest(training) == digest(trained(config, digits))
    sgd = replace(config, optimizer="sgd", nesterov=False)
    assert digest(training) != digest(trained(sgd, digits))


@pytest.mark.parametrize("train", ["norm", "no_norm"])
@pytest.mark.parametrize("base", [CONFIG, ADAMW])
def test_frozen_parameters_stay_as_they_were(digits: Digits, train: str, base: Config) -> None:
    training = Training(replace(base, train=train, perturb="all"), *digits)
    before = state(training)
    training.epoch()
    moved = {name for name, p in state(training).items() if not torch.equal(p, before[name])}
    of_norm = {
        f"{name}.{which}"
        for name, layer in training.model.named_modules()
        if isinstance(layer, nn.BatchNorm2d)
        for which in ("weight", "bias")
    }
    assert moved == (of_norm if train == "norm" else set(before) - of_norm)


def test_a_subset_that_does_not_learn_cannot_be_perturbed(digits: Digits) -> None:
    with pytest.raises(ValueError, match="selects no trainable parameter"):
        Training(replace(CONFIG, train="no_norm", perturb="norm"), *digits)


def test_a_model_with_nothing_to_learn_is_refused() -> None:
    with pytest.raises(ValueError, match="train='norm' leaves Linear nothing to learn"):
        freeze(nn.Linear(1, 1), "norm")
    with pytest.raises(ValueError, match="unknown part to train 'bias'; allowed: all, norm"):
        freeze(nn.Linear(1, 1), "bias")


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_training_and_evaluation_run_in_the_precision_asked_for(
    digits: Digits, precision: str
) -> None:
    training = Training(replace(CONFIG, precision=precision), *digits)
    found: dict[bool, set[torch.dtype]] = {True: set(), False: set()}
    convolution = next(m for m in training.model.modules() if isinstance(m, nn.Conv2d))
    convolution.register_forward_hook(
        lambda module, _, output: found[training.model.training].add(output.dtype)
    )
    first, second = training.epoch(), training.epoch()
    assert found == {True: {getattr(torch, precision)}, False: {getattr(torch, precision)}}
    assert not diverged(first)
    assert not diverged(second)
    assert {p.dtype for p in training.model.parameters()} == {torch.float32}
    single = Training(CONFIG, *digits).epoch()
    assert first["train_loss"] == pytest.approx(single["train_loss"], rel=0.05)
    assert first["train_loss"] != single["train_loss"]


def test_steps_that_a_scaler_skips_are_no_divergence_unless_all_are(digits: Digits) -> None:
    config = replace(CONFIG, precision="float16", diagnostics=["loss_rise", "gradient_norms"])
    some, every = Training(config, *digits), Training(config, *digits)
    # Overflows once and then fits, and overflows however often it is halved.
    scaler = some._scaler = torch.amp.GradScaler("cpu", init_scale=2.0**20)
    every._scaler = torch.amp.GradScaler("cpu", init_scale=2.0**60)
    metrics = some.epoch()
    assert some.optimizer.last_step.skipped == 0
    assert scaler.get_scale() < 2.0**20
    assert not diverged(metrics)
    assert all(math.isfinite(value) for value in metrics.values())
    assert metrics["perturbation_norm"] == pytest.approx(0.5, rel=1e-4)
    broken = every.epoch()
    assert diverged(broken)
    assert not {"loss_rise", "gradient_norm_other"} & set(broken)


def test_the_gradient_that_the_base_optimizer_gets_is_clipped(digits: Digits) -> None:
    # One step, because means of two norms are not the norm of their means.
    config = replace(CONFIG, train_size=32, clip_norm=1e-3, diagnostics=["gradient_norms"])
    metrics = Training(config, *digits).epoch()
    norm = math.hypot(metrics["gradient_norm_norm_layers"], metrics["gradient_norm_other"])
    assert norm == pytest.approx(1e-3, rel=1e-3)
    free = Training(replace(config, clip_norm=None), *digits).epoch()
    assert math.hypot(free["gradient_norm_norm_layers"], free["gradient_norm_other"]) > 0.01


def test_slices_of_a_batch_give_what_the_whole_batch_gives(digits: Digits) -> None:
    whole, sliced = Training(VIT, *digits), Training(replace(VIT, accumulate=4), *digits)
    one, other = whole.epoch(), sliced.epoch()
    assert other["train_accuracy"] == one["train_accuracy"]
    assert other["train_loss"] == pytest.approx(one["train_loss"], rel=1e-4)
    assert other["gradient_evaluations"] == one["gradient_evaluations"]


def test_diagnostics_are_means_over_the_steps_of_an_epoch(digits: Digits) -> None:
    config = replace(CONFIG, diagnostics=["loss_rise", "gradient_norms"])
    metrics = Training(config, *digits).epoch()
    again = Training(CONFIG, *digits)
    again.model.train()
    again.optimizer.begin_epoch(0, 2)
    rises, norms, others = [], [], []
    for batch in again.batches():
        loss = again.step(batch)
        perturbed = again.optimizer.last_step.perturbed_loss
        assert perturbed is not None
        rises.append((perturbed - loss).item())
        squares = {True: 0.0, False: 0.0}
        for layer in again.model.modules():
            for p in layer.parameters(recurse=False):
                assert p.grad is not None
                squares[isinstance(layer, nn.BatchNorm2d)] += p.grad.pow(2).sum().item()
        norms.append(squares[True] ** 0.5)
        others.append(squares[False] ** 0.5)
    assert metrics["loss_rise"] == pytest.approx(sum(rises) / 3, rel=1e-5)
    assert metrics["gradient_norm_norm_layers"] == pytest.approx(sum(norms) / 3, rel=1e-5)
    assert metrics["gradient_norm_other"] == pytest.approx(sum(others) / 3, rel=1e-5)


def test_diagnostics_change_no_weights_and_tell_nothing_that_is_not_there(digits: Digits) -> None:
    every = ["loss_rise", "gradient_norms"]
    assert digest(trained(replace(CONFIG, diagnostics=every), digits)) == digest(
        trained(CONFIG, digits)
    )
    plain = Training(replace(PLAIN, diagnostics=every), *digits).epoch()
    assert "loss_rise" not in plain
    frozen = Training(replace(CONFIG, train="norm", diagnostics=every), *digits).epoch()
    assert frozen["gradient_norm_norm_layers"] > 0
    assert "gradient_norm_other" not in frozen


def test_a_skipped_step_is_in_no_diagnostic() -> None:
    diagnostics = Diagnostics(["loss_rise"], nn.Linear(1, 1))
    for rise, skipped in ((1.0, 0.0), (math.inf, 1.0), (3.0, 0.0)):
        zero = torch.zeros(())
        step = LastStep(zero, torch.tensor(2 + rise), 2.0, 1, torch.tensor(skipped))
        diagnostics.add(torch.tensor(2.0), step)
    assert diagnostics.read() == {"loss_rise": 2.0}
    assert diagnostics.read() == {}
