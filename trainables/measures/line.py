"""Loss and accuracy on the straight line between two models: docs/measures.md."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from trainables.measures.row import Row
from trainables.measures.subject import Batch, Subject
from trainables.streaming import AnyImages

IMAGES = 2048
_POSITIONS = 11


def line(start: Subject, end: Subject, test: AnyImages) -> Iterator[Row]:
    """Test loss, test accuracy and training loss at 11 positions; `start` walks, and is changed.

    Training images and their labels are those of `start`. At both ends stand the models as they
    are, with their own BatchNorm statistics; between them these are recomputed from training
    images, and in rows of the part `recomputed` at the ends, too. Raises ValueError where the
    models differ in shape.
    """
    first, last = ({k: v.clone() for k, v in s.model.state_dict().items()} for s in (start, end))
    if {k: v.shape for k, v in first.items()} != {k: v.shape for k, v in last.items()}:
        raise ValueError("the two models differ in shape, so there is no line between them")
    batches = start.training_batches(IMAGES)
    layers = [m for m in start.model.modules() if isinstance(m, _BatchNorm)]
    moving = any(layer.running_mean is not None for layer in layers)
    for position in range(_POSITIONS):
        t = position / (_POSITIONS - 1)
        start.model.load_state_dict(
            {
                # Exact at both ends, as long as all is finite.
                k: (1 - t) * v + t * last[k] if v.is_floating_point() else (v, last[k])[t == 1]
                for k, v in first.items()
            }
        )
        if t in (0, 1):
            yield from _rows(start, batches, test, "", t)
        if moving:
            recompute(start.model, layers, batches)
        if moving or 0 < t < 1:
            yield from _rows(start, batches, test, "recomputed" if t in (0, 1) else "", t)


@torch.no_grad()
def recompute(model: nn.Module, layers: list[_BatchNorm], batches: list[Batch]) -> None:
    """Sets the running statistics of `layers` to their means over the batches; all else in the
    model stays in evaluation mode."""
    tracking = [layer for layer in layers if layer.running_mean is not None]
    momenta = [layer.momentum for layer in tracking]
    for layer in tracking:
        layer.reset_running_stats()
        layer.momentum = None  # a cumulative average
        layer.train()
    for inputs, _ in batches:
        model(inputs)
    for layer, momentum in zip(tracking, momenta, strict=True):
        layer.momentum = momentum
        layer.eval()


def _rows(
    subject: Subject, batches: list[Batch], test: AnyImages, part: str, at: float
) -> Iterator[Row]:
    loss, accuracy = subject.score(subject.test_batches(test))
    yield Row("line.test_loss", part, at, loss)
    yield Row("line.test_accuracy", part, at, accuracy)
    yield Row("line.train_loss", part, at, subject.score(batches)[0])
