"""Masks of single elements, against slow and obvious second ways."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.trainables.sam.nets import NETS, loss_of, make_batches, make_net
from trainables.models import make_model
from trainables.sam import masks

SHAPES = [(3, 2), (4,), (1,), (2, 2, 2)]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def flat(tensors: list[Tensor]) -> Tensor:
    return torch.cat([t.flatten() for t in tensors])


def top_by_sorting(scores: list[float], count: int) -> list[bool]:
    """Positions in the order of falling score, of equal scores the first one first."""
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    return [i in order[:count] for i in range(len(scores))]


@given(st.lists(st.integers(0, 3), min_size=19, max_size=19), st.integers(0, 19))
@settings(max_examples=60, deadline=None)
def test_the_largest_scores_are_chosen_and_of_equal_ones_the_first(
    values: list[int], count: int
) -> None:
    sizes = [torch.Size(shape).numel() for shape in SHAPES]
    parts = torch.split(torch.tensor(values, dtype=torch.float32), sizes)
    scores = [part.view(shape) for part, shape in zip(parts, SHAPES, strict=True)]
    found = masks.top(scores, count)
    assert [mask.shape for mask in found] == [score.shape for score in scores]
    assert flat(found).tolist() == top_by_sorting([float(v) for v in values], count)


@pytest.mark.parametrize("count", [1, 7, 19])
def test_random_masks_have_their_count_and_follow_their_generator(count: int) -> None:
    tensors = [torch.zeros(shape) for shape in SHAPES]
    found = flat(masks.random(tensors, count, seeded()))
    assert found.dtype == torch.bool
    assert found.sum() == count
    assert torch.equal(found, flat(masks.random(tensors, count, seeded())))


def test_random_masks_of_one_generator_are_nested() -> None:
    tensors = [torch.zeros(shape) for shape in SHAPES]
    small, large = (flat(masks.random(tensors, n, seeded(3))) for n in (5, 11))
    assert not (small & ~large).any()
    assert not torch.equal(small, flat(masks.random(tensors, 5, seeded(4))))


def test_every_element_is_as_likely_as_any_other() -> None:
    tensors, generator = [torch.zeros(2, 2), torch.zeros(6)], seeded()
    draws = [flat(masks.random(tensors, 3, generator)) for _ in range(3000)]
    share = torch.stack(draws).double().mean(0)
    assert (share - 0.3).abs().max() < 5 * (0.3 * 0.7 / 3000) ** 0.5


def squared_gradients_sample_by_sample(
    net: nn.Module, loss_fn: Callable[..., Tensor], samples: list[tuple[Tensor, Tensor]]
) -> list[Tensor]:
    weights = [p for p in net.parameters() if p.requires_grad]
    total = [torch.zeros_like(w) for w in weights]
    net.eval()
    for image, label in samples:
        loss = loss_fn((image[None], label[None])).sum()
        for part, gradient in zip(total, torch.autograd.grad(loss, weights), strict=True):
            part += gradient**2
    net.train()
    return total


@pytest.mark.parametrize("kind", NETS)
@pytest.mark.parametrize("chunk", [1, 5, 1000])
@pytest.mark.parametrize("samples", [20, 1024])
def test_fisher_scores_are_sums_of_squared_gradients_of_each_sample(
    kind: str, chunk: int, samples: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = make_net(kind)
    list(net.parameters())[1].requires_grad = False
    size = sum(p.numel() for p in net.parameters() if p.requires_grad)
    monkeypatch.setattr(masks, "_GRADIENT_ELEMENTS", chunk * size)
    batches = make_batches(3)
    pairs = [(x, y) for images, labels in batches for x, y in zip(images, labels, strict=True)]
    expected = squared_gradients_sample_by_sample(net, loss_of(net), pairs[:samples])
    found = masks.fisher_scores(net, loss_of(net), batches, samples)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-14)


def test_fisher_scores_leave_the_model_as_it_was() -> None:
    net = make_net("batch")
    net[4].eval()  # type: ignore[index]
    before = {name: t.clone() for name, t in net.state_dict().items()}
    modes = [module.training for module in net.modules()]
    masks.fisher_scores(net, loss_of(net), make_batches(2))
    assert [module.training for module in net.modules()] == modes
    assert all(torch.equal(t, before[name]) for name, t in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())

    def breaks(_: object) -> Tensor:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        masks.fisher_scores(net, breaks, make_batches(1))
    assert [module.training for module in net.modules()] == modes
    assert all(torch.equal(t, before[name]) for name, t in net.state_dict().items())


def test_fisher_scores_of_a_batch_that_is_one_tensor_or_a_tuple_of_one() -> None:
    net = nn.Linear(3, 1).double()
    images = torch.randn(5, 3, generator=seeded(), dtype=torch.float64)
    alone = masks.fisher_scores(net, lambda x: net(x)[:, 0].square(), [images])
    tuples = masks.fisher_scores(net, lambda b: net(b[0]).square().mean(), [(images,)])
    for a, b in zip(alone, tuples, strict=True):
        torch.testing.assert_close(a, b)


def test_fisher_scores_need_samples() -> None:
    net = make_net("layer")
    with pytest.raises(ValueError, match="no sample"):
        masks.fisher_scores(net, loss_of(net), [])


@pytest.mark.parametrize("name", ["resnet8", "vit"])
def test_the_models_at_hand_have_fisher_scores(name: str) -> None:
    options = {"width": 4} if name == "resnet8" else {}
    net = make_model(name, num_classes=3, in_channels=1, image_size=8, **options)
    batches = [(torch.randn(4, 1, 8, 8, generator=seeded()), torch.tensor([0, 1, 2, 0]))]
    found = masks.fisher_scores(net, loss_of(net), batches)
    pairs = list(zip(*batches[0], strict=True))
    expected = squared_gradients_sample_by_sample(net, loss_of(net), pairs)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-7)
