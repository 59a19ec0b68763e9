"""Measures a few training steps of each arm, in a process of its own: `--plan --time`.

Reads one JSON object from stdin: place (as of loading.load_pool), configs (fields of
training.Config by arm), threads, gpu (whether to use one), workers (that share a batch). Writes one
to stdout: by arm, seconds of a step (median; of one worker, without what it tells the others),
steps an epoch and share, the percentage of parameters perturbed; or `error`, a line for the user.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import statistics
import sys
import time
from dataclasses import replace
from typing import Any

import torch

from trainables.config import Config
from trainables.loading import load_pool
from trainables.optimization import perturbed_share
from trainables.training import Training, deterministic

_WARM_UP, _MEASURED = 3, 8


def measure(training: Training) -> list[float]:
    """Seconds of each of a few steps, data preparation included, after a warm-up."""
    training.model.train()
    seconds: list[float] = []
    batches = itertools.chain.from_iterable(training.batches() for _ in itertools.count())
    while len(seconds) < _WARM_UP + _MEASURED:
        started = time.perf_counter()
        training.step(next(batches)).item()
        seconds.append(time.perf_counter() - started)
    return seconds[_WARM_UP:]


def main() -> None:
    """Answers the request on stdin."""
    request = json.load(sys.stdin)
    try:
        # Code of others may print: torchvision while it downloads, a user's own model.
        with contextlib.redirect_stdout(sys.stderr):
            answer = _measure_all(request)
    except ValueError as error:
        answer = {"error": str(error)}
    json.dump(answer, sys.stdout)


def _measure_all(request: dict[str, Any]) -> dict[str, Any]:
    deterministic(request["threads"])
    pool, facts = load_pool(request["place"])
    device = "cuda" if request["gpu"] and torch.cuda.is_available() else "cpu"
    workers, answer = request["workers"], {}
    for arm, fields in request["configs"].items():
        config = Config(**fields)
        own = replace(config, batch_size=config.batch_size // workers)
        training = Training(own, pool, facts, device)
        answer[arm] = {
            "seconds": statistics.median(measure(training)),
            "steps": training.steps // workers,
            "share": perturbed_share(config, training.model),
        }
    return answer


if __name__ == "__main__":
    main()
