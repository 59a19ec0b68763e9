"""What a user names by import path: a model or a data set of one's own."""

from __future__ import annotations

import re

OWN = "MODULE:CALLABLE"
_IDENTIFIER = r"[^\W\d]\w*"
_IMPORT_PATH = re.compile(rf"{_IDENTIFIER}(\.{_IDENTIFIER})*:{_IDENTIFIER}")


def is_own(name: object) -> bool:
    """Whether a model or data set is named by import path, as in my_package.nets:make_net."""
    return isinstance(name, str) and _IMPORT_PATH.fullmatch(name) is not None
