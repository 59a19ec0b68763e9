"""Mistakes of published implementations, one test each; others are beside their subject."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.models import ResNet, VisionTransformer
from torchvision.models.resnet import BasicBlock

from tests.trainables.sam.nets import (
    Batch,
    loss_of,
    make,
    make_batches,
    make_net,
    same,
    sgd,
    weights_of,
)
from trainables.sam import SharpnessAware, perturbed_parameters


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Every tensor operation with its arguments."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[tuple[str, tuple[Any, ...]]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        self.calls.append((func.overloadpacket.__name__, args))
        return func(*args, **(kwargs or {}))

    def named(self, name: str) -> list[tuple[Any, ...]]:
        return [args for called, args in self.calls if called == name]


def test_restore_by_missing_gradient() -> None:
    net, optimizer = make("batch", perturb="all", rho=0.5)
    before = weights_of(net)
    calls = 0

    def loss_fn(batch: Batch) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 1:
            return loss_of(net)(batch)
        logits = net[-1](batch[0].flatten(1)[:, :24])  # type: ignore[index]
        return nn.functional.cross_entropy(logits, batch[1], reduction="none")

    optimizer.step(loss_fn, make_batches(1)[0])
    after = weights_of(net)
    unused = {k for k in before if not k.startswith("7.")}
    assert same({k: after[k] for k in unused}, {k: before[k] for k in unused})
    assert not torch.equal(after["7.weight"], before["7.weight"])


def test_a_perturbed_parameter_without_gradient_in_the_first_pass() -> None:
    net, optimizer = make("layer", perturb="norm")
    head_only = lambda batch: net[-1](batch[0].flatten(1)[:, :8]).square().mean(1)  # type: ignore[index]  # noqa: E731
    optimizer.step(head_only, make_batches(1)[0])
    assert optimizer.last_step.perturbation_norm.item() == 0


def test_backup_of_unperturbed_weights() -> None:
    net, optimizer = make("batch", perturb="norm")
    addresses = {p.data_ptr(): name for name, p in net.named_parameters()}
    with Recorder() as recorder:
        optimizer.step(loss_of(net), make_batches(1)[0])
    single = [args[0] for args in recorder.named("clone")]
    many = [t for args in recorder.named("_foreach_clone") for t in args[0]]
    copied = {addresses[t.data_ptr()] for t in single + many if t.data_ptr() in addresses}
    assert copied == {name for name, _ in perturbed_parameters(net, "norm")}


def test_adaptive_step_along_w_g_instead_of_w_squared_g() -> None:
    net, optimizer = make("layer", variant="asam", rho=0.4)
    before, (batch,) = weights_of(net), make_batches(1)
    loss_of(net)(batch).mean().backward()  # type: ignore[no-untyped-call]
    gradients = {k: p.grad.clone() for k, p in net.named_parameters() if p.grad is not None}
    shifts: list[dict[str, Tensor]] = []

    def loss_fn(b: Batch) -> Tensor:
        shifts.append({k: w - before[k] for k, w in weights_of(net).items()})
        return loss_of(net)(b)

    optimizer.step(loss_fn, batch)
    length = torch.cat([(before[k] * g).flatten() for k, g in gradients.items()]).norm()
    for name, g in gradients.items():
        expected = 0.4 * before[name].square() * g / length
        torch.testing.assert_close(shifts[1][name], expected, rtol=1e-9, atol=1e-14)


def test_norm_layers_of_torchvision_chosen_by_name() -> None:
    with torch.device("meta"):
        vit = VisionTransformer(8, 4, 1, 1, hidden_dim=8, mlp_dim=8, num_classes=2)
        resnet = ResNet(BasicBlock, [1, 1, 1, 1])
    layers = {name.rpartition(".")[0] for name, _ in perturbed_parameters(vit, "norm")}
    block = "encoder.layers.encoder_layer_0"
    assert layers == {f"{block}.ln_1", f"{block}.ln_2", "encoder.ln"}
    layers = {name.rpartition(".")[0] for name, _ in perturbed_parameters(resnet, "norm")}
    assert {"bn1", "layer1.0.bn2", "layer2.0.downsample.1"} < layers
    assert len(layers) == 1 + 4 * 2 + 3


def test_weight_gradients_of_unperturbed_layers_in_the_ascent_pass() -> None:
    net, optimizer = make("batch", perturb="norm")
    computed: list[str] = []
    for name, p in net.named_parameters():
        p.register_hook(lambda _, name=name: computed.append(name))  # type: ignore[no-untyped-call]
    with Recorder() as recorder:
        optimizer.step(loss_of(net), make_batches(1)[0])
    # Gradients that each convolution computed: of its input, weight and bias.
    wanted = [args[-1] for args in recorder.named("convolution_backward")]
    first_layer, second_layer = [False, True, True], [True, True, True]
    # In the ascent pass nothing is left to do for the first layer.
    assert wanted == [[True, False, False], second_layer, first_layer]
    norms = {name for name, _ in perturbed_parameters(net, "norm")}
    for name, _ in net.named_parameters():
        assert computed.count(name) == (2 if name in norms else 1)


def test_activations_kept_for_unperturbed_layers_in_the_ascent_pass() -> None:
    net, optimizer = make("batch", perturb="norm")
    saved: list[int] = []

    def loss_fn(batch: Batch) -> Tensor:
        count = 0

        def pack(t: Tensor) -> Tensor:
            nonlocal count
            count += t.numel()
            return t

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            losses = loss_of(net)(batch)
        saved.append(count)
        return losses

    optimizer.step(loss_fn, make_batches(1)[0])
    assert saved[0] < saved[1]


@pytest.mark.parametrize("variant", ["none", "sam", "asam"])
@pytest.mark.parametrize("perturb", ["all", "norm"])
@pytest.mark.parametrize("slices", [2, 5])
def test_accumulation_gives_another_result_than_the_whole_batch(
    variant: str, perturb: str, slices: int
) -> None:
    rho = None if variant == "none" else 0.2
    whole_net, whole = make("layer", variant=variant, perturb=perturb, rho=rho)
    net, optimizer = make("layer", variant=variant, perturb=perturb, rho=rho)
    for batch in make_batches(3):
        expected = whole.step(loss_of(whole_net), batch)
        loss = optimizer.step(loss_of(net), batch, accumulate=slices)
        torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
        assert optimizer.last_step.gradient_evaluations == whole.last_step.gradient_evaluations
    for name, p in net.named_parameters():
        torch.testing.assert_close(p, whole_net.get_parameter(name), rtol=1e-10, atol=1e-12)


def test_the_scheduler_does_not_reach_the_base_optimizer() -> None:
    net, optimizer = make("layer")
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
    rates = []
    optimizer.base_optimizer.register_step_pre_hook(
        lambda base, *_: rates.append(base.param_groups[0]["lr"])
    )
    for batch in make_batches(3):
        optimizer.step(loss_of(net), batch)
        scheduler.step()
    assert rates == [0.1, 0.05, 0.025]
    optimizer.load_state_dict(optimizer.state_dict())
    scheduler.step()
    assert optimizer.base_optimizer.param_groups[0]["lr"] == 0.1 * 0.5**4


def test_weight_decay_acts_at_the_perturbed_point() -> None:
    net = make_net("layer")
    optimizer = SharpnessAware(net, sgd(net, lr=1.0, momentum=0.0, weight_decay=0.5), rho=10.0)
    before = weights_of(net)
    calls = 0

    def loss_fn(batch: Batch) -> Tensor:
        nonlocal calls
        calls += 1
        return loss_of(net)(batch) * (1 if calls == 1 else 0)

    optimizer.step(loss_fn, make_batches(1)[0])
    for name, w in weights_of(net).items():
        torch.testing.assert_close(w, 0.5 * before[name], rtol=1e-14, atol=0)


FUSED = [
    (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}),
    (torch.optim.SGD, {"lr": 0.1}),
    (torch.optim.Adam, {"lr": 0.1}),
    (torch.optim.AdamW, {"lr": 0.1}),
    (torch.optim.Adagrad, {"lr": 0.1}),
]


@pytest.mark.parametrize(("base", "options"), FUSED)
@pytest.mark.parametrize("scaled", [False, True])
def test_fused_optimizer_skips_its_very_first_step(
    base: Any, options: dict[str, Any], scaled: bool
) -> None:
    def run(batches: list[Batch]) -> dict[str, Tensor]:
        net = make_net("layer", torch.float32)
        optimizer = SharpnessAware(net, base(net.parameters(), fused=True, **options), rho=0.1)
        scaler = torch.amp.GradScaler("cpu") if scaled else None
        for batch in batches:
            optimizer.step(loss_of(net), batch, scaler=scaler)
        return weights_of(net)

    good = make_batches(3, dtype=torch.float32)
    bad = (good[0][0] * float("nan"), good[0][1])
    assert same(run([bad, *good]), run(good))
    assert same(run([bad, good[0], bad, *good[1:]]), run(good))


@pytest.mark.parametrize("variant", ["none", "sam", "asam"])
@pytest.mark.parametrize(("base", "options"), FUSED)
@pytest.mark.parametrize("scaled", [False, True])
def test_host_synchronisation_in_a_step(
    variant: str, base: Any, options: dict[str, Any], scaled: bool
) -> None:
    net = make_net("batch", torch.float32)
    rho = None if variant == "none" else 0.1
    optimizer = SharpnessAware(net, base(net.parameters(), fused=True, **options), variant, rho=rho)
    first, second = make_batches(2, dtype=torch.float32)
    # A scaler's own update reads the scale on the CPU.
    scaler = torch.amp.GradScaler("cpu", enabled=False) if scaled else None
    optimizer.step(loss_of(net), first, scaler=scaler, clip_norm=1.0)
    before = weights_of(net)
    with Recorder() as recorder:
        optimizer.step(loss_of(net), second, scaler=scaler, clip_norm=1.0, accumulate=2)
    assert recorder.named("_local_scalar_dense") == []
    assert not same(weights_of(net), before)
    assert not hasattr(optimizer.base_optimizer, "found_inf")


def test_other_base_optimizers_cost_one_host_read_a_step() -> None:
    net, optimizer = make("batch")
    first, second = make_batches(2)
    optimizer.step(loss_of(net), first)
    with Recorder() as recorder:
        optimizer.step(loss_of(net), second)
    assert len(recorder.named("_local_scalar_dense")) == 1
