"""The images that a trial trains on, batch by batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainables import data
from trainables.augment import Augmentation, windows
from trainables.config import Config
from trainables.data import Facts, Split
from trainables.sources import Source, as_tensor
from trainables.team import Team


class Feed:
    """Order and augmentation of a trial's training images.

    source: of the pool, of which the split takes its part. team: of which this process trains on
    its part of each batch. Raises ValueError where there is no whole batch.
    """

    def __init__(
        self,
        config: Config,
        source: Source,
        split: Split,
        facts: Facts,
        device: torch.device,
        team: Team,
    ) -> None:
        self.steps = len(split.train) // config.batch_size
        if not self.steps:
            raise ValueError(
                f"batch_size {config.batch_size} is more than the {len(split.train)} training "
                "images"
            )
        self.augmentation = Augmentation(config.augment, facts, device, config.seed)
        self._seed, self._size = config.seed, config.batch_size
        self._source = source
        self._team, self._slices = team, config.accumulate
        self._device = device
        self._train = as_tensor(split.train, device)
        self._labels = as_tensor(split.train_labels, device)
        self._order = torch.Generator().manual_seed(data.stream(config.seed, "order"))

    def draw(self) -> Tensor:
        """The order of an epoch: positions in the split, int64 [steps, batch]."""
        size = self.steps * self._size
        order = torch.randperm(len(self._train), generator=self._order)[:size].to(self._device)
        return order.view(self.steps, -1)

    def batches(self, order: Tensor, epoch: int, first: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Images, augmented and normalised, and labels, in the order of an epoch from its step
        `first` on."""

        def draws(batch: int) -> np.ndarray[Any, Any]:
            return windows(self._seed, epoch, first + batch, self._size)

        rest = order[first:]
        found = self._source.batches(
            list(self._train[rest]), draws if self.augmentation.cuts_windows else None
        )
        for chosen, images in zip(rest, found, strict=True):
            yield self.augmentation(
                images, self._labels[chosen], lambda each: self._team.part(each, self._slices)
            )

    def plain(self) -> Iterator[tuple[Tensor, Tensor]]:
        """All images of the split in its order, without augmentation, for variants that look at
        them."""
        found = self._source.batches(torch.split(self._train, self._size))
        for images, labels in zip(found, torch.split(self._labels, self._size), strict=True):
            yield self.augmentation.normalised(images), labels

    def state_dict(self) -> dict[str, Any]:
        """Where its draws are."""
        return {"order": self._order.get_state(), "augmentation": self.augmentation.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from there."""
        self._order.set_state(state["order"])
        self.augmentation.load_state_dict(state["augmentation"])
