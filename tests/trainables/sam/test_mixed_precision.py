"""Loss scaling, clipping and autocast."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor

from tests.trainables.sam.nets import Batch, loss_of, make, make_batches, make_net, same, weights_of
from trainables.sam.passes import cut, gradients


def scaled_run(variant: str, scaler: torch.amp.GradScaler | None) -> dict[str, Tensor]:
    net, optimizer = make("batch", torch.float32, variant=variant, perturb="norm", rho=0.2)
    for batch in make_batches(4, dtype=torch.float32):
        optimizer.step(loss_of(net), batch, scaler=scaler, clip_norm=0.5, accumulate=2)
    return weights_of(net)


@pytest.mark.parametrize("variant", ["sam", "asam"])
def test_a_scale_that_is_a_power_of_two_changes_no_bit(variant: str) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    assert same(scaled_run(variant, scaler), scaled_run(variant, None))


@pytest.mark.parametrize("enabled", [True, False])
def test_the_perturbation_does_not_depend_on_the_scale(enabled: bool) -> None:
    net, optimizer = make("batch", torch.float32, variant="asam", rho=0.2)
    scaler = torch.amp.GradScaler("cpu", init_scale=12345.0, enabled=enabled)
    plain_net, plain = make("batch", torch.float32, variant="asam", rho=0.2)
    batch = make_batches(1, dtype=torch.float32)[0]
    loss = optimizer.step(loss_of(net), batch, scaler=scaler)
    torch.testing.assert_close(loss, plain.step(loss_of(plain_net), batch))
    torch.testing.assert_close(
        optimizer.last_step.perturbation_norm, plain.last_step.perturbation_norm, rtol=1e-6, atol=0
    )


def test_the_ascent_gradient_is_unscaled() -> None:
    net = make_net("layer", torch.float32)
    slices = cut(make_batches(1, dtype=torch.float32)[0], 5)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    parameters: list[Tensor] = list(net.parameters())
    loss, scaled = gradients(loss_of(net), slices, parameters, scaler, set())
    expected_loss, expected = gradients(loss_of(net), slices, parameters, None, set())
    assert torch.equal(loss, expected_loss)
    assert all(torch.equal(a, b) for a, b in zip(scaled, expected, strict=True))


@pytest.mark.parametrize("perturb", ["all", "norm"])
@pytest.mark.parametrize("failing", [1, 2])
def test_amp_overflow_in_either_pass(perturb: str, failing: int) -> None:
    net, optimizer = make("batch", torch.float32, perturb=perturb)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    first, second = make_batches(2, dtype=torch.float32)
    optimizer.step(loss_of(net), first, scaler=scaler)
    before = weights_of(net)
    calls = 0

    def loss_fn(batch: Batch) -> Tensor:
        nonlocal calls
        calls += 1
        losses = loss_of(net)(batch)
        return losses * 1e37 if calls == failing else losses

    optimizer.step(loss_fn, second, scaler=scaler)
    assert optimizer.last_step.skipped.item() == 1
    assert scaler.get_scale() == 512
    assert same(weights_of(net), before)
    optimizer.step(loss_of(net), second, scaler=scaler)
    assert optimizer.last_step.skipped.item() == 0
    assert scaler.get_scale() == 512


def test_overflow_of_the_ascent_lowers_the_scale_though_the_second_pass_is_finite() -> None:
    net, optimizer = make("layer", torch.float32, perturb="norm")
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    calls = 0

    def loss_fn(batch: Batch) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 1:
            return loss_of(net)(batch) * 1e37
        return net[-1](batch[0].flatten(1)[:, :8]).square().mean(1)  # type: ignore[index, no-any-return]

    before = weights_of(net)
    optimizer.step(loss_fn, make_batches(1, dtype=torch.float32)[0], scaler=scaler)
    assert scaler.get_scale() == 512
    assert same(weights_of(net), before)


def test_clipping_acts_on_the_gradient_of_the_base_optimizer_alone() -> None:
    net, optimizer = make("layer", rho=0.3)
    norms: list[float] = []
    optimizer.base_optimizer.register_step_pre_hook(
        lambda *_: norms.append(
            torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None])
            .norm()
            .item()
        )
    )
    optimizer.step(loss_of(net), make_batches(1)[0], clip_norm=0.01)
    assert norms == [pytest.approx(0.01, rel=1e-3)]
    assert optimizer.last_step.perturbation_norm.item() == pytest.approx(0.3, rel=1e-9)


@pytest.mark.parametrize("variant", ["none", "sam"])
def test_weights_cached_by_an_outer_autocast(variant: str) -> None:
    def run(outer: bool) -> dict[str, Tensor]:
        rho = None if variant == "none" else 0.5
        net, optimizer = make("layer", torch.float32, variant=variant, rho=rho)

        def inner(batch: Batch) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                return loss_of(net)(batch)

        loss_fn: Callable[[Batch], Tensor] = loss_of(net) if outer else inner
        # Not autocast(enabled=False): it would keep the cache of the inner one alive.
        with torch.autocast("cpu", torch.bfloat16) if outer else nullcontext():
            for batch in make_batches(3, dtype=torch.float32):
                optimizer.step(loss_fn, batch)
        return weights_of(net)

    assert same(run(outer=True), run(outer=False))


def test_weights_cached_at_the_perturbed_point_when_the_second_pass_raises() -> None:
    net, optimizer = make("layer", torch.float32, rho=0.5)
    batch = make_batches(1, dtype=torch.float32)[0]
    with torch.autocast("cpu", torch.bfloat16):
        before = loss_of(net)(batch)
        calls = 0

        def loss_fn(b: Batch) -> Tensor:
            nonlocal calls
            calls += 1
            losses = loss_of(net)(b)
            return losses if calls == 1 else losses[:3]

        with pytest.raises(ValueError, match="one loss a sample"):
            optimizer.step(loss_fn, batch)
        assert torch.equal(loss_of(net)(batch), before)
