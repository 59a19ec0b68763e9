"""The training loop of one trial, plain PyTorch: usable without Ray."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainables import data, optimization, randomness
from trainables.catalog import VARIANTS
from trainables.config import Config
from trainables.data import Correct, Facts
from trainables.diagnostics import Diagnostics
from trainables.feed import Feed
from trainables.models import make_model
from trainables.sam import SharpnessAware
from trainables.sam.memory import on_device
from trainables.sources import Source, as_tensor, source
from trainables.streaming import AnyImages
from trainables.tally import Answers, Tally
from trainables.team import Team


def deterministic(threads: int) -> None:
    """Makes this process compute the same bits in every run: fixed algorithms, fixed threads."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    torch.set_num_threads(threads)


def build(config: Config, facts: Facts) -> nn.Module:
    """The untrained model of a trial, frozen but for what learns.

    Raises ValueError where it does not fit the data set, or nothing would learn.
    """
    channels, height, _ = facts.shape
    model = make_model(
        config.model,
        num_classes=len(facts.classes),
        in_channels=channels,
        image_size=height,
        **config.model_options,
    )
    optimization.freeze(model, config.train)
    if config.channels_last:
        model = model.to(memory_format=torch.channels_last)
    return model


class Training:
    """One trial: `epoch()` trains and validates, `test()` scores the test set.

    pool: images that are not test, kept on `device` as uint8 or in their files. team: the processes
    that train this trial, each with such an object; what it tells is of whole batches, the same in
    all. Raises ValueError where model, subset and data do not fit each other, or the team.
    """

    def __init__(
        self,
        config: Config,
        pool: AnyImages,
        facts: Facts,
        device: str = "cpu",
        team: Team | None = None,
    ) -> None:
        self.config = config
        self._team = Team() if team is None else team
        self.device = torch.device(device)
        self.done = 0
        self._split = data.split(
            pool.labels,
            classes=len(facts.classes),
            seed=config.seed,
            train_size=config.train_size,
            validation_size=config.validation_size,
            label_noise=config.label_noise,
        )
        self._images = source(pool.images, self.device)
        self._feed = Feed(config, self._images, self._split, facts, self.device, self._team)
        self.steps = self._feed.steps
        self._validation = as_tensor(self._split.validation, self.device)
        self._validation_labels = as_tensor(pool.labels[self._split.validation], self.device)

        # Model code draws from global generators: initialisation, and dropout later on.
        randomness.seed_all(data.stream(config.seed, "initialisation"))
        self.model = build(config, facts).to(self.device)
        self._network: Any = torch.compile(self.model) if config.compile else self.model
        self.optimizer = SharpnessAware(
            self._team.wrapped(self.model, config.options.get("m")),
            optimization.base_optimizer(self.model, config),
            variant=config.variant,
            perturb=config.perturb if VARIANTS[config.variant].geometry else "all",
            rho=config.rho,
            generator=torch.Generator().manual_seed(data.stream(config.seed, "perturbation")),
            **config.options,
        )
        self.optimizer.diagnose = "cosine" in config.diagnostics
        self._schedule = optimization.schedule(self.optimizer, config, self.steps)
        self._scaler = optimization.grad_scaler(self.device, config.precision)
        self._diagnostics = Diagnostics(config.diagnostics, self.model)
        self._average = optimization.moving_average(self.model, config.ema)
        self._tally: Tally | None = None
        self._answers = Answers(0)
        self._batches: Iterator[tuple[Tensor, Tensor]] | None = None

    def epoch(self) -> dict[str, float]:
        """Trains to the end of an epoch and validates: metrics by their MLflow names.

        Accuracies in percent. Losses are means over images; training loss and accuracy are measured
        at the weights w while they move, against the labels trained on; perturbation_norm and the
        diagnostics are means over the steps that were not skipped. seconds_per_epoch: of training
        alone.
        """
        metrics = self.advance(lambda: False)
        assert metrics is not None
        return metrics

    def advance(self, pause: Callable[[], bool]) -> dict[str, float] | None:
        """As `epoch`, but gives None where `pause()` says so after a step: call it again."""
        started = time.perf_counter()
        tally = self.begin()
        while not tally.over:
            self._seed(self._team.rank, self.done * self.steps + tally.step)
            self.count(self.step(self.next_batch()))
            if not tally.over and pause():
                tally.spend(started)
                return None
        tally.spend(started)
        return self.finish()

    def begin(self) -> Tally:
        """The epoch under way, or else a new one."""
        self.model.train()
        if self._tally is None:
            self._tally = self._new_tally(self._feed.draw())
            self._seed(self._team.count, self.done)  # a model that is looked at may draw, too
            self.optimizer.begin_epoch(
                self.done, self.config.epochs, self._feed.plain(), self._plain_losses
            )
        return self._tally

    def next_batch(self) -> tuple[Tensor, Tensor]:
        """As of `batches`, for the next step of the epoch under way."""
        assert self._tally is not None
        if self._batches is None:
            self._batches = self._feed.batches(self._tally.order, self.done, self._tally.step)
        return next(self._batches)

    def count(self, loss: Tensor) -> None:
        """Counts a step of the epoch under way. loss: what it returned."""
        assert self._tally is not None
        taken = self.optimizer.last_step
        share = self._answers.share(self._team.count)
        self._team.sum(share)
        self._tally.add(loss, share, taken)
        self._diagnostics.add(loss, taken)
        if self._average is not None:
            self._average.update(self.model)
        if self.config.schedule_per == "step":
            self._schedule.step()

    def finish(self) -> dict[str, float]:
        """Validates after an epoch whose steps are all taken: metrics as of `epoch`."""
        assert self._tally is not None
        if self.config.schedule_per == "epoch":
            self._schedule.step()
        trained = self._tally.read()
        self._tally = self._batches = None
        self.done += 1
        validation_loss, validation_accuracy = self._evaluate(
            self._images, self._validation, self._validation_labels
        )
        return {
            **trained,
            "validation_loss": validation_loss,
            "validation_accuracy": validation_accuracy,
            **self._diagnostics.read(),
        }

    @property
    def progress(self) -> float:
        """Epochs done, with the part of the one under way."""
        return self.done + (self._tally.step / self.steps if self._tally else 0)

    @property
    def scored(self) -> nn.Module:
        """What is validated, tested and kept: the model, or the moving average of its weights."""
        return self.model if self._average is None else self._average.module

    def state_dict(self) -> dict[str, Any]:
        """All that it takes to go on bit for bit: copies of tensors on the CPU, plain values."""
        state = {
            "tally": None if self._tally is None else self._tally.state_dict(),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": None if self._scaler is None else self._scaler.state_dict(),
            "diagnostics": self._diagnostics.state_dict(),
            "average": None if self._average is None else self._average.state_dict(),
            **self._feed.state_dict(),
            "random": randomness.state(self.device),
        }
        copies: dict[str, Any] = on_device(state, torch.device("cpu"))
        return {"done": self.done, "schedule": self._schedule.state_dict(), **copies}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from a state of a training with this config, on the same data."""
        self.done = state["done"]
        self._tally = self._batches = None
        if state["tally"] is not None:
            self._tally = self._new_tally(state["tally"]["order"].to(self.device))
            self._tally.load_state_dict(state["tally"])
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])
        if self._scaler is not None:
            self._scaler.load_state_dict(state["scaler"])
        self._diagnostics.load_state_dict(state["diagnostics"])
        if self._average is not None:
            self._average.load_state_dict(state["average"])
        self._feed.load_state_dict(state)
        randomness.restore(state["random"], self.device)

    def test(self, images: AnyImages) -> tuple[dict[str, float], Correct]:
        """Scores `images` with the weights of the last epoch: test_loss, test_accuracy, and which
        of them are right."""
        count = len(images.labels)
        every = torch.arange(count, device=self.device)
        right = torch.zeros(count, dtype=torch.uint8, device=self.device)
        labels = as_tensor(images.labels, self.device)
        loss, accuracy = self._evaluate(source(images.images, self.device), every, labels, right)
        correct = Correct(count, np.packbits(right.cpu().numpy()).tobytes())
        return {"test_loss": loss, "test_accuracy": accuracy}, correct

    def step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """One update of the weights with one of `batches`; the mean loss at w, on the device."""
        self.expect(len(batch[1]))
        return self.optimizer.step(
            self.losses,
            batch,
            scaler=self._scaler,
            clip_norm=self.config.clip_norm,
            accumulate=self.config.accumulate,
        )

    def expect(self, answers: int) -> None:
        """Begins to count the right ones among so many answers, those of a step."""
        self._answers = Answers(answers)

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """An epoch's batches of training images, augmented and normalised, with their labels."""
        return self._feed.batches(self._feed.draw(), self.done, 0)

    def _new_tally(self, order: Tensor) -> Tally:
        return Tally(order, self.device, scaled=self._scaler is not None)

    def _seed(self, *which: int) -> None:
        """Seeds what model code draws from, where processes must draw differently: by what they
        are about to do, so that a checkpoint need not hold where each of them was."""
        if self._team.count > 1:
            randomness.seed_all(data.stream(self.config.seed, "team", *which))

    def _plain_losses(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """`losses`, without a look at the accuracy."""
        images, labels = batch
        return self._cross_entropy(self._logits(self._network, images), labels)

    def _cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        smoothing = self.config.label_smoothing
        return F.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)

    def losses(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """One forward pass: label-smoothed cross-entropy of each image of a batch, [n]."""
        images, labels = batch
        return self.losses_of(labels, self._logits(self._network, images))

    def losses_of(self, labels: Tensor, logits: Tensor) -> Tensor:
        """As `losses`, from the logits of a forward pass [n, classes]."""
        self._answers.look(logits, labels)
        return self._cross_entropy(logits, labels)

    def _logits(self, network: nn.Module, images: Tensor) -> Tensor:
        with optimization.autocast(self.device, self.config.precision):
            logits: Tensor = network(images)
        return logits.float()

    @torch.inference_mode()
    def _evaluate(
        self, images: Source, chosen: Tensor, labels: Tensor, right: Tensor | None = None
    ) -> tuple[float, float]:
        """Mean cross-entropy and accuracy in percent, in evaluation mode, without augmentation.

        right: zeros as uint8, one an image; becomes 1 where it is right, in every process.
        """
        self.scored.eval()
        network = self._network if self._average is None else self.scored
        totals = torch.zeros(2, dtype=torch.float64, device=self.device)
        team = self._team
        size = self.config.eval_batch
        firsts = range(0, len(chosen), size)[team.rank :: team.count]
        ours = images.batches([chosen[first : first + size] for first in firsts])
        for first, part in zip(firsts, ours, strict=True):
            truth = labels[first : first + size]
            logits = self._logits(network, self._feed.augmentation.normalised(part))
            loss = F.cross_entropy(logits, truth, reduction="sum")
            correct = logits.argmax(1) == truth
            totals += torch.stack((loss, correct.sum()))
            if right is not None:
                right[first : first + size] = correct
        team.sum(totals)
        if right is not None:
            team.sum(right)
        loss_sum, share = (totals / len(labels)).tolist()
        return loss_sum, 100 * share


def diverged(metrics: Mapping[str, float]) -> bool:
    """Whether an epoch's losses say that training broke down: NaN, inf, or a skipped step."""
    return not (math.isfinite(metrics["train_loss"]) and math.isfinite(metrics["validation_loss"]))
