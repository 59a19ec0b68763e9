"""What an epoch has added up so far, how far it is, and what a step of it got right."""

from __future__ import annotations

import math
import time
from typing import Any

import torch
from torch import Tensor

from trainables.sam import LastStep


class Tally:
    """Sums over the steps of an epoch, kept on the device until the epoch is over.

    order: the images of each step, as indices into the training images [steps, batch_size].
    scaled: whether losses are scaled, so that a few skipped steps are no sign of trouble.
    """

    def __init__(self, order: Tensor, device: torch.device, *, scaled: bool) -> None:
        self.order = order
        self.step = 0
        self.seconds = 0.0
        self._scaled = scaled
        self._evaluations = 0.0
        self._totals = torch.zeros(4, dtype=torch.float64, device=device)

    @property
    def over(self) -> bool:
        """Whether all steps were taken."""
        return self.step == len(self.order)

    def add(self, loss: Tensor, correct: Tensor, taken: LastStep) -> None:
        """Counts a step. loss, correct: mean loss and share of right answers, on the device."""
        norm = taken.perturbation_norm.masked_fill(taken.skipped > 0, 0)
        self._totals += torch.stack((loss, correct, norm, taken.skipped))
        self._evaluations += taken.gradient_evaluations
        self.step += 1

    def spend(self, started: float, among: int = 1) -> None:
        """Counts the seconds since `started`, by time.perf_counter, as shared among so many
        trainings; waits for the device where the epoch is over."""
        if self.over:
            self._totals.cpu()
        self.seconds += (time.perf_counter() - started) / among

    def read(self) -> dict[str, float]:
        """Metrics of the training by their MLflow names; the loss is NaN where training broke."""
        loss, accuracy, moved, skipped = (self._totals / self.step).tolist()
        # A scaler skips steps while it looks for its scale; one that skips all finds none.
        broken = skipped == 1 if self._scaled else skipped > 0
        return {
            "train_loss": math.nan if broken else loss,
            "train_accuracy": 100 * accuracy,
            "perturbation_norm": moved / (1 - skipped) if skipped < 1 else math.nan,
            "gradient_evaluations": self._evaluations,
            "seconds_per_epoch": self.seconds,
        }

    def state_dict(self) -> dict[str, Any]:
        """Everything that it holds."""
        return {
            "order": self.order,
            "step": self.step,
            "seconds": self.seconds,
            "evaluations": self._evaluations,
            "totals": self._totals,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a state of the same order."""
        self.step, self.seconds = state["step"], state["seconds"]
        self._evaluations = state["evaluations"]
        self._totals = state["totals"].to(self._totals.device)


class Answers:
    """How many images of a step's batch the model has right at w. images: of the batch."""

    def __init__(self, images: int) -> None:
        self._images = images
        self._right: Tensor | None = None
        self._seen: dict[int, int] = {}

    def look(self, logits: Tensor, labels: Tensor) -> None:
        """Takes a forward pass over a slice of the batch."""
        # Of several forward passes over a slice of the batch the first is the one at w; a slice is
        # known by its address, because a variant may hand over the slices in any order.
        slice_, seen = labels.data_ptr(), sum(self._seen.values())
        if slice_ not in self._seen and seen < self._images:
            # Of a mixture, the larger part.
            truth = labels if labels.ndim == 1 else labels.argmax(1)
            right = (logits.detach().argmax(1) == truth).sum()
            self._right = right if self._right is None else self._right + right
            self._seen[slice_] = len(labels)

    def share(self, processes: int) -> Tensor:
        """This process's part of the share that was right, on the device."""
        assert self._right is not None
        return self._right / (sum(self._seen.values()) * processes)
