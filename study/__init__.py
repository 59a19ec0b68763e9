"""The study: arms, searches, verdicts. Knows Ray, Optuna and MLflow; never imports torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from os import PathLike

    from study.frames import Frames


def load(name: str, out: str | PathLike[str] = "studies") -> Frames:
    """The trials, epochs and verdict of a study as pandas frames; see study.frames.

    out: the folder of all studies. The study may still run. Raises SpecError where there is none.
    """
    from study import frames  # imports pandas

    return frames.load(name, out)
