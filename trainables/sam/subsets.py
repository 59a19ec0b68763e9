"""Which parameters the ascent step moves, chosen by module type and never by name.

What each word selects: docs/subsets.md.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import NamedTuple, TypeAlias, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from trainables.catalog.subsets import Perturb, Word, canonical, parse
from trainables.sam import masks

Module = TypeVar("Module", bound=type[nn.Module])
Named: TypeAlias = list[tuple[str, nn.Parameter]]

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


def norm_parameters(model: nn.Module) -> set[nn.Parameter]:
    """The parameters of the normalization layers."""
    return _own(norm_layers(model))


class Selected(NamedTuple):
    """A tensor of the subset. mask: its selected elements, bool, None for all of them."""

    name: str
    parameter: nn.Parameter
    mask: Tensor | None


@dataclass(frozen=True, eq=False)
class Selection:
    """A subset in one model: its targets, in the order of model.named_parameters().

    waiting: how many elements top_fisher selects besides, once `fill_fisher` gets their scores.
    """

    named: tuple[tuple[str, nn.Parameter], ...]
    targets: tuple[Selected, ...]
    waiting: int = 0

    @property
    def pending(self) -> bool:
        """Whether top_fisher waits for its scores."""
        return self.waiting > 0


def selection(
    model: nn.Module, perturb: Perturb, generator: torch.Generator | None = None
) -> Selection:
    """What `perturb` selects in `model`, each shared parameter once.

    Whole tensors are selected frozen or not, single elements over the trainable parameters.
    generator: draws for the word random, on the CPU. Raises ValueError for what is no subset, for a
    word that selects nothing, and where random has no generator.
    """
    named = list(model.named_parameters())
    whole, counts = _resolved(model, perturb)
    chosen = masks.elements(_trainable(named), counts, generator)
    return Selection(
        tuple(named), _targets(named, whole, chosen), waiting=counts.get("top_fisher", 0)
    )


def fill_fisher(selection: Selection, scores: Sequence[Tensor]) -> Selection:
    """The selection with the elements of top_fisher: those of the largest scores.

    scores: of masks.fisher_scores, one tensor for each trainable parameter of the model, in order.
    Raises ValueError where they do not fit the parameters, or where nothing waits for them.
    """
    if not selection.pending:
        raise ValueError("this selection waits for no scores")
    names = [name for name, p in selection.named if p.requires_grad]
    shapes = [p.shape for _, p in selection.named if p.requires_grad]
    if [score.shape for score in scores] != shapes:
        raise ValueError(f"scores must be one tensor for each trainable parameter: {shapes}")
    known = {t.name: t.mask for t in selection.targets if t.mask is not None}
    whole = {t.parameter for t in selection.targets if t.mask is None}
    best = dict(zip(names, masks.top(scores, selection.waiting), strict=True))
    targets = _targets(selection.named, whole, masks.unite(known, best))
    return Selection(selection.named, targets)


def perturbed_parameters(
    model: nn.Module, perturb: Perturb, generator: torch.Generator | None = None
) -> Iterator[tuple[str, nn.Parameter]]:
    """Names and trainable parameters of which the ascent step moves at least one element.

    generator: as of `selection`. Raises ValueError as `selection`, for a subset that selects
    nothing trainable, and for top_fisher, which is known only in training.
    """
    found = selection(model, perturb, generator)
    if found.pending:
        raise ValueError(
            f"perturb={canonical(perturb)!r}: what top_fisher selects is known after the first "
            "begin_epoch; ask optimizer.mask(NAME)"
        )
    chosen = [(t.name, t.parameter) for t in found.targets if t.parameter.requires_grad]
    if not chosen:
        raise ValueError(nothing_selected(model, perturb))
    return iter(chosen)


def perturbed_elements(model: nn.Module, perturb: Perturb) -> int:
    """How many trainable scalars the ascent step moves; reads no value, so a model may be on meta.

    Exact but for unions with words for single elements: there the words count as if they selected
    none in common, which is an upper bound. Raises ValueError where it is 0, and as `parse`.
    """
    whole, counts = _resolved(model, perturb)
    moved = _size(p for p in whole if p.requires_grad) + sum(counts.values())
    if not moved:
        raise ValueError(nothing_selected(model, perturb))
    return min(moved, _size(p for p in model.parameters() if p.requires_grad))


def nothing_selected(model: nn.Module, perturb: Perturb) -> str:
    """Why the subset is empty and what to do about it."""
    text = (
        f"perturb={canonical(perturb)!r} selects no trainable parameter of {type(model).__name__}"
    )
    words = parse(perturb)
    if any(word.name in _OF_NORMS for word in words):
        text += f". {_norms_looked_for()}"
    if any(word.pattern is not None for word in words):
        text += f". Its parameters are {_shortened([n for n, _ in model.named_parameters()])}"
    return text


_OF_NORMS = ("norm", "norm_weight", "norm_bias", "norm_last")
_SHOWN = 8


def _norms_looked_for() -> str:
    looked_for = ", ".join(kind.__name__ for kind in norm_types())
    return (
        f"Looked for affine layers of type {looked_for} and types derived from these; "
        "register further types with trainables.sam.register_norm(TYPE)"
    )


def _shortened(names: Sequence[str]) -> str:
    if len(names) <= _SHOWN:
        return ", ".join(names)
    half = _SHOWN // 2
    return f"{', '.join(names[:half])}, ... {', '.join(names[-half:])} ({len(names)} in all)"


def _resolved(model: nn.Module, perturb: Perturb) -> tuple[set[nn.Parameter], dict[str, int]]:
    """The whole tensors of a subset, and how many elements each word for elements selects.

    The elements of one word are the first of one order, so of two counts the larger holds.
    """
    whole: set[nn.Parameter] = set()
    counts: dict[str, int] = {}
    for word in parse(perturb):
        if word.elementwise:
            counts[word.name] = max(counts.get(word.name, 0), _count(model, word))
        elif found := _tensors(model, word):
            whole |= found
        else:
            raise ValueError(nothing_selected(model, str(word)))
    return whole, counts


def _count(model: nn.Module, word: Word) -> int:
    if word.fraction is not None:
        return max(
            1, round(word.fraction * _size(p for p in model.parameters() if p.requires_grad))
        )
    matched = _size(p for p in norm_parameters(model) if p.requires_grad)
    if not matched:
        raise ValueError(
            f"perturb='{word}' selects as many elements as norm, which are none in "
            f"{type(model).__name__}. {_norms_looked_for()}"
        )
    return matched


def _tensors(model: nn.Module, word: Word) -> set[nn.Parameter]:
    """The parameters that a word for whole tensors selects, frozen ones too."""
    match word:
        case Word("all"):
            return set(model.parameters())
        case Word("norm"):
            return norm_parameters(model)
        case Word("no_norm"):
            return set(model.parameters()) - norm_parameters(model)
        case Word("norm_weight"):
            return _own(norm_layers(model), "weight")
        case Word("norm_bias"):
            return _own(norm_layers(model), "bias")
        case Word("norm_last", fraction=Decimal() as fraction):
            affine = [layer for layer in norm_layers(model) if _own([layer])]
            return _own(affine[len(affine) - math.ceil(fraction * len(affine)) :])
        case Word("bias"):
            return _own(model.modules(), "bias")
        case Word("stem"):
            return _stem(model)
        case Word("head"):
            return _head(model)
        case Word("regex", pattern=str(pattern)):
            return {p for name, p in model.named_parameters() if re.search(pattern, name)}
    raise AssertionError(word)


def _stem(model: nn.Module) -> set[nn.Parameter]:
    """All parameters of the first module that has one registered as `weight`."""
    first = next((module for module in model.modules() if _own([module], "weight")), None)
    return set() if first is None else _own([first])


def _head(model: nn.Module) -> set[nn.Parameter]:
    """The parameters of timm's classifier, or else of the last linear layer or convolution."""
    if callable(ask := getattr(model, "get_classifier", None)):
        answer = ask()
        # A distilled model of timm has two.
        layers = answer if isinstance(answer, (tuple, list)) else (answer,)
        found = {p for m in layers if isinstance(m, nn.Module) for p in m.parameters()}
        if found:
            return found
    layers = [m for m in model.modules() if isinstance(m, (nn.Linear, _ConvNd)) and _own([m])]
    return _own(layers[-1:])


def _own(modules: Iterable[nn.Module], registered_as: str | None = None) -> set[nn.Parameter]:
    """Parameters registered in the modules themselves, not in their children."""
    return {
        parameter
        for module in modules
        for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False)
        if registered_as in (None, name)
    }


def _trainable(named: Named) -> Named:
    return [(name, p) for name, p in named if p.requires_grad]


def _size(parameters: Iterable[nn.Parameter]) -> int:
    return sum(p.numel() for p in parameters)


def _targets(
    named: Iterable[tuple[str, nn.Parameter]],
    whole: set[nn.Parameter],
    chosen: Mapping[str, Tensor],
) -> tuple[Selected, ...]:
    targets = []
    for name, parameter in named:
        mask = chosen.get(name)
        if parameter in whole or (mask is not None and mask.all()):
            targets.append(Selected(name, parameter, None))
        elif mask is not None and mask.any():
            targets.append(Selected(name, parameter, mask))
    return tuple(targets)
