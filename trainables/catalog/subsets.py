"""Subsets of parameters: the words for what the ascent step may move.

A subset is one word or a union of words. Written as one string, a union joins its words with '+';
a regular expression may hold '+' itself and therefore ends the string. docs/subsets.md says what
each word selects, trainables.sam.subsets selects it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal, TypeAlias

from trainables.catalog.nearest import nearest, shown

Kind = Literal["dense", "sparse"]
Perturb: TypeAlias = str | Sequence[str]
"""A word, words joined with '+', or several words: a union."""

PLAIN = ("all", "norm", "no_norm", "norm_weight", "norm_bias", "bias", "head", "stem")
"""Words for whole tensors that stand alone."""
ELEMENTWISE = ("random", "top_fisher", "top_magnitude")
"""Words that select single elements over all parameters."""
_DENSE = ("all", "no_norm")
_NAMES = (*PLAIN, "norm_last", "regex", *ELEMENTWISE)
_ALLOWED = (
    f"{', '.join(PLAIN)}, norm_last:F, regex:R, {', '.join(f'{name}:F' for name in ELEMENTWISE)} "
    "(0 < F <= 1; the last three also take matched for F)"
)
_DECIMAL = re.compile(r"\d+(\.\d+)?|\.\d+", re.ASCII)


@dataclass(frozen=True)
class Word:
    """One word of a subset. fraction: its F; pattern: its R; neither for 'matched' and plain words.

    As a string it is the one form in which this word is written.
    """

    name: str
    fraction: Decimal | None = None
    pattern: str | None = None

    @property
    def elementwise(self) -> bool:
        """Whether it selects single elements."""
        return self.name in ELEMENTWISE

    def __str__(self) -> str:
        if self.name in PLAIN:
            return self.name
        if self.pattern is not None:
            return f"{self.name}:{self.pattern}"
        if self.fraction is None:
            return f"{self.name}:matched"
        return f"{self.name}:{self.fraction.normalize():f}"


def parse(perturb: Perturb) -> tuple[Word, ...]:
    """The words of a subset, in order. Raises ValueError, in one line, for what is none."""
    if isinstance(perturb, str):
        given = _split(perturb)
    elif isinstance(perturb, Sequence) and all(isinstance(word, str) for word in perturb):
        given = [part for word in perturb for part in _split(word)]
    else:
        raise ValueError(f"a subset is a word or a list of words, not {shown(perturb)}")
    if not given:
        raise ValueError(f"a subset needs at least one word; allowed: {_ALLOWED}")
    words = tuple(_word(text) for text in given)
    for word in words:
        if words.count(word) > 1:
            raise ValueError(f"subset '{word}' is named twice in one union")
    for word in words[:-1]:
        if word.pattern is not None:
            raise ValueError(
                f"'{word}' must be the last word of its union, and the only regex there: "
                "write several as regex:A|B"
            )
    return words


def canonical(perturb: Perturb) -> str:
    """The one string that names the subset. Raises ValueError as `parse`."""
    return "+".join(map(str, parse(perturb)))


def kind(perturb: Perturb) -> Kind:
    """Which suggested range of rho a subset takes: dense if it holds all or no_norm, else sparse.

    Raises ValueError as `parse`.
    """
    return "dense" if any(word.name in _DENSE for word in parse(perturb)) else "sparse"


def borrowed(perturb: Perturb) -> bool:
    """Whether the suggested range of rho is that of `norm` for want of one of its own.

    Raises ValueError as `parse`.
    """
    return kind(perturb) == "sparse" and canonical(perturb) != "norm"


def slug(perturb: Perturb) -> str:
    """The subset within the name of an arm: letters, digits, '_' and '-'."""
    return re.sub(r"[^A-Za-z0-9_-]+", "_", canonical(perturb)).strip("_")


def _split(text: str) -> list[str]:
    if text.startswith("regex:"):
        return [text]
    before, found, pattern = text.partition("+regex:")
    return [*before.split("+"), *([f"regex:{pattern}"] if found else [])]


def _word(text: str) -> Word:
    name, colon, argument = text.partition(":")
    if name not in _NAMES:
        close = nearest(name, _NAMES)
        raise ValueError(f"unknown subset {shown(text)}; allowed: {_ALLOWED}{close}")
    if name in PLAIN:
        if colon:
            raise ValueError(f"subset {shown(text)}: {name} stands alone, without ':'")
        return Word(name)
    if name == "regex":
        return Word(name, pattern=_pattern(text, argument))
    if argument == "matched" and name in ELEMENTWISE:
        return Word(name)
    if not _DECIMAL.fullmatch(argument) or not 0 < Decimal(argument) <= 1:
        matched = f", or {name}:matched" if name in ELEMENTWISE else ""
        close = nearest(argument, ["matched"]) if matched else ""
        raise ValueError(
            f"subset {shown(text)} needs a decimal fraction: {name}:F with 0 < F <= 1{matched}"
            f"{close}"
        )
    return Word(name, fraction=Decimal(argument))


def _pattern(text: str, pattern: str) -> str:
    if not pattern:
        raise ValueError(
            f"subset {shown(text)} needs a regular expression behind ':', which is searched in the "
            "names of the parameters"
        )
    try:
        re.compile(pattern)
    except RecursionError:
        raise ValueError(f"subset {shown(text)}: nested too deeply") from None
    except (re.error, OverflowError) as error:
        raise ValueError(f"subset {shown(text)}: no regular expression: {error}") from None
    return pattern
