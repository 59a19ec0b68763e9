"""How a trial is computed, where the spec leaves that open: found by benchmarks, docs/speed.md."""

from __future__ import annotations

from trainables.catalog.own import is_own

_PIXELS = {"cpu": 2**16, "gpu": 2**22}
"""Pixels of a batch of evaluation, about: on a CPU its activations should fit the cache."""
_LEAST, _MOST = 64, 4096


def channels_last(model: str) -> bool:
    """Whether the weights of this model lie in the layout of convolutions: not where there are
    none, nor in a model of the user's own, which may have chosen a layout itself."""
    return not (is_own(model) or model.startswith("vit"))


def eval_batch(image_size: int, gpu: bool) -> int:
    """Images of a batch of evaluation. image_size: height of an image, in pixels."""
    return min(_MOST, max(_LEAST, _PIXELS["gpu" if gpu else "cpu"] // image_size**2))
