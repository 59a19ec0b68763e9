"""A confirmed model as it was when its training ended, with the images that it is measured on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainables import data, optimization, randomness
from trainables.augment import normalise
from trainables.checkpoint import unpacked
from trainables.config import Config
from trainables.data import Facts, Images
from trainables.sam import perturbed_parameters
from trainables.sources import as_tensor, source
from trainables.storage import open_storage, weights_of
from trainables.streaming import AnyImages
from trainables.training import build

BATCH = 128
_WORDS = {"all": "all", "norm": "norm", "rest": "no_norm"}

Batch: TypeAlias = tuple[Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class Subject:
    """A model in evaluation mode, none of whose parameters asks for a gradient.

    parts: names of the parameters that learned (all), of those of normalization layers among them
    (norm) and of the others (rest); a part that would be empty is not there. train: positions in
    the pool of its training images, in the order of its split; labels: those it trained on.
    """

    model: nn.Module
    parts: Mapping[str, tuple[str, ...]]
    config: Config
    device: torch.device
    mean: Tensor
    std: Tensor
    pool: AnyImages
    train: np.ndarray[Any, Any]
    labels: np.ndarray[Any, Any]

    def training_batches(self, most: int) -> list[Batch]:
        """Up to `most` training images in batches of 128, normalised, not augmented.

        The first of the split, whose order is random. An incomplete last batch is left out, unless
        it is the only one.
        """
        count = min(most, len(self.train))
        whole = count // BATCH * BATCH or count
        chosen, labels = self.train[:whole], self.labels[:whole]
        return list(self._batches(Images(self.pool.images[chosen], labels), BATCH))

    def test_batches(self, images: AnyImages) -> Iterator[Batch]:
        """Test images in the batches of training, so that scores come out with the same bits."""
        return self._batches(images, self.config.eval_batch)

    def test_pixels(self, images: AnyImages) -> Iterator[Batch]:
        """Test images as float32 in 0 ... 1, not yet normalised."""
        for inputs, labels in self._cut(images, self.config.eval_batch):
            yield inputs.float() / 255, labels

    def standardised(self, pixels: Tensor) -> Tensor:
        """What the model takes, from images in 0 ... 1."""
        divisor = torch.where(self.std == 0, 1, self.std)
        return (pixels - self.mean[:, None, None]) / divisor[:, None, None]

    def logits(self, inputs: Tensor) -> Tensor:
        """Of normalised images, in the precision of the training."""
        with optimization.autocast(self.device, self.config.precision):
            found: Tensor = self.model(inputs)
        return found.float()

    @torch.inference_mode()
    def score(self, batches: Iterator[Batch] | list[Batch]) -> tuple[float, float]:
        """Mean cross-entropy and accuracy in percent."""
        totals, count = torch.zeros(2, dtype=torch.float64, device=self.device), 0
        for inputs, labels in batches:
            logits = self.logits(inputs)
            loss = F.cross_entropy(logits, labels, reduction="sum")
            totals += torch.stack((loss, (logits.argmax(1) == labels).sum()))
            count += len(labels)
        loss_sum, correct = (totals / count).tolist()
        return loss_sum, 100 * correct

    def generator(self, *which: int) -> torch.Generator:
        """What a measure draws from, on the device. which: two numbers that say for what."""
        seed = data.stream(self.config.seed, "measure", *which)
        return torch.Generator(self.device).manual_seed(seed)

    def _batches(self, images: AnyImages, size: int) -> Iterator[Batch]:
        for inputs, labels in self._cut(images, size):
            yield normalise(inputs, self.mean, self.std), labels

    def _cut(self, images: AnyImages, size: int) -> Iterator[Batch]:
        every = torch.arange(len(images.labels), device=self.device)
        found = source(images.images, self.device).batches(torch.split(every, size))
        labels = torch.split(as_tensor(images.labels, self.device), size)
        return zip(found, labels, strict=True)


def load(
    trial: str, config: Config, storage: str, pool: AnyImages, facts: Facts, device: str
) -> Subject:
    """The model of a confirm run, from the weights that it left. trial: STUDY/ARM/confirm/INDEX.

    Seeds the global generators. Raises FileNotFoundError where there are no weights, ValueError
    where they are damaged or those of another run, OSError where they cannot be read.
    """
    state = _weights(trial, config, storage, facts)
    # A user's own model may draw from them, also in evaluation mode.
    randomness.seed_all(data.stream(config.seed, "measure", 0, 0))
    model = build(config, facts)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"the weights of {trial} do not fit its model, whose code must have changed since: "
            f"{reason}"
        ) from None
    parts = _parts(model)
    split = data.split(
        pool.labels,
        classes=len(facts.classes),
        seed=config.seed,
        train_size=config.train_size,
        validation_size=config.validation_size,
        label_noise=config.label_noise,
    )
    on = torch.device(device)
    return Subject(
        model.to(on).eval().requires_grad_(False),
        parts,
        config,
        on,
        torch.tensor(facts.mean, device=on),
        torch.tensor(facts.std, device=on),
        pool,
        split.train,
        split.train_labels,
    )


def _parts(model: nn.Module) -> dict[str, tuple[str, ...]]:
    found = {}
    for part, word in _WORDS.items():
        try:
            found[part] = tuple(name for name, _ in perturbed_parameters(model, word))
        except ValueError:  # nothing of that kind learns
            continue
    return found


def _weights(trial: str, config: Config, storage: str, facts: Facts) -> Mapping[str, Any]:
    try:
        found = unpacked(open_storage(storage).read(weights_of(trial)))
    except FileNotFoundError:
        raise FileNotFoundError(
            f"the weights of {trial} are not there: no {weights_of(trial)} in {storage}"
        ) from None
    except ValueError as error:
        raise ValueError(f"the weights of {trial} cannot be used: {error}") from None
    kept = found.get("of", {})
    wanted: list[tuple[str, str, Callable[[], str]]] = [
        ("config", "settings", lambda: repr(asdict(config))),
        ("data", "data", lambda: facts.hash),
    ]
    other = [word for key, word, now in wanted if kept.get(key) != now()]
    if other:
        raise ValueError(
            f"the weights of {trial} are those of a run with other {' and other '.join(other)}"
        )
    state: Mapping[str, Any] = found["model"]
    return state
