"""A folder of photographs that stays in its files: images a second, and who waits for whom.

    python -m benchmarks.streaming [--rounds 10] [--files 384] [--threads 1] [--json FILE]

JPEG files of 500x375, smooth with some noise, brought to 224x224 as `resized_crop_flip`: an epoch's
batches of 64 as a streamed trial makes them, against torchvision's RandomResizedCrop and flip on an
ImageFolder in a DataLoader, in the same process and in as many workers as ours has threads. Then an
epoch of SAM-ON on a resnet18 of timm, on 64x64 windows of the same files streamed (`crop_flip`),
against the same images in memory: near 1 the files cost the training nothing. With several threads
also the first batches again, by processes as a trial with several cores has them, and by as many
threads, while the thread that takes them launches 4,000 small operations a batch, as one does that
has a GPU to feed.

Contestants take turns; a ratio is that of two runs of one round; medians with 95 % bootstrap
intervals. Training runs on a GPU where there is one.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

from benchmarks.measured import load, told
from trainables import data, folder
from trainables.augment import windows
from trainables.config import Config
from trainables.data import Facts
from trainables.decoders import decoders
from trainables.streaming import AnyImages
from trainables.training import Training

_BATCH = 64
_OPERATIONS = 4_000
_LARGE, _SMALL = 224, 64


def main() -> None:
    """Measures, prints a table, writes JSON."""
    parser = argparse.ArgumentParser(prog="benchmarks.streaming", description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--files", type=int, default=384)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    where = torch.cuda.get_device_name() if device == "cuda" else "cpu (no GPU here)"
    torch.set_num_threads(options.threads)
    before = load()
    print(f"torch {torch.__version__}, {where}, {options.threads} threads; load {before:.0f}")
    found: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as place:
        os.environ["XDG_CACHE_HOME"] = f"{place}/cache"
        root = Path(place) / "photographs"
        _write(root, options.files)
        works = {
            "batches of 224x224": _batches(root, options.threads),
            "an epoch of SAM-ON": _epochs(root, device),
        }
        if options.threads > 1:
            works["beside a busy thread"] = _beside(root, options.threads)
        for work, contestants in works.items():
            found[work] = _timed(contestants, options.files, options.rounds, device)
    for work, rates in found.items():
        first = np.array(next(iter(rates.values())))
        for name, of in rates.items():
            ratio = told((first / np.array(of)).tolist())
            print(f"{work + ', ' + name:48}{told(of, 0):28} ours / this {ratio}")
    print(
        f"images a second; n = {options.rounds} rounds; {os.cpu_count()} cores, load {load():.0f}"
    )
    if options.json:
        plain = {"device": where, "threads": options.threads, "load": [before, load()], **found}
        options.json.write_text(json.dumps(plain, indent=1) + "\n")


def _batches(root: Path, threads: int) -> Mapping[str, Callable[[], object]]:
    files, facts = folder.stream_pool("imagefolder", root, _LARGE, None)
    training = _training(files, facts, "resized_crop_flip", "cpu")
    steps = [transforms.RandomResizedCrop(_LARGE), transforms.RandomHorizontalFlip()]
    normalise = transforms.Normalize(facts.mean, facts.std)
    whole = transforms.Compose([*steps, transforms.ToTensor(), normalise])
    found = datasets.ImageFolder(root / "train", whole)
    workers = DataLoader(found, _BATCH, True, num_workers=threads, persistent_workers=True)
    return {
        "ours": lambda: [None for _ in training.batches()],
        "DataLoader": lambda: [None for _ in DataLoader(found, _BATCH, True)],
        f"DataLoader, {threads} workers": lambda: [None for _ in workers],
    }


def _beside(root: Path, threads: int) -> Mapping[str, Callable[[], object]]:
    images = folder.stream_pool("imagefolder", root, _LARGE, None)[0].images
    count = len(images.which)
    positions = [np.arange(i, min(i + _BATCH, count)) for i in range(0, count, _BATCH)]

    def taken(by: Executor | int) -> None:
        small = torch.zeros(8)
        for _ in images.batches(
            positions, by, lambda batch: windows(0, 0, batch, len(positions[batch]))
        ):
            for _ in range(_OPERATIONS):
                small = small + 1

    return {
        "processes": lambda: taken(decoders(threads)),
        "threads": lambda: taken(threads),
    }


def _epochs(root: Path, device: str) -> Mapping[str, Callable[[], object]]:
    files, facts = folder.stream_pool("imagefolder", root, _SMALL, None)
    held, _ = data.load_pool("imagefolder", root=root, image_size=_SMALL)
    return {
        name: partial(_train, _training(images, facts, "crop_flip", device))
        for name, images in (("streamed", files), ("in memory", held))
    }


def _train(training: Training) -> None:
    training.model.train()
    for batch in training.batches():
        training.step(batch)


def _training(images: AnyImages, facts: Facts, kind: str, device: str) -> Training:
    config = Config(
        model="timm/resnet18",
        model_options={},
        lr=0.1,
        momentum=0.9,
        weight_decay=5e-4,
        epochs=1,
        batch_size=_BATCH,
        label_smoothing=0.0,
        variant="sam",
        perturb="norm",
        rho=0.5,
        train_size=None,
        validation_size=0,
        label_noise=0.0,
        augment=kind,
        seed=0,
    )
    return Training(config, images, facts, device)


def _timed(
    contestants: Mapping[str, Callable[[], object]], images: int, rounds: int, device: str
) -> dict[str, list[float]]:
    """Images a second of each contestant in each round, after one that only warms up."""
    rates: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(rounds + 1):
        for name, call in contestants.items():
            begun = time.perf_counter()
            call()
            if device == "cuda":
                torch.cuda.synchronize()
            if number:
                rates[name].append(images / (time.perf_counter() - begun))
    return rates


def _write(root: Path, count: int) -> None:
    """Smooth random photographs with noise in two classes, and one test image each."""
    draws: Any = np.random.default_rng(0)
    for number in range(count + 2):
        place = root / ("train" if number < count else "test") / "ab"[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        coarse = draws.integers(0, 256, (24, 32, 3), np.uint8)
        smooth = Image.fromarray(coarse).resize((500, 375), Image.Resampling.BICUBIC)
        noisy = np.asarray(smooth) + draws.normal(0, 8, (375, 500, 3))
        picture = Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
        picture.save(place / f"{number:05}.jpg", quality=85)


if __name__ == "__main__":
    main()
