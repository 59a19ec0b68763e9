"""Which passes update running statistics."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import timm.layers
import torch
from torch import Tensor, nn

from tests.trainables.sam.nets import loss_of, make, make_batches, make_net, same, sgd
from trainables.sam import SharpnessAware
from trainables.sam.batchnorm import RunningStatistics


def buffers(net: nn.Module) -> dict[str, Tensor]:
    return {name: b.clone() for name, b in net.named_buffers()}


def after_forwards(net: nn.Module, inputs: list[Tensor]) -> dict[str, Tensor]:
    shadow = copy.deepcopy(net)
    for x in inputs:
        shadow(x)
    return buffers(shadow)


@pytest.mark.parametrize("perturb", ["all", "norm"])
def test_bn_statistics_updated_twice(perturb: str) -> None:
    batch = make_batches(1)[0]
    net, optimizer = make("batch", perturb=perturb)
    once = after_forwards(net, [batch[0]])
    optimizer.step(loss_of(net), batch)
    assert same(buffers(net), once)
    assert net[1].num_batches_tracked.item() == 1  # type: ignore[index]


def test_bn_statistics_of_both_passes() -> None:
    batch = make_batches(1)[0]
    net, optimizer = make("batch", bn_statistics="both")
    once = after_forwards(net, [batch[0]])
    optimizer.step(loss_of(net), batch)
    assert net[1].num_batches_tracked.item() == 2  # type: ignore[index]
    assert not torch.equal(net[1].running_mean, once["1.running_mean"])  # type: ignore[index]


def test_bn_statistics_of_no_pass() -> None:
    net, optimizer = make("batch", bn_statistics="none")
    before = buffers(net)
    optimizer.step(loss_of(net), make_batches(1)[0])
    assert same(buffers(net), before)


def test_bn_cumulative_average_counts_the_first_pass_only() -> None:
    batches = make_batches(3)
    net, optimizer = make("batch")
    net[1].momentum = None  # type: ignore[index]
    for batch in batches:
        optimizer.step(loss_of(net), batch)
    assert net[1].num_batches_tracked.item() == len(batches)  # type: ignore[index]


def test_slices_update_the_statistics_once_with_their_mean() -> None:
    batch = make_batches(1)[0]
    net, optimizer = make("batch")
    each = [after_forwards(make_net("batch"), [part]) for part in torch.tensor_split(batch[0], 3)]
    optimizer.step(loss_of(net), batch, accumulate=3)
    for name, found in buffers(net).items():
        expected = torch.stack([one[name].double() for one in each]).mean(0)
        torch.testing.assert_close(found.double(), expected)


def test_layers_in_evaluation_mode_use_their_statistics_in_both_passes() -> None:
    batch = make_batches(1)[0]
    net, optimizer = make("batch")
    net.eval()
    before = buffers(net)
    expected = loss_of(net)(batch).mean()
    assert torch.equal(optimizer.step(loss_of(net), batch), expected.detach())
    assert same(buffers(net), before)


def test_a_skipped_step_leaves_no_nan_in_the_statistics_of_both_passes() -> None:
    net, optimizer = make("batch", bn_statistics="both")
    calls = 0

    def loss_fn(batch: tuple[Tensor, Tensor]) -> Tensor:
        nonlocal calls
        calls += 1
        return loss_of(net)(batch) * (float("inf") if calls == 1 else 1)

    optimizer.step(loss_fn, make_batches(1)[0])
    assert optimizer.last_step.skipped.item() == 1
    assert all(b.isfinite().all() for b in buffers(net).values())


@pytest.mark.parametrize(
    "layer",
    [
        lambda: nn.BatchNorm2d(4),
        lambda: nn.BatchNorm2d(4, momentum=None),
        lambda: nn.SyncBatchNorm(4),
        lambda: nn.InstanceNorm2d(4, affine=True, track_running_stats=True),
        lambda: timm.layers.BatchNormAct2d(4),
        lambda: timm.layers.convert_sync_batchnorm(timm.layers.BatchNormAct2d(4)),
        lambda: timm.layers.SplitBatchNorm2d(4),
        lambda: timm.layers.EvoNorm2dB0(4),
    ],
)
def test_paused_statistics_do_not_move_and_come_back(layer: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    net = layer()
    before = buffers(net)
    x = torch.randn(2, 4, 3, 3) + 3
    reference = copy.deepcopy(net)(x)
    statistics = RunningStatistics(net)
    with statistics.paused(), statistics.paused():
        assert torch.equal(net(x), reference)
    assert same(buffers(net), before)
    net(x)
    assert not same(buffers(net), before)


def test_statistics_come_back_after_an_exception() -> None:
    net = nn.BatchNorm2d(4)
    with pytest.raises(ZeroDivisionError), RunningStatistics(net).paused():
        _ = 1 / 0
    assert net.track_running_stats


def test_the_option_belongs_to_variants_with_two_passes() -> None:
    net, _ = make("batch")
    with pytest.raises(ValueError, match="'none' takes no option 'bn_statistics'"):
        SharpnessAware(net, sgd(net), "none", bn_statistics="first")
