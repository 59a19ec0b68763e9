"""What benchmarks share: intervals, a process for each measurement, a word on the machine."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T")

_RESAMPLES = 2000


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Of the median: 95 %, by percentiles of 2,000 bootstrap samples of the values."""
    draws = np.random.default_rng(0).choice(np.array(values), (_RESAMPLES, len(values)))
    low, high = np.quantile(np.median(draws, axis=1), [0.025, 0.975])
    return float(low), float(high)


def told(values: Sequence[float], digits: int = 2) -> str:
    """Median and interval, as a table shows them."""
    low, high = interval(values)
    return f"{np.median(values):.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def apart(call: Callable[..., T], *arguments: Any) -> T:
    """What `call` returns, from a process of its own."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(call, *arguments).result()


def load() -> float:
    """How many processes wanted a core in the last minute."""
    return os.getloadavg()[0]
