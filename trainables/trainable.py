"""Ray's view of the training: the only module here that knows Ray.

The process that drives a study imports this module too, so torch is imported where it is used.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import ray
from ray import tune

if TYPE_CHECKING:
    from trainables.data import Facts, Images
    from trainables.training import Training

_BUNDLE = 1.0
"""Seconds after which the epochs done since go to the driver."""
_WAIT = 0.2
"""Seconds that a step of a trial takes that only waits."""


@dataclass(frozen=True)
class Ending:
    """How a trial ended; scores as in study.records.End."""

    status: Literal["finished", "diverged"]
    reason: str
    scores: Mapping[str, float]


@dataclass(frozen=True)
class Report:
    """What a step reports: an epoch's metrics, and with the last one how the trial ended.

    No mapping, because Tune keeps statistics of every number that it finds in one.
    """

    trial: str
    metrics: Mapping[str, float]
    end: Ending | None = None


class SamTrainable(tune.Trainable):  # type: ignore[misc]
    """Trains one trial, an epoch a step; an actor goes on with the next trial.

    config: `threads`, and `trial`: its name, or None for one that only waits. A trial has also
    `training` (fields of training.Config), `facts` of the data set, and in lists, because Tune
    takes a bare reference for something to fill in, references to images: `pool` and, in the
    confirm stage alone, `test`. Each result holds a Report as `report`.
    """

    def setup(self, config: Mapping[str, Any]) -> None:
        """Builds the first trial."""
        self._begin(config)

    def reset_config(self, new_config: Mapping[str, Any]) -> bool:
        """Starts another trial in this process."""
        self._begin(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """One epoch. A trial whose losses are not finite ends with chance accuracy: diverged."""
        if self._training is None:
            time.sleep(_WAIT)
            return {"done": True}
        report = self._epoch(self._training)
        return {"report": report, "done": report.end is not None}

    def train_buffered(self, *limits: float) -> list[dict[str, Any]]:
        """Steps for about a second, so that short epochs do not wait for the driver one by one.

        limits: how long and how many, by Tune's settings; they are not read, because the order in
        which Tune passes them is not the one in which it declares them (ray 2.60).
        """
        until = time.monotonic() + _BUNDLE
        results = [self.train()]
        while not results[-1]["done"] and time.monotonic() < until:
            results.append(self.train())
        return results

    def _begin(self, config: Mapping[str, Any]) -> None:
        # Here also for a trial that only waits: to import it is most of what a process starts with.
        from trainables.training import Config, Training, deterministic

        self.config: dict[str, Any] = {}  # every result would carry it
        deterministic(config["threads"])
        self._training: Training | None = None
        if config["trial"] is None:
            return
        self._name: str = config["trial"]
        self._facts: Facts = config["facts"]
        [pool] = ray.get(config["pool"])
        self._test: Images | None = next(iter(ray.get(config["test"])), None)
        device = "cuda" if ray.get_gpu_ids() else "cpu"
        self._training = Training(Config(**config["training"]), pool, self._facts, device)

    def _epoch(self, training: Training) -> Report:
        from trainables.training import diverged, perturbed_share

        metrics = training.epoch()
        if training.done == 1:
            metrics["perturbed_share"] = perturbed_share(training.config, training.model)
        if diverged(metrics):
            return Report(self._name, metrics, self._diverged(training.done))
        if training.done < training.config.epochs:
            return Report(self._name, metrics)
        scores = {"validation_accuracy": metrics["validation_accuracy"]}
        if self._test is not None:
            scores |= training.test(self._test)
        return Report(self._name, metrics, Ending("finished", "", scores))

    def _diverged(self, epoch: int) -> Ending:
        chance = 100 / len(self._facts.classes)
        scores = {"validation_accuracy": chance}
        if self._test is not None:
            scores["test_accuracy"] = chance
        return Ending("diverged", f"diverged in epoch {epoch}", scores)
