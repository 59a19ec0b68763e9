"""What the open engine settings of a study should be: layout of the weights, batch of evaluation.

    python -m benchmarks.engine_settings [--models NAME ...] [--rounds 10] [--threads 1] [--compile]
                                        [--json FILE]

A model of every family on the images that it is made for. A training step of SGD with the weights
in PyTorch's layout and in channels_last, with --compile also compiled; scoring 2,048 images in
batches of 64 to 2,048. Contestants take turns in one process, so that whatever else the machine
does falls on all of them; a ratio is that of two turns of one round, told with its 95 % bootstrap
interval over rounds. What catalog.settings chooses is marked. Runs on a GPU where there is one.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.measured import load, told
from trainables import catalog
from trainables.config import Config
from trainables.data import Facts, Images
from trainables.training import Training

_MODELS = {
    "resnet8": (8, 64),
    "resnet20": (32, 128),
    "wrn16_4": (32, 128),
    "densenet100": (32, 64),
    "convmixer": (32, 64),
    "vit_tiny": (32, 64),
    "timm/resnet18": (64, 32),
    "timm/vit_tiny_patch16_224": (224, 8),
}
"""Height of an image and size of a batch, by model."""
_BATCHES = (64, 128, 256, 512, 1024, 2048)
_SCORED = 2048
_PIXELS = 2048 * 32 * 32
"""Of all images that are scored, at most: larger ones are fewer."""


@dataclass(frozen=True)
class Row:
    """Seconds of a turn, median, and their ratios to the first contestant's, by round."""

    model: str
    what: str
    contestant: str
    chosen: bool
    seconds: float
    ratios: list[float]


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--models", nargs="+", choices=_MODELS, default=list(_MODELS))
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    where = torch.cuda.get_device_name() if device == "cuda" else "cpu (no GPU here)"
    torch.set_num_threads(options.threads)
    before = load()
    print(f"torch {torch.__version__}, {where}, {options.threads} threads; load {before:.0f}")
    rows = list[Row]()
    for model in options.models:
        found = [*_steps(model, options.rounds, device, options.compile)]
        found += _scores(model, options.rounds, device)
        for row in found:
            mark = "*" if row.chosen else " "
            name = f"{row.model} {row.what}"
            print(f"{name:36}{row.contestant:24}{mark}{row.seconds * 1e3:9.1f} ms  ", end="")
            print(told(row.ratios))
        rows += found
    print(f"n = {options.rounds} rounds; {os.cpu_count()} cores, load {load():.0f} after")
    if options.json:
        plain = {"device": where, "threads": options.threads, "load": [before, load()]}
        plain["rows"] = [asdict(row) for row in rows]
        options.json.write_text(json.dumps(plain, indent=1) + "\n")


def _steps(model: str, rounds: int, device: str, compiled: bool) -> list[Row]:
    """A step of SGD in each layout."""
    calls: dict[str, Callable[[], object]] = {}
    chosen = catalog.channels_last(model)
    for layout in (False, True):
        for fast in (False, True) if compiled else (False,):
            training = _training(model, device, channels_last=layout, compile=fast)
            batch = next(training.batches())
            name = f"{'channels_last' if layout else 'contiguous'}{', compiled' * fast}"
            calls[name] = partial(training.step, batch)
    best = "channels_last" if chosen else "contiguous"
    return _timed(model, "step", calls, best, rounds, device)


def _scores(model: str, rounds: int, device: str) -> list[Row]:
    """Scoring the same images in batches of each size."""
    size = _MODELS[model][0]
    images = _images(size, min(_SCORED, _PIXELS // size**2))
    calls: dict[str, Callable[[], object]] = {}
    for batch in (b for b in _BATCHES if b <= len(images.labels)):
        layout = catalog.channels_last(model)
        training = _training(model, device, channels_last=layout, eval_batch=batch)
        calls[f"batches of {batch}"] = partial(training.test, images)
    chosen = catalog.eval_batch(size, device == "cuda")
    what = f"evaluation, {len(images.labels)} images"
    return _timed(model, what, calls, f"batches of {chosen}", rounds, device)


def _timed(
    model: str,
    what: str,
    calls: dict[str, Callable[[], object]],
    chosen: str,
    rounds: int,
    device: str,
) -> list[Row]:
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(-2, rounds):
        for name, call in calls.items():
            _wait(device)
            begun = time.perf_counter()
            call()
            _wait(device)
            if number >= 0:  # the first two only warm up
                seconds[name].append(time.perf_counter() - begun)
    first = np.array(next(iter(seconds.values())))
    return [
        Row(model, what, name, name == chosen, float(np.median(s)), (np.array(s) / first).tolist())
        for name, s in seconds.items()
    ]


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _images(size: int, count: int) -> Images:
    channels = 1 if size == 8 else 3
    pixels = np.random.default_rng(0).integers(0, 256, (count, channels, size, size), np.uint8)
    return Images(pixels, np.arange(count) % 10)


def _training(
    model: str,
    device: str,
    *,
    channels_last: bool,
    compile: bool = False,
    eval_batch: int = 64,
) -> Training:
    size, batch = _MODELS[model]
    config = Config(
        model=model,
        model_options={},
        lr=0.1,
        momentum=0.9,
        weight_decay=5e-4,
        epochs=1,
        batch_size=batch,
        label_smoothing=0.1,
        variant="none",
        perturb="all",
        rho=None,
        train_size=None,
        validation_size=0,
        label_noise=0.0,
        augment="none",
        seed=0,
        channels_last=channels_last,
        compile=compile,
        eval_batch=eval_batch,
    )
    images = _images(size, batch)
    channels = images.images.shape[1]
    facts = Facts(
        classes=tuple(str(i) for i in range(10)),
        shape=(channels, size, size),
        pool=batch,
        test=None,
        hash="",
        undecodable=(),
        mean=(0.5,) * channels,
        std=(0.25,) * channels,
    )
    return Training(config, images, facts, device)


if __name__ == "__main__":
    main()
