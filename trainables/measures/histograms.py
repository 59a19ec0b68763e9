"""Where the affine parameters of the normalization layers have come to: docs/measures.md."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch

from trainables.measures.row import Row
from trainables.measures.subject import Subject
from trainables.sam.subsets import selection

_WORDS = {"gamma": "norm_weight", "beta": "norm_bias"}
_WIDTH = 0.1
_EDGES: Mapping[str, tuple[int, int]] = {"gamma": (-10, 30), "beta": (-20, 20)}
"""The first bin and the one after the last, in widths."""


def histograms(subject: Subject) -> Iterator[Row]:
    """Counts by bin over all layers, then mean and standard deviation of all and of every tensor.

    Values outside the bins count in the nearest. A model without such parameters gives no rows.
    """
    for name, word in _WORDS.items():
        try:
            targets = selection(subject.model, word).targets
        except ValueError:
            continue
        tensors = {t.name: t.parameter.detach().double().flatten().cpu() for t in targets}
        every = torch.cat(list(tensors.values()))
        first, end = _EDGES[name]
        # A bin holds its left edge; in float64 a value of 0.3, kept in float32, may lie below it.
        bins = torch.floor(every / _WIDTH + 1e-6).clamp(first, end - 1) - first
        counts = torch.bincount(bins.long(), minlength=end - first)
        for at, count in enumerate(counts.tolist(), first):
            yield Row(f"histogram.{name}", "all", round(at * _WIDTH, 1), float(count))
        for part, values in {"all": every, **tensors}.items():
            yield Row(f"{name}.mean", part, None, values.mean().item())
            yield Row(f"{name}.deviation", part, None, values.std(correction=0).item())
