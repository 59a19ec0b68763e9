"""Ray's view of the training: the only module here that knows Ray.

The process that drives a study imports this module too, so torch is imported where it is used.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import ray
from ray import tune

if TYPE_CHECKING:
    from trainables.trial import TrialRun

_BUNDLE = 1.0
"""Seconds after which the epochs done since go to the driver."""
_SLICE = 3.0
"""Seconds after which a sign of life goes there in the middle of an epoch."""
_WAIT = 0.2
"""Seconds that a step of a trial takes that only waits."""


class SamTrainable(tune.Trainable):  # type: ignore[misc]
    """Trains one trial, an epoch or a part of it a step; an actor goes on with the next trial.

    config: `threads`, and `trial`: its name, or None for one that only waits. A trial has also
    `training` (fields of training.Config), `keeping` (of trial.Keeping), `facts` of the data set,
    and in lists, because Tune takes a bare reference for something to fill in, references to
    images: `pool` and, in the confirm stage alone, `test`. Each result holds a trial.Report as
    `report`.
    """

    _trial: Mapping[str, Any]
    _run: TrialRun | None

    def setup(self, config: Mapping[str, Any]) -> None:
        """Takes the first trial; its work begins in `step`, where a failure can be told."""
        self._take(config)

    def reset_config(self, new_config: Mapping[str, Any]) -> bool:
        """Takes another trial in this process."""
        self._take(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """One epoch, or what can be done of it in a few seconds."""
        if self._trial["trial"] is None:
            from trainables import trial  # noqa: F401  most of what a process starts with

            time.sleep(_WAIT)
            return {"report": None, "done": True}
        if self._run is None:
            self._run = self._begin(self._trial)
        report = self._run.step(time.monotonic() + _SLICE)
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

    def keep(self) -> None:
        """Writes a checkpoint of the trial under way: the study stops."""
        if self._run is not None:
            self._run.keep()

    def _take(self, config: Mapping[str, Any]) -> None:
        self._trial = config
        self._run = None
        self.config: dict[str, Any] = {}  # every result would carry it

    @staticmethod
    def _begin(config: Mapping[str, Any]) -> TrialRun:
        from trainables.config import Config
        from trainables.training import deterministic
        from trainables.trial import Keeping, TrialRun

        deterministic(config["threads"])
        [pool] = ray.get(config["pool"])
        return TrialRun(
            config["trial"],
            Config(**config["training"]),
            Keeping(**config["keeping"]),
            pool,
            config["facts"],
            next(iter(ray.get(config["test"])), None),
            "cuda" if ray.get_gpu_ids() else "cpu",
        )
