"""Time of each measure of a confirmed model.

    python -m benchmarks.measures [--data digits] [--model resnet8] [--width 16] [--threads 1]
                                  [--measures sharpness pgd ...] [--epochs 1]

Trains a model for a few epochs on 800 training images, keeps its weights as a confirm run does, and
measures them. Digits stand in for other data sets, with 64 test images. Told are the seconds that
passed and those of the CPU, which a busy machine changes less.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import asdict

from trainables import data
from trainables.catalog import DATASETS, MEASURES
from trainables.config import Config
from trainables.measuring import measure
from trainables.training import deterministic
from trainables.trial import Keeping, TrialRun

_TRIAL = "benchmark/arm/confirm/0"
_IMAGES = 1100


def main() -> None:
    """Trains, measures, prints a line a measure."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", default="digits", choices=DATASETS)
    parser.add_argument("--model", default="resnet8")
    parser.add_argument("--width", type=int)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--measures", nargs="+", default=MEASURES, choices=MEASURES)
    chosen = parser.parse_args()
    deterministic(chosen.threads)
    stand_in = None if chosen.data == "digits" else _IMAGES
    pool, facts = data.load_pool(chosen.data, stand_in=stand_in)
    test, _ = data.load_test(chosen.data, stand_in=stand_in)
    config = Config(
        model=chosen.model,
        model_options={} if chosen.width is None else {"width": chosen.width},
        lr=0.05,
        momentum=0.9,
        weight_decay=5e-4,
        epochs=chosen.epochs,
        batch_size=64,
        label_smoothing=0.1,
        variant="sam",
        perturb="norm",
        rho=0.5,
        train_size=800,
        validation_size=100,
        label_noise=0.0,
        augment="crop",
        seed=0,
    )
    with tempfile.TemporaryDirectory() as storage:
        keeping = Keeping(storage, None, None)
        run = TrialRun(_TRIAL, config, keeping, pool, facts, test, "cpu")
        while run.step(float("inf")).end is None:
            pass
        fields = asdict(config)
        for what in chosen.measures:
            other = (_TRIAL, fields) if what == "line" else ()
            passed, worked = time.perf_counter(), time.process_time()
            rows = measure(
                what, _TRIAL, fields, storage, pool, facts, test, "cpu", chosen.threads, *other
            )
            passed, worked = time.perf_counter() - passed, time.process_time() - worked
            print(f"{what}: {len(rows)} rows, {passed:.1f} s, {worked:.1f} s of CPU")


if __name__ == "__main__":
    main()
