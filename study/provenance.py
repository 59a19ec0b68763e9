"""What produced a result: versions and commit."""

from __future__ import annotations

import hashlib
import platform
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

COMMIT = "commit"
"""File beside the packages that names their commit, where they were sent to a cluster."""

_PACKAGES = ("sam-study", "torch", "torchvision", "timm", "ray", "optuna", "mlflow", "numpy")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide a number."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def was_sent() -> bool:
    """Whether this code was sent to a cluster with a study."""
    return (Path(__file__).resolve().parent.parent / COMMIT).is_file()


def changes(then: Mapping[str, str], commit_then: str) -> list[str]:
    """What differs between the code and versions of another execution and these."""
    before, now = {**then, "commit": commit_then}, {**versions(), "commit": commit()}
    return [f"{key} {before.get(key)} -> {now[key]}" for key in now if now[key] != before.get(key)]


def code() -> str:
    """A digest of this program's own modules, whether or not they are in a checkout."""
    digest = hashlib.sha256()
    root = Path(__file__).resolve().parent.parent
    for package in ("study", "trainables"):
        for path in sorted((root / package).rglob("*.py")):
            digest.update(f"{path.relative_to(root)}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def commit() -> str:
    """The git commit of this code, with '+changes' where files differ; '' where it is unknown."""
    here = Path(__file__).resolve().parent
    if was_sent():
        return (here.parent / COMMIT).read_text()
    if not _git(here, "ls-files", "--", "provenance.py"):
        return ""
    changed = _git(here, "status", "--porcelain", "--untracked-files=no", "--", str(here.parent))
    return _git(here, "rev-parse", "HEAD") + ("+changes" if changed else "")


def _git(folder: Path, *arguments: str) -> str:
    try:
        return subprocess.run(  # noqa: S603
            ["git", "-C", str(folder), *arguments],  # noqa: S607
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
