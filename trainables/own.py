"""A user's own code, named by import path: MODULE:CALLABLE."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any


def call(path: str, *arguments: Any, **options: Any) -> Any:
    """What the callable at `path` returns for these arguments.

    Raises ValueError, one line, where it cannot be imported, is no callable, or raises.
    """
    made = _find(path)
    try:
        return made(*arguments, **options)
    except Exception as error:  # whatever the user's code raises, the user is to read it
        raise ValueError(f"{path} raised {told(error)}") from error


def told(error: Exception) -> str:
    """An exception in one line."""
    return ": ".join(part for part in (type(error).__name__, " ".join(str(error).split())) if part)


def _find(path: str) -> Callable[..., Any]:
    module_name, _, name = path.partition(":")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # a module runs the user's code too
        if isinstance(error, ModuleNotFoundError) and _on_the_way(error.name, module_name):
            raise ValueError(
                f"{path}: no module {error.name!r} in {Path.cwd()} or where else Python looks "
                "(PYTHONPATH, installed packages)"
            ) from None
        raise ValueError(f"importing {module_name} raised {told(error)}") from error
    if not hasattr(module, name):
        near = difflib.get_close_matches(name, vars(module), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"{path}: module {module_name} has no attribute {name!r}{hint}")
    made = getattr(module, name)
    if not callable(made):
        raise ValueError(f"{path} is no callable but of type {type(made).__name__}")
    found: Callable[..., Any] = made
    return found


def _on_the_way(missing: str | None, wanted: str) -> bool:
    """Whether `missing` is the module asked for or a package around it, not one that it imports."""
    return missing is not None and f"{wanted}.".startswith(f"{missing}.")
