"""What design and catalogue promise of every variant and subset."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.trainables.sam.nets import (
    NETS,
    Batch,
    begin,
    loss_of,
    make,
    make_batches,
    make_net,
    same,
    sgd,
    weights_of,
)
from trainables.catalog import cost
from trainables.sam import VARIANTS, SharpnessAware, perturbed_parameters, step

SUBSETS = ("all", "norm", "no_norm")
ASCENDING = [name for name, variant in VARIANTS.items() if variant.geometry]
# Two of them know nothing of the loss in their first step.
LATE = ("msam", "sampa")
# So that every step perturbs.
ALWAYS: dict[str, dict[str, Any]] = {
    "looksam": {"k": 1},
    "ae_sam": {"lambda_1": -100.0, "lambda_2": -100.0},
}
CONSTANT = {"gsam": {"rho_schedule": "constant"}}
PASSES = {"none": 1, "msam": 1, "esam": 3, "lookbehind": 3}


def on_subsets(variants: Iterable[str]) -> pytest.MarkDecorator:
    """Each variant on each subset that it takes."""
    return pytest.mark.parametrize(
        ("variant", "perturb"),
        [
            (variant, perturb)
            for variant in variants
            for perturb in SUBSETS
            if perturb == "all" or not VARIANTS[variant].perturb_all
        ],
    )


def rho_for(variant: str, rho: float = 0.1) -> float | None:
    return None if VARIANTS[variant].geometry is None else rho


def start(variant: str, kind: str = "batch", **options: Any) -> tuple[nn.Module, SharpnessAware]:
    """A net and an optimizer whose next step perturbs."""
    options.setdefault("rho", rho_for(variant))
    options = {"variant": variant} | ALWAYS.get(variant, {}) | options
    net, optimizer = make(kind, **options)
    if variant in LATE:
        optimizer.step(loss_of(net), make_batches(2)[1])
    return net, optimizer


def shift_of(net: nn.Module, optimizer: SharpnessAware, batch: Batch) -> dict[str, Tensor]:
    """Take a step and return the weights of a pass at w + e minus those before."""
    before = weights_of(net)
    seen = []

    def loss_fn(b: Batch) -> Tensor:
        seen.append(weights_of(net))
        return loss_of(net)(b)

    optimizer.step(loss_fn, batch)
    elsewhere = [at for at in seen if not same(at, before)] or [before]
    # The first pass of sampa is at its auxiliary point.
    perturbed = elsewhere[-1 if optimizer.variant == "sampa" else 0]
    return {name: perturbed[name] - w for name, w in before.items()}


def scales(net: nn.Module, geometry: str) -> dict[str, Any]:
    """T of each parameter."""
    weights = weights_of(net)
    if geometry == "layer":
        return {k: w.norm() for k, w in weights.items()}
    if geometry == "filter":
        return {
            k: w.flatten(1).norm(dim=1).view(-1, 1, 1, 1) if w.ndim > 2 else w.abs()
            for k, w in weights.items()
        }
    if geometry.startswith("elementwise"):
        return {k: w.abs() for k, w in weights.items()}
    return dict.fromkeys(weights, 1.0)


@on_subsets(name for name in ASCENDING if VARIANTS[name].norm_is_rho and name != "fisher_sam")
@pytest.mark.parametrize("kind", NETS)
def test_the_declared_norm_equals_rho_on_the_subset(variant: str, perturb: str, kind: str) -> None:
    net, optimizer = start(variant, kind, perturb=perturb, rho=0.37, **CONSTANT.get(variant, {}))
    before = weights_of(net)
    subset = {name for name, _ in perturbed_parameters(net, perturb)}
    scale = scales(net, VARIANTS[variant].geometry or "")
    shift = shift_of(net, optimizer, make_batches(1)[0])
    every = torch.cat([(shift[k] / scale[k]).flatten() for k in subset])
    length = every.abs().max() if variant == "asam_linf" else every.norm()
    assert length.item() == pytest.approx(0.37, rel=1e-9)
    assert all(shift[k].count_nonzero() == 0 for k in shift.keys() - subset)
    last = optimizer.last_step
    if variant != "lookbehind":  # it tells how far all its steps went
        moved = torch.cat([e.flatten() for e in shift.values()])
        assert last.perturbation_norm.item() == pytest.approx(moved.norm().item(), rel=1e-9)
    elements = sum(before[k].numel() for k in subset)
    assert last.perturbed == (round(elements / 2) if VARIANTS[variant].perturb_all else elements)


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


@on_subsets(name for name, v in VARIANTS.items() if v.zero_is_base == "exact")
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


@on_subsets(VARIANTS)
def test_weights_equal_their_backup_just_before_the_base_update(variant: str, perturb: str) -> None:
    net, optimizer = make(
        "batch", torch.float32, variant=variant, perturb=perturb, rho=rho_for(variant)
    )
    seen = []
    optimizer.base_optimizer.register_step_pre_hook(lambda *_: seen.append(weights_of(net)))
    for batch in make_batches(3, dtype=torch.float32):
        before = weights_of(net)
        seen.clear()
        optimizer.step(loss_of(net), batch)
        assert same(seen[0], before)
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


@on_subsets(VARIANTS)
@pytest.mark.parametrize("failing", [1, 2])
@pytest.mark.parametrize("fail", [_nan, _infinite, _infinite_gradient, _raise])
@pytest.mark.parametrize("head_only", [False, True], ids=["whole", "head_only_in_pass_2"])
def test_a_failed_pass_leaves_weights_and_optimizer_state(
    variant: str, perturb: str, failing: int, fail: Callable[[Tensor], Tensor], head_only: bool
) -> None:
    # The last pass, where there are not two: esam's second has no gradient.
    failing = PASSES.get(variant, 2) if failing == 2 else 1
    net, optimizer = start(variant, perturb=perturb)
    first, second = make_batches(2)
    optimizer.step(loss_of(net), first)
    before, state = weights_of(net), _state(optimizer)
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
    assert same(_state(optimizer), state)
    assert all(p.requires_grad for p in net.parameters())
    assert all(m.track_running_stats for m in net.modules() if isinstance(m, nn.BatchNorm2d))

    optimizer.step(loss_of(net), second)
    assert optimizer.last_step.skipped.item() == 0
    assert not same(weights_of(net), before)


@on_subsets(ASCENDING)
def test_a_zero_gradient_gives_a_zero_perturbation(variant: str, perturb: str) -> None:
    options = {"k": 1} if variant == "lookbehind" else ALWAYS.get(variant, {})
    net, optimizer = make("batch", perturb=perturb, variant=variant, **options)
    seen = []

    def loss_fn(batch: Batch) -> Tensor:
        seen.append(weights_of(net))
        losses = loss_of(net)(batch)
        return losses * 0 if len(seen) == 1 else losses

    optimizer.step(loss_fn, make_batches(1)[0])
    assert same(seen[0], seen[-1])
    assert optimizer.last_step.perturbation_norm.item() == 0
    assert optimizer.last_step.skipped.item() == 0


@pytest.mark.parametrize("variant", ASCENDING)
@pytest.mark.parametrize("kind", NETS)
def test_the_cheap_ascent_gives_the_perturbation_of_the_full_one(
    variant: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = make_batches(1)[0]
    perturb = "all" if VARIANTS[variant].perturb_all else "norm"
    net, optimizer = start(variant, kind, perturb=perturb)
    cheap = shift_of(net, optimizer, batch)
    full_net, full = start(variant, kind, perturb=perturb)
    monkeypatch.setattr(step, "frozen", lambda parameters: nullcontext())
    assert same(cheap, shift_of(full_net, full, batch))


@on_subsets(VARIANTS)
@pytest.mark.parametrize("base", [torch.optim.SGD, torch.optim.AdamW])
def test_save_and_load_in_the_middle_equals_an_uninterrupted_run(
    variant: str, perturb: str, base: Any
) -> None:
    if variant == "msam" and base is not torch.optim.SGD:
        pytest.skip("msam takes SGD only, another test says so")

    def begun() -> tuple[nn.Module, SharpnessAware]:
        net = make_net("batch")
        options = {"momentum": 0.9} if base is torch.optim.SGD else {}
        inner = base(net.parameters(), lr=0.05, **options)
        optimizer = SharpnessAware(net, inner, variant, perturb, rho_for(variant))
        begin(net, optimizer)
        return net, optimizer

    batches = make_batches(6)
    net, optimizer = begun()
    for batch in batches[:3]:
        optimizer.step(loss_of(net), batch)
    begin(net, optimizer, epoch=2)
    for group in optimizer.param_groups:
        group["lr"] *= 0.5
    saved = io.BytesIO()
    torch.save([net.state_dict(), optimizer.state_dict()], saved)
    for batch in batches[3:]:
        optimizer.step(loss_of(net), batch)

    again, resumed = begun()
    saved.seek(0)
    model_state, optimizer_state = torch.load(saved, weights_only=True)
    again.load_state_dict(model_state)
    resumed.load_state_dict(optimizer_state)
    assert (resumed.epoch, resumed.epochs) == (2, 5)
    for batch in batches[3:]:
        resumed.step(loss_of(again), batch)
    assert same(dict(net.state_dict()), dict(again.state_dict()))
    assert same(_flat(optimizer.state_dict()), _flat(resumed.state_dict()))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("every", [1, 2])
def test_a_step_costs_what_is_declared(variant: str, every: int) -> None:
    options: dict[str, Any] = {"every": every} if "every" in VARIANTS[variant].options else {}
    net, optimizer = make(variant=variant, rho=rho_for(variant), **options)
    evaluations = []
    for batch in make_batches(10):
        optimizer.step(loss_of(net), batch)
        evaluations.append(optimizer.last_step.gradient_evaluations)
    measured, declared = sum(evaluations) / 10, cost(variant, optimizer.options)
    if variant == "ae_sam":
        assert 1 <= measured <= declared
    else:
        assert measured == pytest.approx(declared)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_step_takes_as_many_base_steps_as_declared(variant: str) -> None:
    net, optimizer = make(variant=variant, rho=rho_for(variant))
    taken: list[int] = []
    optimizer.base_optimizer.register_step_post_hook(lambda *_: taken.append(1))
    optimizer.step(loss_of(net), make_batches(1)[0])
    declared = VARIANTS[variant].base_steps
    assert len(taken) == (optimizer.options["k"] if declared == "k" else declared)


def _state(optimizer: SharpnessAware) -> dict[str, Tensor]:
    """Every number of its state but those that say how often it was called."""
    state = optimizer.state_dict()
    del state["sharpness_aware"]["steps"], state["sharpness_aware"]["generator"]
    return _flat(state)


def _flat(state: Any, path: str = "") -> dict[str, Tensor]:
    """Every number of a nested state as a tensor of its own."""
    if isinstance(state, Tensor):
        return {path: state.clone()}
    if isinstance(state, (int, float)):
        return {path: torch.tensor(state)}
    if isinstance(state, dict):
        pairs = list(state.items())
    elif isinstance(state, (list, tuple)):
        pairs = list(enumerate(state))
    else:
        return {}
    return {k: v for key, part in pairs for k, v in _flat(part, f"{path}/{key}").items()}
