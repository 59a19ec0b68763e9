"""The word that a mistyped one was meant to be."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(word: object, allowed: Iterable[str]) -> str:
    """'; did you mean X?' for the allowed word closest to `word`, or nothing."""
    close = difflib.get_close_matches(str(word), list(allowed), n=1)
    return f"; did you mean '{close[0]}'?" if close else ""
