"""Mistakes of published implementations of single variants and options, one test each."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.trainables.sam.nets import (
    Batch,
    loss_of,
    make_batches,
    make_net,
    same,
    sgd,
    weights_of,
)
from trainables.sam import VARIANTS, SharpnessAware

RHO = 0.2
PLAIN = {"momentum": 0.0, "weight_decay": 0.0}


class Trainer:
    """A net and its optimizer, and what each step did.

    passes: weights at every forward pass of the last step; batches: what was passed;
    at: the weights before the last step.
    """

    def __init__(
        self,
        variant: str,
        kind: str = "layer",
        base: dict[str, Any] | None = None,
        dtype: torch.dtype = torch.float64,
        **options: Any,
    ) -> None:
        self.net = make_net(kind, dtype)
        options = {"rho": None if variant == "none" else RHO} | options
        self.optimizer = SharpnessAware(
            self.net, sgd(self.net, **(PLAIN if base is None else base)), variant, **options
        )
        self.passes: list[dict[str, Tensor]] = []
        self.batches: list[Batch] = []
        self.at: dict[str, Tensor] = {}

    def begin(self, epoch: int, epochs: int) -> None:
        self.optimizer.begin_epoch(
            epoch, epochs, samples=make_batches(2), loss_fn=loss_of(self.net)
        )

    def step(self, batch: Batch, **keywords: Any) -> None:
        self.passes, self.batches, self.at = [], [], weights_of(self.net)

        def loss_fn(part: Batch) -> Tensor:
            self.passes.append(weights_of(self.net))
            self.batches.append(part)
            return loss_of(self.net)(part)

        self.optimizer.step(loss_fn, batch, **keywords)

    def shift(self, index: int = -1) -> Tensor:
        """Weights at a pass minus those before the step, in one row."""
        return row(self.passes[index]) - row(self.at)

    def moved(self) -> Tensor:
        """Weights before the step minus those after it, in one row."""
        return row(self.at) - row(weights_of(self.net))


def row(tensors: dict[str, Tensor]) -> Tensor:
    return torch.cat([t.flatten() for t in tensors.values()])


def gradient(weights: dict[str, Tensor], batch: Batch, kind: str = "layer") -> Tensor:
    """The gradient of the mean loss at these weights, in one row."""
    net = make_net(kind)
    net.load_state_dict(weights, strict=False)
    loss_of(net)(batch).mean().backward()  # type: ignore[no-untyped-call]
    return row({k: p.grad for k, p in net.named_parameters() if p.grad is not None})


def unit(t: Tensor) -> Tensor:
    length: Tensor = t.norm()
    return t / length


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_friendly_sam_averages_gradients_that_were_already_subtracted() -> None:
    trainer = Trainer("fsam", base=PLAIN | {"lr": 0.0}, sigma=1.0, decay=0.9)
    gradients = []
    for batch in make_batches(3):
        trainer.step(batch)
        gradients.append(gradient(trainer.at, batch))
    average = 0.9 * gradients[0] + 0.1 * gradients[1]
    close(trainer.shift(), RHO * unit(gradients[2] - average))


def test_looksam_projects_each_tensor_by_itself() -> None:
    trainer = Trainer("looksam", base=PLAIN | {"lr": 0.5}, k=2, alpha=0.7)
    first, second = make_batches(2)
    trainer.step(first)
    g, g_p = gradient(trainer.at, first), gradient(trainer.passes[1], first)
    g_v = g_p - (g @ g_p) / (g @ g) * g
    trainer.step(second)
    g = gradient(trainer.at, second)
    close(trainer.moved(), 0.5 * (g + 0.7 * g.norm() * unit(g_v)))


def test_looksam_takes_the_second_pass_in_every_step() -> None:
    trainer = Trainer("looksam", k=3)
    counts = []
    for batch in make_batches(4):
        trainer.step(batch)
        counts.append(len(trainer.passes))
    assert counts == [2, 1, 1, 2]


def test_looksam_needs_a_base_optimizer_with_a_step_counter() -> None:
    # SGD without momentum keeps no state at all.
    trainer = Trainer("looksam", k=2)
    for batch in make_batches(3):
        trainer.step(batch)
        assert trainer.moved().norm() > 0


def test_esam_mask_applied_after_the_norm() -> None:
    generator = torch.Generator().manual_seed(0)
    trainer = Trainer("esam", generator=generator, beta=0.5)
    sizes = set()
    for batch in make_batches(6):
        trainer.step(batch)
        shift = trainer.shift()
        sizes.add(int(shift.count_nonzero()))
        if shift.any():
            assert shift.norm().item() == pytest.approx(RHO / 0.5, rel=1e-9)
    assert len(sizes) > 1


def test_esam_perturbs_every_tensor_in_the_first_step() -> None:
    trainer = Trainer("esam", generator=torch.Generator().manual_seed(0), beta=0.5)
    drawn = torch.rand(6, generator=torch.Generator().manual_seed(0))
    trainer.step(make_batches(1)[0])
    changed = [not torch.equal(trainer.passes[1][k], w) for k, w in trainer.at.items()]
    assert changed == (drawn < 0.5).tolist()


def test_esam_drops_the_sample_at_the_cutoff() -> None:
    trainer = Trainer("esam", generator=torch.Generator().manual_seed(0), gamma=0.5)
    trainer.step(make_batches(1)[0])
    assert [len(x) for x, _ in trainer.batches] == [12, 12, 6]


def test_esam_without_any_selected_sample() -> None:
    trainer = Trainer("esam", generator=torch.Generator().manual_seed(0), gamma=0.01)
    trainer.step(make_batches(1)[0])
    assert [len(x) for x, _ in trainer.batches] == [12, 12, 1]
    assert row(weights_of(trainer.net)).isfinite().all()


@pytest.mark.parametrize("variant", ["ssam_f", "ssam_d"])
@pytest.mark.parametrize("density", [0.02, 0.5])
def test_ssam_radius(variant: str, density: float) -> None:
    trainer = Trainer(variant, generator=torch.Generator().manual_seed(0), density=density)
    trainer.begin(0, 2)
    trainer.step(make_batches(1)[0])
    shift = trainer.shift()
    assert 0 < shift.count_nonzero() <= round(density * shift.numel())
    assert shift.norm().item() == pytest.approx(RHO, rel=1e-9)


def test_ssam_radius_of_the_paper_as_an_option() -> None:
    trainer = Trainer("ssam_f", density=0.1, radius="shared")
    trainer.begin(0, 2)
    (batch,) = make_batches(1)
    trainer.step(batch)
    shift, g = trainer.shift(), gradient(trainer.at, batch)
    close(shift, RHO * g / g.norm() * (shift != 0))
    assert shift.norm() < RHO


def test_ssam_mask_is_made_in_training_mode() -> None:
    trainer = Trainer("ssam_f", kind="batch")
    trainer.net[1].eval()  # type: ignore[index]
    before = {k: b.clone() for k, b in trainer.net.named_buffers()}
    trainer.begin(0, 2)
    assert same(dict(trainer.net.named_buffers()), before)
    assert [m.training for m in trainer.net.children()] == [i != 1 for i in range(8)]
    assert all(p.grad is None for p in trainer.net.parameters())


def test_ssam_with_few_samples() -> None:
    trainer = Trainer("ssam_f", fisher_samples=3)
    trainer.begin(0, 2)
    trainer.step(make_batches(1)[0])
    assert trainer.shift().norm().item() == pytest.approx(RHO, rel=1e-9)


def test_ssam_without_a_mask_perturbs_nothing_until_the_first_refresh() -> None:
    trainer = Trainer("ssam_f")
    with pytest.raises(RuntimeError, match="begin_epoch"):
        trainer.step(make_batches(1)[0])


def test_gsam_scale() -> None:
    trainer = Trainer("gsam", base=PLAIN | {"lr": 1.0}, alpha=0.8, rho_schedule="constant")
    (batch,) = make_batches(1)
    trainer.step(batch)
    g, g_p = gradient(trainer.at, batch), gradient(trainer.passes[1], batch)
    close(trainer.moved(), g_p - 0.8 * (g - (g @ unit(g_p)) * unit(g_p)))


def test_lookbehind_ascends_from_the_same_point_each_time() -> None:
    trainer = Trainer("lookbehind", base=PLAIN | {"lr": 0.5}, k=3, alpha=0.4)
    (batch,) = make_batches(1)
    trainer.step(batch)
    # The gradient at p_i serves the descent and the next ascent: k + 1 passes, not 2 k.
    assert len(trainer.passes) == 4
    total = torch.zeros_like(trainer.moved())
    for before, after in zip(trainer.passes, trainer.passes[1:], strict=False):
        close(row(after) - row(before), RHO * unit(gradient(before, batch)))
        total += gradient(after, batch)
    close(trainer.moved(), 0.4 * 0.5 * total)


def test_msam_stores_perturbed_weights() -> None:
    trainer = Trainer("msam", base={"lr": 0.5, "momentum": 0.9, "weight_decay": 0.0})
    first, second = make_batches(2)
    trainer.step(first)
    v = gradient(trainer.at, first)
    close(trainer.moved(), 0.5 * v)
    trainer.step(second)
    close(trainer.shift(), -RHO * unit(v))
    assert len(trainer.passes) == 1


def test_msam_weight_decay_at_the_perturbed_point() -> None:
    trainer = Trainer("msam", base={"lr": 0.5, "momentum": 0.9, "weight_decay": 0.3}, rho=2.0)
    first, second = make_batches(2)
    trainer.step(first)
    v = gradient(trainer.at, first) + 0.3 * row(trainer.at)
    trainer.step(second)
    u = gradient(trainer.passes[-1], second)
    close(trainer.moved(), 0.5 * (0.9 * v + u + 0.3 * row(trainer.at)))


def test_sampa_takes_the_perturbed_gradient_of_the_batch_at_hand() -> None:
    trainer = Trainer("sampa", base=PLAIN | {"lr": 0.5}, lambda_=0.2)
    first, second = make_batches(2)
    trainer.step(first)
    q = gradient(trainer.at, first)
    trainer.step(second)
    points = {
        bool(torch.equal(part[0], first[0])): row(at) - row(trainer.at)
        for at, part in zip(trainer.passes, trainer.batches, strict=True)
    }
    close(points[True], RHO * unit(q))
    close(points[False], -0.5 * q)


def test_wsam_gives_the_base_optimizer_the_weighted_sum() -> None:
    trainer = Trainer("wsam", base={"lr": 0.5, "momentum": 0.9, "weight_decay": 0.0}, gamma=0.8)
    velocity = torch.zeros(())
    for batch in make_batches(2):
        trainer.step(batch)
        g, g_p = gradient(trainer.at, batch), gradient(trainer.passes[1], batch)
        velocity = 0.9 * velocity + g
        close(trainer.moved(), 0.5 * velocity + 0.5 * 4 * (g_p - g))


def test_gradients_summed_over_chunks() -> None:
    whole, chunks = Trainer("sam", rho=0.0), Trainer("sam", rho=0.0, m=4)
    for batch in make_batches(2):
        whole.step(batch)
        chunks.step(batch)
        close(chunks.moved(), whole.moved())


def test_chunks_share_one_perturbation() -> None:
    trainer = Trainer("sam", m=4)
    (batch,) = make_batches(1)
    trainer.step(batch)
    seen = {
        (len(part[0]), row(at).numpy().tobytes())
        for at, part in zip(trainer.passes, trainer.batches, strict=True)
    }
    # Three chunks at w and three points w + e.
    assert len(seen) == 4
    for at, part in zip(trainer.passes, trainer.batches, strict=True):
        if not same(at, trainer.at):
            close(row(at) - row(trainer.at), RHO * unit(gradient(trainer.at, part)))


def test_bn_cumulative_average_counts_every_chunk() -> None:
    trainer = Trainer("sam", kind="batch", m=4)
    layer: Any = trainer.net[1]  # type: ignore[index]
    layer.momentum = None
    batches = make_batches(3)
    means = []
    for x, y in batches:
        means.append(trainer.net[0](x).mean((0, 2, 3)))  # type: ignore[index]
        trainer.step((x, y))
    assert layer.num_batches_tracked.item() == 3
    close(layer.running_mean, torch.stack(means).mean(0).detach())


@pytest.mark.parametrize("masks", ["same", "independent"])
def test_dropout_draws_another_mask_in_the_second_pass(masks: str) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 40), nn.LayerNorm(40), nn.Dropout(0.5), nn.Linear(40, 1))
    optimizer = SharpnessAware(
        net, torch.optim.SGD(net.parameters(), 0.1), rho=0.0, dropout_masks=masks
    )
    outputs: list[Tensor] = []

    def loss_fn(x: Tensor) -> Tensor:
        outputs.append(net(x))
        losses: Tensor = outputs[-1].square().mean(1)
        return losses

    for _ in range(2):
        optimizer.step(loss_fn, torch.ones(4, 6))
    assert torch.equal(outputs[0], outputs[1]) == (masks == "same")
    assert not torch.equal(outputs[0], outputs[2])


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_zero_gradient_gives_nan(variant: str) -> None:
    net = make_net("layer")
    drawing: dict[str, Any] = {"generator": torch.Generator().manual_seed(0)}
    optimizer = SharpnessAware(
        net,
        sgd(net, **PLAIN | ({"momentum": 0.9} if variant == "msam" else {})),
        variant,
        rho=None if variant == "none" else RHO,
        **(drawing if variant in ("esam", "ssam_d") else {}),
    )
    before = weights_of(net)
    loss_fn = lambda batch: loss_of(net)(batch) * 0  # noqa: E731
    if variant == "ssam_f":
        optimizer.begin_epoch(0, 2, samples=make_batches(1), loss_fn=loss_fn)
    else:
        optimizer.begin_epoch(0, 2)
    for batch in make_batches(2):
        optimizer.step(loss_fn, batch)
    assert same(weights_of(net), before)


@pytest.mark.parametrize("variant", ["fisher_sam", "fsam", "vasso", "gsam", "wsam", "ae_sam"])
def test_the_gradient_of_a_scaled_loss_is_kept_or_measured(variant: str) -> None:
    options: dict[str, Any] = {"delta": 0.2} if variant == "ae_sam" else {}
    scaled, plain = (Trainer(variant, dtype=torch.float32, **options) for _ in range(2))
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for trainer in (scaled, plain):
        trainer.optimizer.begin_epoch(1, 2)
    for batch in make_batches(4, dtype=torch.float32):
        scaled.step(batch, scaler=scaler)
        plain.step(batch)
        torch.testing.assert_close(scaled.shift(), plain.shift(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        row(weights_of(scaled.net)), row(weights_of(plain.net)), rtol=1e-5, atol=1e-6
    )


def test_sam_never_starts_or_never_ends() -> None:
    trainer = Trainer("sam", start_epoch=1, end_epoch=2)
    counts = []
    for epoch in range(3):
        trainer.optimizer.begin_epoch(epoch, 3)
        trainer.step(make_batches(1)[0])
        counts.append(len(trainer.passes))
    assert counts == [1, 2, 1]
