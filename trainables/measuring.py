"""Measures confirmed models: what a Ray task of the study calls. Imports torch only when called."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from trainables.catalog import MEASURES
from trainables.measures.row import Row

if TYPE_CHECKING:
    from trainables.data import Facts
    from trainables.streaming import AnyImages

__all__ = ["Row", "measure"]


def measure(
    what: str,
    trial: str,
    training: Mapping[str, Any],
    storage: str,
    pool: AnyImages,
    facts: Facts,
    test: AnyImages,
    device: str,
    threads: int,
    against: str | None = None,
    against_training: Mapping[str, Any] | None = None,
) -> tuple[Row, ...]:
    """What is measured on the weights that a confirm run left; the same bits in every run.

    what: one of catalog.MEASURES. trial, training: the run, STUDY/ARM/confirm/INDEX, and the
    fields of its Config; against, against_training: of the run at the other end, for `line` alone.
    storage: as open_storage takes it. Raises ValueError for anything else, and for weights that
    are damaged or not those of this run; OSError for those that are not there or cannot be read.
    """
    if what not in MEASURES:
        raise ValueError(f"nothing is known to measure as {what!r}; known: {', '.join(MEASURES)}")
    if (what == "line") != (against is not None and against_training is not None):
        raise ValueError("line takes two runs, every other measure one")
    from trainables.config import Config
    from trainables.measures import hessian, histograms, line, robustness, sharpness, subject
    from trainables.training import deterministic

    deterministic(threads)

    def loaded(name: str, fields: Mapping[str, Any]) -> subject.Subject:
        return subject.load(name, Config(**fields), storage, pool, facts, device)

    one = loaded(trial, training)
    match what:
        case "sharpness":
            return (*sharpness.sharpness(one), *hessian.hessian(one))
        case "corruptions":
            return tuple(robustness.corruptions(one, test))
        case "pgd":
            return tuple(robustness.pgd(one, test))
        case "histograms":
            return tuple(histograms.histograms(one))
        case _:
            assert against is not None
            assert against_training is not None
            return tuple(line.line(one, loaded(against, against_training), test))
