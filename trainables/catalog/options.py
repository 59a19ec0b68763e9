"""Options of a variant: what a value may be."""

from __future__ import annotations

import re
from dataclasses import dataclass

from trainables.catalog.nearest import shown


@dataclass(frozen=True)
class Option:
    """An option of a variant, given by name in an arm or as a keyword of SharpnessAware.

    default: its value when absent; None: not set. low, high: smallest and largest allowed number,
    `above` where low itself is not allowed. whole: no fractions. words: allowed words; with a
    number as default they stand beside numbers, else alone. share: a word to which ':F' is added,
    0 < F < 1.
    A bool default means that the option is a switch.
    """

    default: float | bool | str | None
    help: str
    low: float | None = None
    high: float | None = None
    above: bool = False
    whole: bool = False
    words: tuple[str, ...] = ()
    share: str = ""

    def problem(self, value: object) -> str | None:
        """What is wrong with `value`, or None. The text fits behind 'NAME: '."""
        if value is None and self.default is None:
            return None
        if isinstance(self.default, bool):
            return None if isinstance(value, bool) else f"{shown(value)} is not true or false"
        of_words = isinstance(self.default, str) or (self.default is None and self.words)
        if isinstance(value, str) or of_words:
            return self._word_problem(value)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return f"{shown(value)} is not a number"
        if self.whole and value != int(value):
            return f"{shown(value)} is not a whole number"
        if self.low is not None and not (value > self.low if self.above else value >= self.low):
            return f"{shown(value)} is {'not above' if self.above else 'below'} {self.low:g}"
        if self.high is not None and not value <= self.high:
            return f"{shown(value)} is above {self.high:g}"
        return None

    def _word_problem(self, value: object) -> str | None:
        if not self.words:
            return f"{shown(value)} is not a number"
        if value in self.words or share_of(value, self.share) is not None:
            return None
        allowed = [*self.words, *([f"{self.share}:F with 0 < F < 1"] if self.share else [])]
        number = "a number or " if isinstance(self.default, (int, float)) else ""
        return f"{shown(value)} is not {number}one of {', '.join(allowed)}"


def share_of(value: object, word: str) -> float | None:
    """F of 'word:F', or None where `value` has another form or F is not between 0 and 1."""
    if not word or not isinstance(value, str):
        return None
    found = re.fullmatch(rf"{word}:(\d+(?:\.\d+)?|\.\d+)", value)
    if found is None or not 0 < float(found[1]) < 1:
        return None
    return float(found[1])
