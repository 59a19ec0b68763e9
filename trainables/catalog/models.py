"""Models by name, and the options that each takes."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass

from trainables.catalog.own import OWN

NORMS = ("bn", "gn", "ln", "rms", "none", "dyt")
"""Words for the normalization of a network: trainables.models.norm says what each means."""
_TOKEN_NORMS = ("ln", "rms", "none", "dyt")
_BATCHED_NORMS = ("bn", "gn", "ln", "none")
_TIMM = re.compile(r"timm/[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)?")


@dataclass(frozen=True)
class Model:
    """A network of ours. Each takes the options `norm` and `affine`.

    norms: words that `norm` takes, the default first. width: default of the option `width`, None
    for a network whose name fixes its channels. batched: whether several can be trained as one,
    their channels side by side. small: a network of its kind for a smoke run, None where it is one
    itself.
    """

    norms: tuple[str, ...]
    width: int | None = None
    batched: bool = True
    small: str | None = None


MODELS: Mapping[str, Model] = {
    "resnet8": Model(NORMS, width=16),
    "resnet20": Model(NORMS, width=16),
    "resnet32": Model(NORMS, width=16),
    "resnet44": Model(NORMS, width=16),
    "resnet56": Model(NORMS, width=16),
    "preact_resnet18": Model(NORMS, small="resnet8"),
    "wrn16_4": Model(NORMS, small="resnet8"),
    "wrn28_10": Model(NORMS, small="resnet8"),
    "resnext29_32x4d": Model(NORMS, small="resnet8"),
    "densenet100": Model(NORMS, batched=False, small="resnet8"),
    "convmixer": Model(NORMS, small="resnet8"),
    "vit": Model(_TOKEN_NORMS, batched=False),
    "vit_tiny": Model(_TOKEN_NORMS, batched=False, small="vit"),
    "vit_small": Model(_TOKEN_NORMS, batched=False, small="vit"),
}

MODEL_NAMES = (*MODELS, "timm/NAME", OWN)


def model_options(name: str) -> Mapping[str, int | str | bool] | None:
    """Options that the model `name` takes besides its name, with their defaults.

    None for one not declared here. Of a user's own model nothing is declared: it gets every option.
    """
    if model := MODELS.get(name):
        width = {} if model.width is None else {"width": model.width}
        return {**width, "norm": model.norms[0], "affine": True}
    return {} if _TIMM.fullmatch(name) else None


def wrong_option(name: str, given: Mapping[str, object]) -> tuple[str, str] | None:
    """The first key of `given` that the declared model `name` cannot be built with, and why.

    A value None stands for the default.
    """
    takes = model_options(name) or {}
    for key in given:
        if key not in takes:
            return key, f"{name} takes no {key}; leave it out"
    norm = given.get("norm")
    if norm is not None and norm not in (norms := MODELS[name].norms):
        near = difflib.get_close_matches(str(norm), norms, n=1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        return "norm", f"unknown norm for {name} {norm!r}; allowed: {', '.join(norms)}{hint}"
    if norm == "none" and given.get("affine") is False:
        return "affine", "norm none has no layers to take affine parameters from; leave it out"
    return None


def unbatched_model(name: str, norm: str | None) -> tuple[str, str] | None:
    """The key, name or norm, for which models of this name cannot be trained several as one, and
    why; None where they can. norm: None for the default."""
    can = [each for each, model in MODELS.items() if model.batched]
    if name not in can:
        return "name", f"{name} cannot be batched; these can: {', '.join(can)}"
    if (norm or MODELS[name].norms[0]) not in _BATCHED_NORMS:
        return "norm", f"{norm} cannot be batched; these can: {', '.join(_BATCHED_NORMS)}"
    return None
