"""Ray's view of the training: the only module here that knows Ray.

The process that drives a study imports this module too, so torch is imported where it is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ray
from ray import tune

from trainables.data import Facts, Images


class SamTrainable(tune.Trainable):  # type: ignore[misc]
    """Trains one trial, an epoch a step; an actor goes on with the next trial.

    config: `training` (fields of training.Config), `threads`, and `test`: None in the search stage,
    in the confirm stage a list with the reference of the test images. load: a dict with the
    reference `pool` (Images) and the plain `facts`.
    Each result holds `metrics` of the epoch; the last one also `end`: status, reason, scores.
    """

    def setup(self, config: Mapping[str, Any], load: Mapping[str, Any]) -> None:
        """Reads the shared arrays, without a copy, and builds the first trial."""
        self._pool: Images = ray.get(load["pool"])
        self._facts: Facts = load["facts"]
        self._begin(config)

    def reset_config(self, new_config: Mapping[str, Any]) -> bool:
        """Starts another trial in this process."""
        self._begin(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """One epoch. A trial whose losses are not finite ends with chance accuracy: diverged."""
        from trainables import training

        metrics = self._training.epoch()
        if self._training.done == 1:
            metrics["perturbed_share"] = training.perturbed_share(
                self._training.config, self._training.model
            )
        if training.diverged(metrics):
            return {"metrics": metrics, "end": self._diverged(), "done": True}
        if self._training.done < self._training.config.epochs:
            return {"metrics": metrics}
        scores = {"validation_accuracy": metrics["validation_accuracy"]}
        if self._test is not None:
            scores |= self._training.test(self._test)
        end = {"status": "finished", "reason": "", "scores": scores}
        return {"metrics": metrics, "end": end, "done": True}

    def _begin(self, config: Mapping[str, Any]) -> None:
        from trainables.training import Config, Training, deterministic

        deterministic(config["threads"])
        self._test: Images | None = ray.get(config["test"][0]) if config["test"] else None
        device = "cuda" if ray.get_gpu_ids() else "cpu"
        self._training = Training(Config(**config["training"]), self._pool, self._facts, device)

    def _diverged(self) -> dict[str, Any]:
        chance = 100 / len(self._facts.classes)
        scores = {"validation_accuracy": chance}
        if self._test is not None:
            scores["test_accuracy"] = chance
        return {
            "status": "diverged",
            "reason": f"diverged in epoch {self._training.done}",
            "scores": scores,
        }
