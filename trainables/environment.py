"""What must be the same wherever trials of a study run: versions of the packages that compute."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from functools import lru_cache
from importlib import metadata


def check(wanted: Mapping[str, str]) -> None:
    """Raises RuntimeError, one line, where a version is not the one that the study has.

    wanted: by package, and by 'python'. A node that joins a cluster late is met here first.
    """
    other = [f"{k} {_found(k)}, not {wanted[k]}" for k in wanted if _found(k) != wanted[k]]
    if other:
        raise RuntimeError(
            f"node {platform.node()} has other versions than the study, so its numbers would "
            f"differ: {'; '.join(other)}"
        )


@lru_cache
def _found(key: str) -> str:
    if key == "python":
        return platform.python_version()
    try:
        return metadata.version(key)
    except metadata.PackageNotFoundError:
        return "not installed"
