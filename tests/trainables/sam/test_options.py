"""What the options of a variant change: chunks, schedules, ascents, radius, dropout."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.trainables.sam.nets import (
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
from trainables.sam import SharpnessAware


def test_one_chunk_is_the_whole_batch_bit_for_bit() -> None:
    nets = [make(rho=0.3), make(rho=0.3, m=12)]
    for batch in make_batches(3):
        for net, optimizer in nets:
            optimizer.step(loss_of(net), batch)
    assert same(dict(nets[0][0].state_dict()), dict(nets[1][0].state_dict()))


def test_each_chunk_has_a_perturbation_of_its_own() -> None:
    net, optimizer = make("layer", rho=0.3, m=4)
    points: list[dict[str, Tensor]] = []

    def loss_fn(batch: Batch) -> Tensor:
        assert len(batch[0]) == 4
        points.append(weights_of(net))
        return loss_of(net)(batch)

    before = weights_of(net)
    optimizer.step(loss_fn, make_batches(1)[0])
    assert [same(at, before) for at in points] == [True, False] * 3
    assert not same(points[1], points[3])
    assert optimizer.last_step.gradient_evaluations == pytest.approx(2)


def test_chunks_update_batch_statistics_once_with_their_mean() -> None:
    net, optimizer = make("batch", m=4)
    plain = make_net("batch")
    (batch,) = make_batches(1)
    optimizer.step(loss_of(net), batch)
    means = [plain[0](part).mean((0, 2, 3)) for part in torch.split(batch[0], 4)]  # type: ignore[index]
    expected = 0.1 * torch.stack(means).mean(0)
    torch.testing.assert_close(net[1].running_mean, expected.detach())  # type: ignore[index]
    assert net[1].num_batches_tracked == 1  # type: ignore[index]


def test_a_chunk_size_must_divide_the_batch() -> None:
    net, optimizer = make(m=5)
    with pytest.raises(ValueError, match=r"m = 5 samples a perturbation must divide the batch.*12"):
        optimizer.step(loss_of(net), make_batches(1)[0])
    net, optimizer = make(m=4)
    with pytest.raises(ValueError, match="leave accumulate at 1"):
        optimizer.step(loss_of(net), make_batches(1)[0], accumulate=2)


def test_between_two_perturbed_steps_the_base_optimizer_steps() -> None:
    net, optimizer = make(rho=0.3, every=3)
    evaluations, norms = [], []
    for batch in make_batches(5):
        optimizer.step(loss_of(net), batch)
        evaluations.append(optimizer.last_step.gradient_evaluations)
        norms.append(optimizer.last_step.perturbation_norm.item() > 0)
    assert evaluations == [2, 1, 1, 2, 1]
    assert norms == [True, False, False, True, False]


def test_epochs_outside_the_window_are_those_of_the_base_optimizer() -> None:
    net, optimizer = make(rho=0.3, start_epoch=1, end_epoch=3)
    perturbed = []
    for epoch in range(5):
        begin(net, optimizer, epoch)
        optimizer.step(loss_of(net), make_batches(1)[0])
        perturbed.append(optimizer.last_step.gradient_evaluations == 2)
    assert perturbed == [False, True, True, False, False]


@pytest.mark.parametrize(
    "options", [{"start_epoch": 1}, {"end_epoch": 2}, {"rho_schedule": "cosine"}]
)
def test_what_depends_on_the_epoch_must_be_told_it(options: dict[str, Any]) -> None:
    net = make_net("batch")
    optimizer = SharpnessAware(net, sgd(net), rho=0.1, **options)
    with pytest.raises(RuntimeError, match="call begin_epoch"):
        optimizer.step(loss_of(net), make_batches(1)[0])


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [1, 1, 1, 1, 1]),
        ("linear", [1, 0.8, 0.6, 0.4, 0.2]),
        ("cosine", [1, 0.882842712, 0.6, 0.317157288, 0.2]),
        ("lr", [1, 0.6, 0.4, 0.3, 0.25]),
    ],
)
def test_rho_follows_its_schedule(schedule: str, expected: list[float]) -> None:
    net, optimizer = make(rho=0.5, rho_schedule=schedule, rho_end=0.2)
    norms = []
    for epoch in range(5):
        begin(net, optimizer, epoch)
        optimizer.step(loss_of(net), make_batches(1)[0])
        norms.append(optimizer.last_step.perturbation_norm.item() / 0.5)
        for group in optimizer.param_groups:
            group["lr"] /= 2
    assert norms == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize(
    ("ascent", "evaluations"),
    [("batch", 2), ("fraction:0.25", 1.25), ("previous", 1), ("momentum", 1), ("random", 1)],
)
def test_an_ascent_costs_what_it_says(ascent: str, evaluations: float) -> None:
    net, optimizer = make(rho=0.3, ascent=ascent, perturb="norm")
    for batch in make_batches(3):
        optimizer.step(loss_of(net), batch)
        assert optimizer.last_step.gradient_evaluations == pytest.approx(evaluations)
    assert optimizer.last_step.perturbation_norm.item() == pytest.approx(0.3)


def test_a_random_ascent_follows_the_generator() -> None:
    def run(seed: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        net, optimizer = make(rho=0.3, ascent="random", generator=generator)
        optimizer.step(loss_of(net), make_batches(1)[0])
        return weights_of(net)

    assert same(run(1), run(1))
    assert not same(run(1), run(2))


def test_an_ascent_along_the_momentum_needs_one() -> None:
    net = make_net("batch")
    for base in (torch.optim.AdamW(net.parameters()), torch.optim.SGD(net.parameters(), lr=0.1)):
        with pytest.raises(ValueError, match=r"needs torch.optim.SGD with momentum > 0"):
            SharpnessAware(net, base, "msam", rho=0.1)


def test_a_shared_radius_is_what_is_left_of_the_perturbation_of_all() -> None:
    shifts = []
    cases: list[dict[str, Any]] = [
        {"perturb": "all"},
        {"perturb": "norm", "radius": "shared"},
    ]
    for options in cases:
        net, optimizer = make(rho=0.3, **options)
        before = weights_of(net)
        seen: list[dict[str, Tensor]] = []
        inner = loss_of(net)

        def loss_fn(
            batch: Batch, net: nn.Module = net, seen: Any = seen, inner: Any = inner
        ) -> Any:
            seen.append(weights_of(net))
            return inner(batch)

        optimizer.step(loss_fn, make_batches(1)[0])
        shifts.append({k: seen[1][k] - w for k, w in before.items()})
    everything, norm = shifts
    for name, shift in norm.items():
        moved = name in ("1.weight", "1.bias", "4.weight", "4.bias")
        torch.testing.assert_close(shift, everything[name] if moved else torch.zeros_like(shift))


@pytest.mark.parametrize("masks", ["same", "independent"])
def test_dropout_masks_are_the_same_in_both_passes_where_asked_for(masks: str) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 40), nn.Dropout(0.5), nn.Linear(40, 3)).double()
    optimizer = SharpnessAware(net, sgd(net), rho=0.1, dropout_masks=masks)
    dropped: list[Tensor] = []
    net[2].register_forward_hook(lambda m, i, out: dropped.append(out == 0))
    torch.manual_seed(0)
    for batch in make_batches(2):
        optimizer.step(loss_of(net), batch, accumulate=2)
    first, second = dropped[0:2], dropped[2:4]
    assert [torch.equal(a, b) for a, b in zip(first, second, strict=True)] == [masks == "same"] * 2
    assert not torch.equal(dropped[0], dropped[4])


def test_the_cosine_is_told_where_asked_for() -> None:
    net, optimizer = make("layer", rho=1e-6)
    optimizer.step(loss_of(net), make_batches(1)[0])
    assert optimizer.last_step.cosine is None
    optimizer.diagnose = True
    optimizer.step(loss_of(net), make_batches(1)[0])
    assert optimizer.last_step.cosine is not None
    assert optimizer.last_step.cosine.item() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("word", ["random:matched", "top_fisher:matched", "top_magnitude:0.1"])
@pytest.mark.parametrize("variant", ["sam", "asam", "asam_linf", "fisher_sam"])
def test_only_the_elements_of_a_mask_move(word: str, variant: str) -> None:
    net, optimizer = make(variant=variant, perturb=word, rho=0.3)
    before = weights_of(net)
    seen: list[dict[str, Tensor]] = []

    def loss_fn(batch: Batch) -> Tensor:
        seen.append(weights_of(net))
        return loss_of(net)(batch)

    optimizer.step(loss_fn, make_batches(1)[0])
    norms = sum(before[name].numel() for name in ("1.weight", "1.bias", "4.weight", "4.bias"))
    wanted = (
        norms if word.endswith("matched") else round(0.1 * sum(map(torch.numel, before.values())))
    )
    assert optimizer.last_step.perturbed == wanted
    masks = {name: optimizer.mask(name) for name in before if _is_perturbed(optimizer, name)}
    assert (
        sum(int(m.sum()) if m is not None else before[k].numel() for k, m in masks.items())
        == wanted
    )
    shift = {name: seen[1][name] - w for name, w in before.items()}
    for name, e in shift.items():
        mask = masks.get(name, torch.zeros_like(e, dtype=torch.bool))
        assert mask is None or not e[~mask].any()
    if variant == "sam":
        assert optimizer.last_step.perturbation_norm.item() == pytest.approx(0.3)


def _is_perturbed(optimizer: SharpnessAware, name: str) -> bool:
    try:
        optimizer.mask(name)
    except KeyError:
        return False
    return True


def test_masks_survive_a_checkpoint() -> None:
    net, optimizer = make(perturb="random:0.2", generator=torch.Generator().manual_seed(5))
    _, other = make(perturb="random:0.2", generator=torch.Generator().manual_seed(6))
    other.load_state_dict(optimizer.state_dict())
    for name in weights_of(net):
        if _is_perturbed(optimizer, name):
            mine, theirs = optimizer.mask(name), other.mask(name)
            assert mine is theirs is None or torch.equal(mine, theirs)  # type: ignore[arg-type]


def test_what_looks_at_training_data_says_that_it_was_given_none() -> None:
    net = make_net("batch")
    optimizer = SharpnessAware(net, sgd(net), perturb="top_fisher:0.1", rho=0.1)
    with pytest.raises(RuntimeError, match="call begin_epoch"):
        optimizer.step(loss_of(net), make_batches(1)[0])
    with pytest.raises(RuntimeError, match="looks at training data: call begin_epoch"):
        optimizer.begin_epoch(0, 5)
