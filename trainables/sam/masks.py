"""Single elements of tensors: boolean masks, chosen at random or by the largest scores."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from trainables.sam.passes import Batch, LossFunction, Slice, cut, each, prefix

_GRADIENT_ELEMENTS = 2**25
"""How many elements the per-sample gradients of one chunk hold at most, but for one sample's."""


def random(tensors: Sequence[Tensor], count: int, generator: torch.Generator) -> list[Tensor]:
    """Masks of `count` elements over all tensors together, each set of them equally likely.

    generator: on the CPU, so that the draw is the same on every device. One that starts alike
    gives nested masks for different counts.
    """
    total = sum(t.numel() for t in tensors)
    order = torch.randperm(total, generator=generator, device="cpu")
    return at(tensors, order[:count])


def top(scores: Sequence[Tensor], count: int) -> list[Tensor]:
    """Masks of the `count` largest scores over all tensors together; of equal scores the first."""
    flat = torch.cat([score.detach().flatten() for score in scores])
    return at(scores, flat.sort(descending=True, stable=True).indices[:count])


def at(tensors: Sequence[Tensor], chosen: Tensor) -> list[Tensor]:
    """Masks shaped and placed as `tensors` of the elements at the positions `chosen`."""
    sizes = [t.numel() for t in tensors]
    flat = torch.zeros(sum(sizes), dtype=torch.bool, device=chosen.device)
    flat[chosen] = True
    parts = zip(torch.split(flat, sizes), tensors, strict=True)
    return [part.view(t.shape).to(t.device, copy=True) for part, t in parts]


def elements(
    named: Sequence[tuple[str, nn.Parameter]],
    counts: Mapping[str, int],
    generator: torch.Generator | None,
) -> dict[str, Tensor]:
    """Masks by name for `counts` elements of each word, random and top_magnitude, united.

    Raises ValueError where random has no generator to draw from.
    """
    tensors = [p.detach() for _, p in named]
    chosen = []
    if "random" in counts:
        if generator is None:
            raise ValueError(
                "the subset random draws its elements: give generator=torch.Generator()"
            )
        chosen.append(random(tensors, counts["random"], generator))
    if "top_magnitude" in counts:
        chosen.append(top([t.abs() for t in tensors], counts["top_magnitude"]))
    names = [name for name, _ in named]
    return unite(*(dict(zip(names, masks, strict=True)) for masks in chosen))


def unite(*masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Elements that any of the masks of a name has."""
    united: dict[str, Tensor] = {}
    for by_name in masks:
        for name, mask in by_name.items():
            united[name] = united[name] | mask if name in united else mask
    return united


def fisher_scores(
    model: nn.Module, loss_fn: LossFunction, batches: Iterable[Batch], samples: int = 1024
) -> list[Tensor]:
    """Sum over samples of the squared gradient of each sample's loss, one tensor for each
    trainable parameter of `model`, in their order.

    loss_fn(batch): one forward pass of `model`, losses [n] or their mean. batches: tensors or
    tuples of tensors [n, ...]; their first `samples` samples count, or all. The model is in
    evaluation mode meanwhile, so that BatchNorm mixes no samples and no statistics move. Scores
    are float32 or wider. Raises ValueError where there is no sample.
    """
    weights = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    scores = {
        name: torch.zeros_like(w, dtype=torch.promote_types(w.dtype, torch.float32))
        for name, w in weights.items()
    }
    of_each = vmap(grad(_sample_loss(model, loss_fn)), in_dims=(None, 0), randomness="different")
    chunk = max(1, _GRADIENT_ELEMENTS // sum(w.numel() for w in weights.values()))
    counted = 0
    # The fused kernels of attention have no batched form.
    with _evaluating(model), sdpa_kernel(SDPBackend.MATH):
        for part, count in _chunks(batches, samples, chunk):
            counted += count
            for name, gradient in of_each(weights, part).items():
                scores[name] += gradient.to(scores[name].dtype).square().sum(0)
    if not counted:
        raise ValueError("no sample to take gradients of: the batches are empty")
    return list(scores.values())


class _Loss(nn.Module):
    """Calls loss_fn with the model as child, so that functional_call reaches its parameters."""

    def __init__(self, model: nn.Module, loss_fn: LossFunction) -> None:
        super().__init__()
        self.model = model
        self.loss_fn = loss_fn

    def forward(self, batch: Any) -> Tensor:
        return self.loss_fn(batch).sum()


def _sample_loss(model: nn.Module, loss_fn: LossFunction) -> Any:
    module = _Loss(model, loss_fn)

    def loss(weights: Mapping[str, Tensor], sample: Batch) -> Tensor:
        batch = each(sample, lambda t: t.unsqueeze(0))
        named = {f"model.{name}": w for name, w in weights.items()}
        found: Tensor = functional_call(module, named, (batch,))
        return found

    return loss


def _chunks(batches: Iterable[Batch], samples: int, size: int) -> Iterator[Slice]:
    left = samples
    for batch in batches:
        if left == 0:
            return
        for part, used in prefix(cut(batch, 1), left):
            left -= used
            yield from cut(part, math.ceil(used / size))


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
