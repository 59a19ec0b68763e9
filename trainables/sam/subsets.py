"""Which parameters the ascent step moves, chosen by module type and never by name."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TypeVar

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from trainables.catalog import SUBSETS

Module = TypeVar("Module", bound=type[nn.Module])

_TORCH_NORMS: tuple[type[nn.Module], ...] = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
# The layers of timm that normalize and derive from none of the above.
_TIMM_NORMS = {
    "timm.layers": (
        "RmsNorm",
        "RmsNormFp32",
        "RmsNorm2d",
        "RmsNorm2dFp32",
        "SimpleNorm",
        "SimpleNormFp32",
        "SimpleNorm2d",
        "SimpleNorm2dFp32",
        "EvoNorm2dB0",
        "EvoNorm2dB1",
        "EvoNorm2dB2",
        "EvoNorm2dS0",
        "EvoNorm2dS1",
        "EvoNorm2dS2",
        "FilterResponseNormTlu2d",
        "FilterResponseNormAct2d",
        "InplaceAbn",
    ),
    "timm.layers.grn": ("GlobalResponseNorm",),
}
_registered: list[type[nn.Module]] = []


def register_norm(kind: Module) -> Module:
    """Count modules of type `kind` (and of types derived from it) as normalization layers.

    Works as a class decorator. Raises TypeError if `kind` is not a module type.
    """
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        raise TypeError(f"register_norm takes a subclass of torch.nn.Module, got {kind!r}")
    if kind not in _registered:
        _registered.append(kind)
    return kind


def norm_types() -> tuple[type[nn.Module], ...]:
    """Every module type that counts as a normalization layer now."""
    # A model can hold layers of timm only if timm was imported before.
    found = (
        getattr(sys.modules.get(module), name, None)
        for module, names in _TIMM_NORMS.items()
        for name in names
    )
    return (*_TORCH_NORMS, *(kind for kind in found if kind is not None), *_registered)


def norm_layers(model: nn.Module) -> list[nn.Module]:
    """The normalization layers of `model`."""
    types = norm_types()
    return [module for module in model.modules() if isinstance(module, types)]


def select(model: nn.Module, perturb: str) -> list[tuple[str, nn.Parameter]]:
    """Names and parameters of the subset, frozen ones too, each shared parameter once.

    A normalization layer owns the parameters registered in it, not those of its children.
    Raises ValueError for an unknown subset.
    """
    if perturb not in SUBSETS:
        raise ValueError(f"unknown subset perturb={perturb!r}; allowed: {', '.join(SUBSETS)}")
    named = list(model.named_parameters())
    if perturb == "all":
        return named
    of_norm = {p for layer in norm_layers(model) for p in layer.parameters(recurse=False)}
    return [(name, p) for name, p in named if (p in of_norm) == (perturb == "norm")]


def perturbed_parameters(model: nn.Module, perturb: str) -> Iterator[tuple[str, nn.Parameter]]:
    """Names and trainable parameters that the ascent step moves.

    Raises ValueError for an unknown subset and for one that selects nothing.
    """
    chosen = [(name, p) for name, p in select(model, perturb) if p.requires_grad]
    if not chosen:
        raise ValueError(nothing_selected(model, perturb))
    return iter(chosen)


def nothing_selected(model: nn.Module, perturb: str) -> str:
    """Why the subset is empty and what to do about it."""
    text = f"perturb={perturb!r} selects no trainable parameter of {type(model).__name__}"
    if perturb != "norm":
        return text
    looked_for = ", ".join(kind.__name__ for kind in norm_types())
    return (
        f"{text}. Looked for affine layers of type {looked_for} and types derived from these; "
        "register further types with trainables.sam.register_norm(TYPE)"
    )
