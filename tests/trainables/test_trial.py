"""A trial that is stopped anywhere and goes on elsewhere: the same bits, reports and end."""

from __future__ import annotations

import hashlib
import pickle
import shutil
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainables.test_training import CONFIG
from trainables import data
from trainables.catalog import VARIANTS
from trainables.checkpoint import packed, unpacked
from trainables.config import Config
from trainables.training import deterministic
from trainables.trial import Keeping, Report, TrialRun

NAME = "study/arm/confirm/0"
FOLDER = "study/checkpoints/arm/confirm/0"
NEVER = Keeping("", None, None)
SHORT = replace(CONFIG, epochs=3, batch_size=25)  # 4 steps an epoch


@pytest.fixture(scope="module")
def digits() -> tuple[data.Images, data.Facts]:
    deterministic(1)
    return data.load_pool("digits")


@pytest.fixture(scope="module")
def test_images() -> data.Images:
    return data.load_test("digits")[0]


class Clock:
    """Counts how often it was asked, so that a trial can be stopped after so many steps."""

    def __init__(self) -> None:
        self._ticks: Iterator[int] = count()

    def __call__(self) -> float:
        return float(next(self._ticks))


class Bench:
    """Makes runs of one trial over one storage."""

    def __init__(
        self, folder: Path, digits: tuple[data.Images, data.Facts], test: data.Images
    ) -> None:
        self.folder, self.digits, self.test = folder, digits, test

    def run(self, config: Config, keeping: Keeping = NEVER, **more: Any) -> TrialRun:
        keeping = replace(keeping, storage=str(self.folder))
        return TrialRun(NAME, config, keeping, *self.digits, self.test, "cpu", **more)

    def checkpoints(self) -> list[str]:
        return sorted(p.name for p in (self.folder / FOLDER).glob("*"))

    def positions(self) -> list[float]:
        return [float(name.removesuffix(".pt")) for name in self.checkpoints()]


@pytest.fixture
def bench(
    tmp_path: Path, digits: tuple[data.Images, data.Facts], test_images: data.Images
) -> Bench:
    return Bench(tmp_path, digits, test_images)


def finish(run: TrialRun) -> list[Report]:
    reports = [run.step(float("inf"))]
    while reports[-1].end is None:
        reports.append(run.step(float("inf")))
    return reports


def told(reports: list[Report]) -> list[tuple[Any, ...]]:
    """What must be the same however often a trial was stopped."""
    return [
        (r.epoch, {k: repr(v) for k, v in r.metrics.items() if k != "seconds_per_epoch"}, r.end)
        for r in reports
        if r.epoch is not None
    ]


def digest(folder: Path) -> str:
    weights = torch.load(folder / "study/weights/arm/confirm/0.pt", weights_only=True)["model"]
    return hashlib.sha256(b"".join(t.numpy().tobytes() for t in weights.values())).hexdigest()


MORE = {
    "one option each": [
        replace(SHORT, model="vit", model_options={}),
        replace(SHORT, optimizer="adamw", momentum=None, lr=0.003),
        replace(SHORT, optimizer="lion", momentum=None, lr=0.0003),
        replace(SHORT, schedule="multistep", milestones=[0.4, 0.8], gamma=0.1),
        replace(SHORT, schedule="constant"),
        replace(SHORT, schedule_per="step", warmup=1.5),
        replace(SHORT, clip_norm=0.5, accumulate=5, precision="bfloat16"),
        replace(SHORT, diagnostics=["loss_rise", "cosine", "gradient_norms"]),
        replace(SHORT, perturb="random:0.1"),
        replace(SHORT, perturb="top_fisher:0.1"),
        replace(SHORT, model="tests.trainables.test_trial:noisy", model_options={}),
    ]
}["one option each"]


def noisy(num_classes: int, in_channels: int, image_size: int) -> torch.nn.Module:
    """A user's model that draws from every global generator while it trains."""
    import random

    import numpy as np

    class Noisy(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = torch.nn.Linear(in_channels * image_size**2, num_classes)
            self.norm = torch.nn.BatchNorm1d(num_classes)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.norm(self.head(images.flatten(1)))
            if self.training:
                noise = random.gauss(0, 0.1) + np.random.normal(0, 0.1)
                out = out + noise * torch.randn_like(out)
            return torch.nn.functional.dropout(out, 0.2, self.training)

    return Noisy()


def variants() -> Iterator[Config]:
    for name, variant in VARIANTS.items():
        perturb = "none" if variant.geometry is None else "all" if variant.perturb_all else "norm"
        rho = None if variant.geometry is None else 0.05
        yield replace(SHORT, variant=name, perturb=perturb, rho=rho)


@pytest.mark.parametrize("config", [*variants(), *MORE], ids=lambda c: f"{c.variant} {c.perturb}")
def test_a_trial_stopped_after_any_step_goes_on_to_the_same_bits(
    bench: Bench, tmp_path: Path, config: Config
) -> None:
    expected = told(finish(bench.run(config)))
    weights = digest(tmp_path)
    for stop in (1, 6):
        shutil.rmtree(tmp_path / FOLDER, ignore_errors=True)
        first = bench.run(config, clock=Clock())
        steps, reports = 0, []
        while steps < stop:  # a step, or the last of an epoch, a call
            reports.append(first.step(0.0))
            steps += 1
        first.keep()
        torch.rand(5)
        (tmp_path / "study/weights/arm/confirm/0.pt").unlink(missing_ok=True)
        second = finish(bench.run(config))
        assert second[0].resumed == reports[-1].progress == stop / 4
        assert told(second) == expected
        assert digest(tmp_path) == weights


def test_a_checkpoint_is_due_after_epochs_and_the_last_two_are_kept(bench: Bench) -> None:
    run = bench.run(replace(SHORT, epochs=8), Keeping("", 2, None))
    kept = []
    for _ in range(7):
        run.step(float("inf"))
        run._checkpoints.wait()
        kept.append(bench.positions())
    assert kept == [[], [2], [2], [2, 4], [2, 4], [4, 6], [4, 6]]


def test_a_checkpoint_is_due_after_seconds_also_in_the_middle_of_an_epoch(bench: Bench) -> None:
    now = [100.0]
    run = bench.run(replace(SHORT, epochs=8), Keeping("", 3, 60.0), clock=lambda: now[0])
    kept = []
    for seconds in (59.0, 1.0, 0.0, 59.0, 0.0, 0.0, 60.0):
        now[0] += seconds
        run.step(float("inf"))
        run._checkpoints.wait()
        kept.append(bench.positions())
    assert kept == [
        [],
        [1.25],  # a step of the second epoch later 60 seconds are over
        [1.25],
        [1.25],
        [1.25, 4],  # three epochs after the last one
        [1.25, 4],
        [4, 5.25],
    ]


def test_a_damaged_checkpoint_is_told_and_the_one_before_is_used(bench: Bench) -> None:
    run = bench.run(SHORT, Keeping("", 1, None))
    for _ in range(2):
        run.step(float("inf"))
        run._checkpoints.wait()
    newest = bench.folder / FOLDER / bench.checkpoints()[-1]
    content = newest.read_bytes()
    damages = {
        "cut": content[: len(content) // 2],
        "empty": b"",
        "a bit": content[:5000] + bytes([content[5000] ^ 1]) + content[5001:],
        "zeros": bytes(len(content)),
    }
    for damage in damages.values():
        newest.write_bytes(damage)
        report = bench.run(SHORT).step(float("inf"))
        assert report.resumed == 1
        [note] = report.notes
        assert note.startswith(f"checkpoint {FOLDER}/{newest.name} was not used: damaged")
        assert "\n" not in note


def test_a_checkpoint_that_is_code_is_never_run(bench: Bench, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "ran",)

    folder = bench.folder / FOLDER
    folder.mkdir(parents=True)
    (folder / "000001.000000.pt").write_bytes(pickle.dumps(Bomb()))
    torch.save({"of": Bomb(), "content": {}}, folder / "000002.000000.pt")
    report = bench.run(SHORT).step(float("inf"))
    assert not (tmp_path / "ran").exists()
    assert report.resumed is None
    assert [note.partition("was not used: ")[2] for note in report.notes] == [
        "holds more than tensors and plain values",
        "damaged: File is not a zip file",
    ]


def test_a_checkpoint_of_another_configuration_is_not_used(bench: Bench) -> None:
    run = bench.run(SHORT, Keeping("", 1, None))
    run.step(float("inf"))
    run._checkpoints.wait()
    for other in (replace(SHORT, lr=0.2), replace(SHORT, seed=4), replace(SHORT, epochs=4)):
        assert bench.run(other).step(float("inf")).resumed is None
    assert bench.run(SHORT).step(float("inf")).resumed == 1


def test_a_trial_that_had_ended_ends_again_in_the_same_way(bench: Bench) -> None:
    run = bench.run(SHORT)
    expected = told(finish(run))
    run.keep()  # as when the driver is asked to stop before it has heard of the end
    assert told(finish(bench.run(SHORT))) == expected
    broken = replace(SHORT, lr=1e30)
    run = bench.run(broken)
    expected = told(finish(run))
    assert expected[-1][2].status == "diverged"
    run.keep()
    assert told(finish(bench.run(broken))) == expected


def test_a_full_disk_costs_a_checkpoint_and_not_the_trial(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    (bench.folder / "study").write_text("where the folder should be")
    run = bench.run(SHORT, Keeping("", 1, None))
    reports = finish(run)
    notes = [note for report in reports for note in report.notes]
    assert reports[-1].end is not None
    assert reports[-1].end.status == "finished"
    assert any("was not written: " in note for note in notes)
    assert any(note.startswith(f"weights of {NAME} were not kept: ") for note in notes)


def test_what_is_packed_is_unpacked() -> None:
    content = {"a": torch.arange(3), "b": [1, 2.5, "x", None, (True,)]}
    got = unpacked(packed(content))
    assert torch.equal(got["a"], content["a"])  # type: ignore[arg-type]
    assert got["b"] == content["b"]
