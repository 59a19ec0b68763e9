"""Images a second from arrays and files to what a model takes, ours against torchvision's.

    python -m benchmarks.data_path [--rounds 10] [--images 4096] [--files 400] [--threads 1]
                                   [--json FILE]

Training: an epoch's batches through each base of `augment`, and in colour each policy, of 8x8 grey
images in batches of 64 and 32x32 colour images in batches of 128, as a trial draws them, against
the same transforms, sample by sample, in a DataLoader, in the trial's process and in two workers.
Evaluation: all images scored by
an untrained resnet8. Folder: JPEG photographs of 320x240 and PNG of 32x32, brought to 32x32:
the first time, when ours decodes and keeps them, every further start, when it reads what
it kept, and an epoch of torchvision's ImageFolder, which decodes in each.

Contestants take turns, so that whatever else the machine does falls on all of them. A ratio is that
of two runs of one round; told are medians over rounds with 95 % bootstrap intervals. Runs on a GPU
where there is one: batches have to arrive there.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import datasets, transforms

from benchmarks.measured import interval, load, told
from trainables import data
from trainables.augment import padding_for
from trainables.catalog.augmentations import IN_MEMORY
from trainables.config import Config
from trainables.data import Facts, Images
from trainables.training import Training

_CLASSES = 10
_SHAPES = {8: (1, 64), 32: (3, 128)}
"""Channels and images of a batch, by height and width."""
_EVALUATION_BATCH = 1024
_WORKERS = 2
_POLICIES = ("crop_flip+autoaugment", "crop_flip+randaugment")
_MEAN, _STD = 0.5, 0.25


@dataclass(frozen=True)
class Row:
    """A contestant at a piece of work. rate: images a second, median; low, high: its interval;
    ratios: ours to it, by round."""

    work: str
    contestant: str
    rate: float
    low: float
    high: float
    ratios: list[float]


class Samples(Dataset[tuple[Any, int]]):
    """Images as torchvision's own data sets hand them out: one by one, as PIL images."""

    def __init__(self, images: Images, transform: Any) -> None:
        self._images = images.images.transpose(0, 2, 3, 1)
        self._labels = images.labels.tolist()
        self._transform = transform

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        pixels = self._images[index]
        image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
        return self._transform(image), self._labels[index]


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--images", type=int, default=4096)
    parser.add_argument("--files", type=int, default=400)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    where = torch.cuda.get_device_name() if device == "cuda" else "cpu (no GPU here)"
    torch.set_num_threads(options.threads)
    before = load()
    print(f"torch {torch.__version__}, {where}, {options.threads} threads; load {before:.0f}")
    rows = list[Row]()
    for work, contestants in _arrays(options.images, device):
        rows += _timed(work, contestants, options.images, options.rounds, device)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = f"{folder}/cache"
        for work, contestants in _folders(Path(folder), options.files):
            rows += _timed(work, contestants, options.files, options.rounds, device)
    _show(rows)
    print(f"n = {options.rounds} rounds; {os.cpu_count()} cores, load {load():.0f} after")
    if options.json:
        plain = {"device": where, "threads": options.threads, "load": [before, load()]}
        plain["rows"] = [asdict(row) for row in rows]
        options.json.write_text(json.dumps(plain, indent=1) + "\n")


def _timed(
    work: str,
    contestants: Mapping[str, Callable[[], object]],
    images: int,
    rounds: int,
    device: str,
) -> list[Row]:
    """Every contestant at a piece of work, the first is ours. images: that one call takes."""
    rates: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(rounds + 1):
        for name, call in contestants.items():
            _wait(device)
            begun = time.perf_counter()
            call()
            _wait(device)
            if number:  # the first round only warms up
                rates[name].append(images / (time.perf_counter() - begun))
    ours = np.array(next(iter(rates.values())))
    return [
        Row(work, name, float(np.median(of)), *interval(of), (ours / np.array(of)).tolist())
        for name, of in rates.items()
    ]


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _show(rows: list[Row]) -> None:
    print(f"{'':54}{'images a second (95 %)':36}ours / this (95 %)")
    for row in rows:
        rate = f"{row.rate:,.0f} ({row.low:,.0f} to {row.high:,.0f})"
        print(f"{row.work + ', ' + row.contestant:54}{rate:36}{told(row.ratios)}")


def _arrays(count: int, device: str) -> Iterator[tuple[str, dict[str, Callable[[], object]]]]:
    """Training and evaluation on images in memory."""
    for size, (channels, batch) in _SHAPES.items():
        pixels = np.random.default_rng(0).integers(0, 256, (count, channels, size, size), np.uint8)
        images = Images(pixels, np.arange(count) % _CLASSES)
        for kind in (*IN_MEMORY, *(_POLICIES if channels == 3 else ())):
            training = _training(images, kind, batch, device)
            samples = Samples(images, _transform(kind, size, channels))
            yield (
                f"{size}x{size}, {kind}",
                {
                    "ours": partial(_epoch, training),
                    "DataLoader": partial(_drain, _loader(samples, batch, 0, device), device),
                    f"DataLoader, {_WORKERS} workers": partial(
                        _drain, _loader(samples, batch, _WORKERS, device), device
                    ),
                },
            )
        training = _training(images, "none", batch, device)
        plain = Samples(images, _transform("none", size, channels))
        scored = DataLoader(plain, _EVALUATION_BATCH, pin_memory=device == "cuda")
        yield (
            f"{size}x{size}, evaluation of a resnet8",
            {
                "ours": partial(training.test, images),
                "DataLoader": partial(_score, training.model, scored, device),
            },
        )


def _loader(samples: Samples, batch: int, workers: int, device: str) -> DataLoader[Any]:
    return DataLoader(
        samples,
        batch,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=device == "cuda",
    )


def _epoch(training: Training) -> None:
    """All of its batches, which are made on its device."""
    for _ in training.batches():
        pass


def _training(images: Images, kind: str, batch: int, device: str) -> Training:
    config = Config(
        model="resnet8",
        model_options={"width": 16},
        lr=0.1,
        momentum=0.9,
        weight_decay=5e-4,
        epochs=1,
        batch_size=batch,
        label_smoothing=0.0,
        variant="none",
        perturb="all",
        rho=None,
        train_size=None,
        validation_size=0,
        label_noise=0.0,
        augment=kind,
        seed=0,
    )
    count, channels, height, width = images.images.shape
    facts = Facts(
        classes=tuple(str(i) for i in range(_CLASSES)),
        shape=(channels, height, width),
        pool=count,
        test=None,
        hash="",
        undecodable=(),
        mean=(_MEAN,) * channels,
        std=(_STD,) * channels,
    )
    return Training(config, images, facts, device)


def _transform(kind: str, size: int, channels: int) -> Any:
    steps = list[Any]()
    if kind != "none":
        steps.append(transforms.RandomCrop(size, padding=padding_for(size)))
    if kind.startswith("crop_flip"):
        steps.append(transforms.RandomHorizontalFlip())
    if kind.endswith("autoaugment"):
        steps.append(transforms.AutoAugment(transforms.AutoAugmentPolicy.CIFAR10))
    if kind.endswith("randaugment"):
        steps.append(transforms.RandAugment())
    normalise = transforms.Normalize((_MEAN,) * channels, (_STD,) * channels)
    return transforms.Compose([*steps, transforms.ToTensor(), normalise])


def _drain(batches: Any, device: str) -> None:
    for images, labels in batches:
        images.to(device, non_blocking=True)
        labels.to(device, non_blocking=True)


@torch.inference_mode()
def _score(model: torch.nn.Module, loader: Any, device: str) -> Tensor:
    """Loss and number of correct answers, as anybody adds them up."""
    model.eval()
    totals = torch.zeros(2, device=device)
    for images, labels in loader:
        logits, truth = model(images.to(device)), labels.to(device)
        loss = torch.nn.functional.cross_entropy(logits, truth, reduction="sum")
        totals += torch.stack((loss, (logits.argmax(1) == truth).sum()))
    return totals


def _folders(folder: Path, count: int) -> Iterator[tuple[str, dict[str, Callable[[], object]]]]:
    """Images in files."""
    for name, suffix, width, height in (("photographs", "jpg", 320, 240), ("small", "png", 32, 32)):
        root = folder / name
        _write(root, count, suffix, width, height)

        steps = [transforms.Resize(32), transforms.CenterCrop(32), transforms.ToTensor()]
        found = datasets.ImageFolder(root / "train", transforms.Compose(steps))
        there = DataLoader(found, 128, num_workers=_WORKERS, persistent_workers=True)
        yield (
            f"{name}, {width}x{height} {suffix}",
            {
                "ours, first time": partial(_decode, root),
                "ours, from the cache": partial(_load, root),
                "ImageFolder": partial(_drain, DataLoader(found, 128), "cpu"),
                f"ImageFolder, {_WORKERS} workers": partial(_drain, there, "cpu"),
            },
        )


def _load(root: Path) -> None:
    """All images as a study loads them: their facts take a look at every pixel."""
    data.load_pool("imagefolder", root=root, image_size=32)


def _decode(root: Path) -> None:
    shutil.rmtree(os.environ["XDG_CACHE_HOME"], ignore_errors=True)
    _load(root)


def _write(root: Path, count: int, suffix: str, width: int, height: int) -> None:
    """Smooth random pictures in two classes, and one test image each, which is never opened."""
    draws = np.random.default_rng(0)
    for number in range(count + 2):
        part = "train" if number < count else "test"
        place = root / part / "ab"[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        coarse = draws.integers(0, 256, (height // 8, width // 8, 3), np.uint8)
        picture = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        picture.save(place / f"{number:05}.{suffix}")


if __name__ == "__main__":
    main()
