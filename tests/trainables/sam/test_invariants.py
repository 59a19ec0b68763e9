"""What design and catalogue promise of every variant and subset."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.trainables.sam.nets import (
    NETS,
    Batch,
    loss_of,
    make,
    make_batches,
    make_net,
    same,
    sgd,
    weights_of,
)
from trainables.catalog import SUBSETS
from trainables.sam import VARIANTS, SharpnessAware, perturbed_parameters

ASCENDING = [name for name, variant in VARIANTS.items() if variant.geometry]
every_subset = pytest.mark.parametrize("perturb", SUBSETS)
every_ascent = pytest.mark.parametrize("variant", ASCENDING)
every_variant = pytest.mark.parametrize("variant", VARIANTS)


def rho_for(variant: str, rho: float = 0.1) -> float | None:
    return rho if VARIANTS[variant].rho else None


def shift_of(net: nn.Module, optimizer: SharpnessAware, batch: Batch) -> dict[str, Tensor]:
    """Take a step and return w at the second pass minus w at the first."""
    seen = []

    def loss_fn(b: Batch) -> Tensor:
        seen.append(weights_of(net))
        return loss_of(net)(b)

    optimizer.step(loss_fn, batch)
    return {name: seen[1][name] - w for name, w in seen[0].items()}


@every_ascent
@every_subset
@pytest.mark.parametrize("kind", NETS)
def test_the_declared_norm_equals_rho_on_the_subset(variant: str, perturb: str, kind: str) -> None:
    net, optimizer = make(kind, variant=variant, perturb=perturb, rho=0.37)
    before = weights_of(net)
    subset = {name for name, _ in perturbed_parameters(net, perturb)}
    shift = shift_of(net, optimizer, make_batches(1)[0])
    scale = {
        k: w.abs() if VARIANTS[variant].norm == "elementwise l2" else 1 for k, w in before.items()
    }
    length = torch.cat([(shift[k] / scale[k]).flatten() for k in subset]).norm()
    assert length.item() == pytest.approx(0.37, rel=1e-9)
    assert all(shift[k].count_nonzero() == 0 for k in shift.keys() - subset)
    moved = torch.cat([e.flatten() for e in shift.values()]).norm()
    assert optimizer.last_step.perturbation_norm.item() == pytest.approx(moved.item(), rel=1e-9)
    assert optimizer.last_step.perturbed == sum(before[k].numel() for k in subset)


def test_groups_have_their_own_rho() -> None:
    net = make_net("layer")
    groups = [{"params": net[1].parameters(), "rho": 0.0}, {"params": net[2:].parameters()}]  # type: ignore[index]
    optimizer = SharpnessAware(net, torch.optim.SGD(groups, lr=0.1), rho=0.5)
    assert [group["rho"] for group in optimizer.param_groups] == [0.0, 0.5]
    shift = shift_of(net, optimizer, make_batches(1)[0])
    assert not shift["1.weight"].any()
    assert shift["2.weight"].any()


def test_sam_on_all_parameters_is_plain_sam_bit_for_bit() -> None:
    net, optimizer = make("layer", variant="sam", perturb="all", rho=0.3)
    plain = make_net("layer")
    base = sgd(plain)
    for batch in make_batches(4):
        optimizer.step(loss_of(net), batch)

        base.zero_grad()
        loss_of(plain)(batch).mean().backward()  # type: ignore[no-untyped-call]
        gradients = [p.grad for p in plain.parameters() if p.grad is not None]
        norm = torch.stack([g.norm() for g in gradients]).square().sum().sqrt()
        kept = [p.detach().clone() for p in plain.parameters()]
        with torch.no_grad():
            for p, g in zip(plain.parameters(), gradients, strict=True):
                p.add_(0.3 * (g * (1 / norm)))
        base.zero_grad()
        loss_of(plain)(batch).mean().backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            for p, w in zip(plain.parameters(), kept, strict=True):
                p.copy_(w)
        base.step()
    assert same(weights_of(net), weights_of(plain))


@pytest.mark.parametrize(
    "variant", [name for name, v in VARIANTS.items() if v.zero_is_base == "exact"]
)
@every_subset
@pytest.mark.parametrize("kind", NETS)
def test_rho_zero_is_the_base_optimizer_bit_for_bit(variant: str, perturb: str, kind: str) -> None:
    net, optimizer = make(
        kind, torch.float32, variant=variant, perturb=perturb, rho=rho_for(variant, 0.0)
    )
    plain = make_net(kind, torch.float32)
    base = sgd(plain)
    for batch in make_batches(4, dtype=torch.float32):
        loss = optimizer.step(loss_of(net), batch)
        base.zero_grad()
        expected = loss_of(plain)(batch).mean()
        expected.backward()  # type: ignore[no-untyped-call]
        base.step()
        assert torch.equal(loss, expected.detach())
    assert same(dict(net.state_dict()), dict(plain.state_dict()))


@every_variant
@every_subset
def test_weights_equal_their_backup_just_before_the_base_update(variant: str, perturb: str) -> None:
    net, optimizer = make(
        "batch", torch.float32, variant=variant, perturb=perturb, rho=rho_for(variant)
    )
    seen = []
    optimizer.base_optimizer.register_step_pre_hook(lambda *_: seen.append(weights_of(net)))
    for batch in make_batches(3, dtype=torch.float32):
        before = weights_of(net)
        optimizer.step(loss_of(net), batch)
        assert same(seen[-1], before)
        assert not same(weights_of(net), before)


class InterruptedPassError(Exception):
    pass


def _nan(losses: Tensor) -> Tensor:
    return losses * float("nan")


def _infinite(losses: Tensor) -> Tensor:
    return losses * float("inf")


def _infinite_gradient(losses: Tensor) -> Tensor:
    return losses + (losses - losses).abs().sqrt()


def _raise(losses: Tensor) -> Tensor:
    raise InterruptedPassError


@every_variant
@every_subset
@pytest.mark.parametrize("failing", [1, 2])
@pytest.mark.parametrize("fail", [_nan, _infinite, _infinite_gradient, _raise])
@pytest.mark.parametrize("head_only", [False, True], ids=["whole", "head_only_in_pass_2"])
def test_a_failed_pass_leaves_weights_and_optimizer_state(
    variant: str, perturb: str, failing: int, fail: Callable[[Tensor], Tensor], head_only: bool
) -> None:
    if variant == "none" and failing == 2:
        failing = 1
    net, optimizer = make("batch", variant=variant, perturb=perturb, rho=rho_for(variant))
    first, second = make_batches(2)
    optimizer.step(loss_of(net), first)
    before, state = weights_of(net), _flat(optimizer.state_dict())
    calls = 0

    def loss_fn(batch: Batch) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 2 and head_only:
            logits = net[-1](batch[0].flatten(1)[:, :24])  # type: ignore[index]
            losses = nn.functional.cross_entropy(logits, batch[1], reduction="none")
        else:
            losses = loss_of(net)(batch)
        return fail(losses) if calls == failing else losses

    if fail is _raise:
        with pytest.raises(InterruptedPassError):
            optimizer.step(loss_fn, second)
    else:
        optimizer.step(loss_fn, second)
        assert optimizer.last_step.skipped.item() == 1
    assert same(weights_of(net), before)
    assert same(_flat(optimizer.state_dict()), state)
    assert all(p.requires_grad for p in net.parameters())
    assert all(m.track_running_stats for m in net.modules() if isinstance(m, nn.BatchNorm2d))

    optimizer.step(loss_of(net), second)
    assert optimizer.last_step.skipped.item() == 0
    assert not same(weights_of(net), before)


@every_ascent
@every_subset
def test_a_zero_gradient_gives_a_zero_perturbation(variant: str, perturb: str) -> None:
    net, optimizer = make("batch", variant=variant, perturb=perturb)
    seen = []

    def loss_fn(batch: Batch) -> Tensor:
        seen.append(weights_of(net))
        losses = loss_of(net)(batch)
        return losses * 0 if len(seen) == 1 else losses

    optimizer.step(loss_fn, make_batches(1)[0])
    assert same(seen[0], seen[1])
    assert optimizer.last_step.perturbation_norm.item() == 0
    assert optimizer.last_step.skipped.item() == 0


@every_ascent
@pytest.mark.parametrize("kind", NETS)
def test_the_cheap_ascent_gives_the_perturbation_of_the_full_one(
    variant: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = make_batches(1)[0]
    net, optimizer = make(kind, variant=variant, perturb="norm")
    cheap = shift_of(net, optimizer, batch)
    full_net, full = make(kind, variant=variant, perturb="norm")
    monkeypatch.setattr(full, "_resting", set())
    assert same(cheap, shift_of(full_net, full, batch))


@every_variant
@every_subset
@pytest.mark.parametrize("base", [torch.optim.SGD, torch.optim.AdamW])
def test_save_and_load_in_the_middle_equals_an_uninterrupted_run(
    variant: str, perturb: str, base: Any
) -> None:
    def start() -> tuple[nn.Module, SharpnessAware]:
        net = make_net("batch")
        options = {"momentum": 0.9} if base is torch.optim.SGD else {}
        inner = base(net.parameters(), lr=0.05, **options)
        return net, SharpnessAware(net, inner, variant, perturb, rho_for(variant))

    batches = make_batches(6)
    net, optimizer = start()
    for batch in batches[:3]:
        optimizer.step(loss_of(net), batch)
    optimizer.begin_epoch(2, 5)
    for group in optimizer.param_groups:
        group["lr"] *= 0.5
    saved = io.BytesIO()
    torch.save([net.state_dict(), optimizer.state_dict()], saved)
    for batch in batches[3:]:
        optimizer.step(loss_of(net), batch)

    again, resumed = start()
    saved.seek(0)
    model_state, optimizer_state = torch.load(saved, weights_only=True)
    again.load_state_dict(model_state)
    resumed.load_state_dict(optimizer_state)
    assert (resumed.epoch, resumed.epochs) == (2, 5)
    for batch in batches[3:]:
        resumed.step(loss_of(again), batch)
    assert same(dict(net.state_dict()), dict(again.state_dict()))
    assert same(_flat(optimizer.state_dict()), _flat(resumed.state_dict()))


def _flat(state: Any, path: str = "") -> dict[str, Tensor]:
    """Every number of a nested state as a tensor of its own."""
    if isinstance(state, Tensor):
        return {path: state.clone()}
    if isinstance(state, (int, float)):
        return {path: torch.tensor(state)}
    if isinstance(state, dict):
        pairs = list(state.items())
    elif isinstance(state, list):
        pairs = list(enumerate(state))
    else:
        return {}
    return {k: v for key, part in pairs for k, v in _flat(part, f"{path}/{key}").items()}
