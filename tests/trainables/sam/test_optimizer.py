"""SharpnessAware as an optimizer, and what it says to wrong arguments."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from tests.trainables.sam.nets import loss_of, make, make_batches, make_net, same, sgd, weights_of
from trainables.sam import SharpnessAware


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"variant": "smart"}, "unknown variant 'smart'; allowed: none, sam, asam"),
        ({"variant": "sam"}, "'sam' needs rho, a finite number >= 0, got None"),
        ({"variant": "sam", "rho": -1.0}, "got -1.0"),
        ({"variant": "sam", "rho": float("nan")}, "got nan"),
        ({"variant": "sam", "rho": float("inf")}, "got inf"),
        ({"variant": "sam", "rho": True}, "got True"),
        ({"variant": "sam", "rho": "0.1"}, "got '0.1'"),
        ({"variant": "none", "rho": 0.1}, "'none' takes no rho"),
        ({"perturb": "gamma", "rho": 0.1}, "subset 'gamma'; allowed: all, norm, no_norm"),
        ({"rho": 0.1, "beta": 0.1}, "'sam' takes no option 'beta'; allowed: every, start_epoch"),
        ({"rho": 0.1, "m": 0}, "m: 0 is below 1"),
        ({"rho": 0.1, "m": 1.5}, "m: 1.5 is not a whole number"),
        (
            {"rho": 0.1, "ascent": "fraction:2"},
            "'fraction:2' is not one of .*fraction:F with 0 < F",
        ),
        ({"variant": "ssam_d", "rho": 0.1, "density": "most"}, "not a number or one of matched"),
        ({"variant": "ssam_d", "rho": 0.1, "density": 0}, "0 is not above 0"),
        ({"variant": "ssam_d", "rho": 0.1, "perturb": "norm"}, "perturb must be 'all', got 'norm'"),
        ({"variant": "none", "eta": 0.1}, "allowed: none"),
        ({"variant": "asam", "rho": 0.1, "eta": -0.1}, "eta: -0.1 is below 0"),
        ({"variant": "asam", "rho": 0.1, "normalize_bias": 1}, "normalize_bias: 1 is not true"),
        ({"rho": 0.1, "ascent_precision": "half"}, "'half' is not one of bfloat16"),
        ({"rho": 0.1, "ascent_precision": 16}, "16 is not one of bfloat16"),
        (
            {"rho": 0.1, "ascent_precision": "bfloat16"},
            "lowers that of float32, and 0.weight is torch.float64; leave it out, or make",
        ),
        (
            {"rho": 0.1, "ascent_precision": "bfloat16", "ascent": "previous"},
            "^ascent previous makes no pass that ascent_precision could speak of; leave one out$",
        ),
        (
            {"variant": "gsam", "rho": 0.1, "ascent_precision": "bfloat16"},
            "'gsam' takes no option 'ascent_precision'; allowed: alpha",
        ),
        (
            {"variant": "none", "ascent_precision": "bfloat16"},
            "'none' takes no option 'ascent_precision'; allowed: none",
        ),
        ({"rho": 0.1, "bn_statistics": "last"}, "'last' is not one of first, both, none"),
    ],
)
def test_wrong_arguments_are_refused_with_what_is_allowed(
    arguments: dict[str, Any], message: str
) -> None:
    net = make_net("batch")
    with pytest.raises(ValueError, match=message):
        SharpnessAware(net, sgd(net), **arguments)


def test_a_base_optimizer_must_be_an_optimizer_object() -> None:
    net, optimizer = make("layer")
    with pytest.raises(TypeError, match=r"class SGD; build it first: SGD\(model.parameters"):
        SharpnessAware(net, torch.optim.SGD, rho=0.1)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="got SharpnessAware"):
        SharpnessAware(net, optimizer, rho=0.1)
    with pytest.raises(TypeError, match="got Sequential"):
        SharpnessAware(net, net, rho=0.1)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("batch", "accumulate", "error", "message"),
    [
        ("images", 1, TypeError, "tuple of tensors.*got str"),
        ((), 1, TypeError, "tuple of tensors"),
        ((torch.zeros(4), 3), 1, TypeError, "tuple of tensors"),
        ((torch.zeros(4), torch.zeros(3)), 1, ValueError, r"\[4, 3\]"),
        (torch.zeros(4), 5, ValueError, "from 1 to 4"),
        (torch.zeros(4), 0, ValueError, "from 1 to 4"),
    ],
)
def test_wrong_batches_are_refused(
    batch: Any, accumulate: int, error: type[Exception], message: str
) -> None:
    net, optimizer = make("layer")
    with pytest.raises(error, match=message):
        optimizer.step(loss_of(net), batch, accumulate=accumulate)


def test_losses_of_another_shape_are_refused_and_weights_restored() -> None:
    net, optimizer = make("layer")
    before = weights_of(net)
    with pytest.raises(ValueError, match=r"one loss a sample, shape \(12,\).*got shape \(12, 3\)"):
        optimizer.step(lambda batch: net(batch[0]), make_batches(1)[0])
    assert same(weights_of(net), before)


@pytest.mark.parametrize("slices", [1, 5])
def test_a_scalar_mean_gives_the_same_step_as_losses_of_samples(slices: int) -> None:
    net, optimizer = make("layer")
    other, scalar = make("layer")
    for batch in make_batches(2):
        optimizer.step(loss_of(net), batch, accumulate=slices)
        scalar.step(lambda b: loss_of(other)(b).mean(), batch, accumulate=slices)
    assert same(weights_of(net), weights_of(other))


def test_a_batch_may_be_one_tensor_or_a_list() -> None:
    net, optimizer = make("layer")
    x, y = make_batches(1)[0]
    optimizer.step(lambda images: net(images).square().mean(1), x, accumulate=2)
    optimizer.step(loss_of(net), [x, y], accumulate=2)


def test_it_is_an_optimizer_over_the_groups_and_state_of_its_base() -> None:
    net, optimizer = make("layer")
    base = optimizer.base_optimizer
    assert isinstance(optimizer, torch.optim.Optimizer)
    optimizer.step(loss_of(net), make_batches(1)[0])
    assert optimizer.param_groups is base.param_groups
    assert optimizer.state is base.state
    assert optimizer.param_groups[0]["rho"] == 0.1
    base.load_state_dict(base.state_dict())
    assert optimizer.param_groups is base.param_groups
    assert optimizer.state is base.state
    optimizer.zero_grad()
    assert all(p.grad is None for p in net.parameters())
    assert repr(optimizer).startswith("SharpnessAware(variant='sam', perturb='all', base_opt")
    assert "lr: 0.1" in repr(optimizer)


def test_groups_added_later_are_perturbed() -> None:
    net = make_net("layer")
    base = torch.optim.SGD(net[1].parameters(), lr=0.1)  # type: ignore[index]
    optimizer = SharpnessAware(net, base, rho=0.1)
    batch = make_batches(1)[0]
    optimizer.step(loss_of(net), batch)
    few = optimizer.last_step.perturbed
    optimizer.add_param_group({"params": net[2].parameters(), "rho": 0.7})  # type: ignore[index]
    base.add_param_group({"params": net[-1].parameters()})  # type: ignore[index]
    optimizer.step(loss_of(net), batch)
    assert optimizer.last_step.perturbed == sum(p.numel() for p in net.parameters()) > few
    assert [group["rho"] for group in optimizer.param_groups] == [0.1, 0.7, 0.1]


def test_layers_frozen_or_freed_during_training() -> None:
    net, optimizer = make("layer")
    batch = make_batches(1)[0]
    net[1].requires_grad_(False)  # type: ignore[index]
    optimizer.step(loss_of(net), batch)
    assert not net[1].weight.requires_grad  # type: ignore[index]
    without = optimizer.last_step.perturbed
    net[1].requires_grad_(True)  # type: ignore[index]
    optimizer.step(loss_of(net), batch)
    assert optimizer.last_step.perturbed == without + 36 * 8 + 8


def test_parameters_outside_the_base_optimizer_stay() -> None:
    net = make_net("layer")
    optimizer = SharpnessAware(net, torch.optim.SGD(net[2:].parameters(), lr=0.1), rho=0.1)  # type: ignore[index]
    before = weights_of(net)
    optimizer.step(loss_of(net), make_batches(1)[0])
    assert torch.equal(net[1].weight, before["1.weight"])  # type: ignore[index]
    assert net[1].weight.requires_grad  # type: ignore[index]
    assert optimizer.last_step.perturbed == sum(p.numel() for p in net[2:].parameters())  # type: ignore[index]


def test_last_step_tells_what_happened() -> None:
    net, optimizer = make("layer", perturb="norm", rho=0.5)
    with pytest.raises(RuntimeError, match="no step was taken yet"):
        _ = optimizer.last_step
    batch = make_batches(1)[0]
    expected = loss_of(net)(batch).mean()
    loss = optimizer.step(loss_of(net), batch)
    last = optimizer.last_step
    assert loss.item() == expected.item()
    assert not loss.requires_grad
    assert last.perturbed_loss is not None
    assert last.perturbed_loss.item() > loss.item()
    assert (last.gradient_evaluations, last.perturbed, last.skipped.item()) == (2.0, 16, 0.0)

    net, optimizer = make("layer", variant="none")
    optimizer.step(loss_of(net), batch)
    last = optimizer.last_step
    assert (last.gradient_evaluations, last.perturbed, last.perturbed_loss) == (1.0, 0, None)
    assert last.perturbation_norm.item() == 0


def test_masks_are_those_of_perturbed_parameters() -> None:
    _, optimizer = make("layer", perturb="norm")
    assert optimizer.mask("2.weight") is None
    with pytest.raises(KeyError, match=r"'1.weight' is not a perturbed.*2.weight, 2.bias"):
        optimizer.mask("1.weight")
    _, optimizer = make("layer", variant="none")
    with pytest.raises(KeyError, match="perturbed: none"):
        optimizer.mask("2.weight")


def test_epochs_are_remembered_and_checked() -> None:
    _, optimizer = make("layer")
    optimizer.begin_epoch(3, 4, samples=make_batches(1))
    assert (optimizer.epoch, optimizer.epochs) == (3, 4)
    for epoch, epochs in [(4, 4), (-1, 4), (0, 0)]:
        with pytest.raises(ValueError, match=f"got epoch {epoch} of {epochs}"):
            optimizer.begin_epoch(epoch, epochs)


def test_a_state_of_another_method_is_refused() -> None:
    _, sam = make("layer", perturb="norm")
    _, other = make("layer", perturb="all")
    _, asam = make("layer", variant="asam", perturb="all")
    with pytest.raises(ValueError, match="of perturb 'norm', this optimizer of 'all'"):
        other.load_state_dict(sam.state_dict())
    with pytest.raises(ValueError, match="of variant 'sam', this optimizer of 'asam'"):
        asam.load_state_dict(other.state_dict())
    with pytest.raises(ValueError, match="not the state of a SharpnessAware"):
        sam.load_state_dict(sam.base_optimizer.state_dict())


def test_a_scheduler_on_the_base_optimizer_works_too() -> None:
    net, optimizer = make("layer")
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer.base_optimizer, T_max=3)
    for batch in make_batches(3):
        optimizer.step(loss_of(net), batch)
        scheduler.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.0, abs=1e-12)


def test_none_works_on_a_model_without_norm_layers() -> None:
    net = nn.Linear(3, 2)
    optimizer = SharpnessAware(net, sgd(net), "none", "norm")
    optimizer.step(lambda x: net(x).square().mean(1), torch.ones(4, 3))
