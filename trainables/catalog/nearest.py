"""The word that a mistyped one was meant to be."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_SHOWN = 80
"""Characters of a wrong value that are shown; the rest of 90,000 helps nobody."""


def shown(value: object) -> str:
    """A value as it is shown to who wrote it: its repr, cut where it is long."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def nearest(word: object, allowed: Iterable[str]) -> str:
    """'; did you mean X?' for the allowed word closest to `word`, or nothing."""
    close = difflib.get_close_matches(str(word), list(allowed), n=1)
    return f"; did you mean '{close[0]}'?" if close else ""
