"""One trial from its first step or its last checkpoint to its end; knows nothing of Ray."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch

from trainables.checkpoint import Checkpoints, packed
from trainables.config import Config
from trainables.data import Correct, Facts
from trainables.optimization import perturbed_share
from trainables.sam.memory import on_device
from trainables.storage import checkpoints_of, open_storage, weights_of
from trainables.streaming import AnyImages
from trainables.team import Team
from trainables.training import Training, diverged


@dataclass(frozen=True)
class Keeping:
    """Where checkpoints lie, and when one is due: after so many epochs or seconds, whichever comes
    first. storage: as open_storage takes it."""

    storage: str
    epochs: int | None
    seconds: float | None


@dataclass(frozen=True)
class Ending:
    """How a trial ended; scores and correct as in study.records.End."""

    status: Literal["finished", "diverged"]
    reason: str
    scores: Mapping[str, float]
    correct: Correct | None = None


@dataclass(frozen=True)
class Report:
    """What a step of a trial tells: an epoch's metrics, and with the last one how the trial ended.

    epoch: from 1; None for a sign of life in the middle of one. progress: epochs done, with the
    part of the one under way. resumed: the progress from which a checkpoint went on, in the first
    report after that. notes: what the user should know.

    No mapping, because Tune keeps statistics of every number that it finds in one.
    """

    trial: str
    epoch: int | None
    metrics: Mapping[str, float]
    progress: float
    end: Ending | None = None
    resumed: float | None = None
    notes: tuple[str, ...] = ()


class TrialRun:
    """Trains a trial step by step, and keeps checkpoints.

    name: STUDY/ARM/STAGE/INDEX. test: images to score at the end, whose weights are kept then.
    team: the processes that train it, each with such an object: all step together, the first alone
    decides how far, and writes.
    slot: its place in a group of so many, which decides its last bits; None for a trial by itself.
    Goes on from the last usable checkpoint of this very trial, and reports the epochs before it
    again: who listens may have ended before they were written down.
    """

    def __init__(
        self,
        name: str,
        config: Config,
        keeping: Keeping,
        pool: AnyImages,
        facts: Facts,
        test: AnyImages | None,
        device: str,
        team: Team | None = None,
        clock: Callable[[], float] = time.monotonic,
        slot: tuple[int, int] | None = None,
    ) -> None:
        self.name = name
        self._team = Team() if team is None else team
        self._keeping = keeping
        self._classes = len(facts.classes)
        self._test = test
        self._clock = clock
        self.training = Training(config, pool, facts, device, self._team)
        # What decides the numbers: with the same of all that, a checkpoint is this trial's.
        self._of = {
            "config": repr(asdict(config)),
            "data": facts.hash,
            "device": device,
            "team": self._team.count,
            "torch": str(torch.__version__),
            **({} if slot is None else {"slot": slot}),
        }
        self._storage = open_storage(keeping.storage)
        self._checkpoints = Checkpoints(self._storage, checkpoints_of(name), self._of)
        self._history: list[dict[str, float]] = []
        self._told = 0
        self._resumed: float | None = None
        self._resume()
        self._kept_at, self._kept_epoch = clock(), self.training.done

    def step(self, until: float) -> Report:
        """An epoch, or what can be done of it until the clock says `until`."""
        if not self.behind:
            metrics = self.training.advance(lambda: self._team.agree(lambda: self.is_enough(until)))
            if metrics is None:
                return self.alive()
            self.learn(metrics)
        return self.tell()

    @property
    def behind(self) -> bool:
        """Whether an epoch was trained that no report has told of."""
        return self._told < len(self._history)

    def is_enough(self, until: float) -> bool:
        """Whether a step should end now, in the middle of an epoch."""
        return self._clock() >= until or self._seconds_are_over()

    def learn(self, metrics: dict[str, float]) -> None:
        """Takes the metrics of an epoch that was just trained."""
        training = self.training
        if training.done == 1:
            metrics["perturbed_share"] = perturbed_share(training.config, training.model)
        self._history.append(metrics)

    def tell(self) -> Report:
        """Reports the next epoch."""
        metrics = self._history[self._told]
        self._told += 1
        end = None if self.behind else self._ending(metrics)
        if end is None:
            self._keep_if_due()
        else:
            self._checkpoints.wait()
        return self._report(self._told, metrics, end)

    def alive(self) -> Report:
        """A sign of life in the middle of an epoch."""
        self._keep_if_due()
        return self._report(None, {})

    def keep(self) -> None:
        """Writes a checkpoint of where the trial is now, and waits for it; asked of the first."""
        if self.training.progress:
            self._save()
        self._checkpoints.wait()

    def _resume(self) -> None:
        # The same for all, whatever another attempt's process may still be writing.
        if (found := self._team.share(self._checkpoints.load)) is not None:
            self.training.load_state_dict(found["training"])
            self._history = found["history"]
            self._resumed = self.training.progress

    def _report(
        self, epoch: int | None, metrics: Mapping[str, float], end: Ending | None = None
    ) -> Report:
        resumed, self._resumed = self._resumed, None
        notes = tuple(self._checkpoints.notes)
        self._checkpoints.notes.clear()
        progress = self.training.progress
        return Report(self.name, epoch, metrics, progress, end, resumed, notes)

    def _ending(self, metrics: Mapping[str, float]) -> Ending | None:
        training = self.training
        if diverged(metrics):
            chance = 100 / self._classes
            scores = {"validation_accuracy": chance}
            if self._test is not None:
                scores["test_accuracy"] = chance
            return Ending("diverged", f"diverged in epoch {training.done}", scores)
        if training.done < training.config.epochs:
            return None
        scores = {"validation_accuracy": metrics["validation_accuracy"]}
        if self._test is None:
            return Ending("finished", "", scores)
        tested, correct = training.test(self._test)
        if self._team.first:
            self._keep_weights()
        return Ending("finished", "", scores | tested, correct)

    def _seconds_are_over(self) -> bool:
        seconds = self._keeping.seconds
        return seconds is not None and self._clock() - self._kept_at >= seconds

    def _keep_if_due(self) -> None:
        if not self._team.first:
            return
        epochs = self._keeping.epochs
        due = epochs is not None and self.training.done - self._kept_epoch >= epochs
        if (due or self._seconds_are_over()) and not self._checkpoints.busy:
            self._save()

    def _save(self) -> None:
        training = self.training
        content = {"training": training.state_dict(), "history": list(self._history)}
        self._checkpoints.save(f"{training.progress:012.6f}", content)
        self._kept_at, self._kept_epoch = self._clock(), training.done

    def _keep_weights(self) -> None:
        # Copies: a view, as in a group, would be written with all that it is a view of.
        whole = on_device(self.training.scored.state_dict(), torch.device("cpu"))
        content: dict[str, Any] = {"of": self._of, "model": whole}
        try:
            self._storage.write(weights_of(self.name), packed(content))
        except OSError as error:
            self._checkpoints.notes.append(f"weights of {self.name} were not kept: {error}")
