"""What is wrong with a user's data, in a line."""

from __future__ import annotations

import unicodedata
from pathlib import Path


class DataError(ValueError):
    """A data set that cannot be used as asked; the message is for the user."""


def printable(name: str) -> str:
    """Unicode NFC, since file systems differ; bytes that are no UTF-8 as escapes."""
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return unicodedata.normalize("NFC", text)


def shown(path: str | Path) -> str:
    """A path or a part of one as a message shows it: on one line, whatever its characters."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in printable(str(path))
    )
