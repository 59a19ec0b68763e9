"""Processes that train one trial together give what one process gives, whatever happens."""

from __future__ import annotations

import multiprocessing
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.spawn import start_processes

from tests.trainables.test_training import CONFIG
from tests.trainables.test_trial import Clock, finish, told
from trainables import data
from trainables.config import Config
from trainables.team import Team, join, opened
from trainables.training import Training, deterministic
from trainables.trial import Keeping, Report, TrialRun

STEPS = 4
SHORT = replace(CONFIG, epochs=2, batch_size=16, lr=0.05, train_size=16 * STEPS)
M = {"m": 4}
GROUPS = replace(SHORT, model_options={"width": 4, "norm": "gn"})
MEASURED = ["loss_rise", "cosine", "gradient_norms"]
CASES = {
    "all": replace(SHORT, perturb="all", rho=0.05, options=M),
    "norm": replace(SHORT, options=M, clip_norm=1.0, diagnostics=MEASURED),
    "whole batch": replace(
        GROUPS, perturb="all", rho=0.05, schedule_per="step", diagnostics=MEASURED
    ),
    "in slices": replace(GROUPS, accumulate=2, options={"ascent": "random"}),
    "none": replace(GROUPS, variant="none", perturb="none", rho=None),
    "chosen by fisher": replace(GROUPS, perturb="top_fisher:0.1"),
    "moving average": replace(GROUPS, variant="vasso", options=M),
    "lookbehind": replace(GROUPS, variant="lookbehind", rho=0.05),
}
"""Trials whose numbers must not depend on how many processes there are."""
NAME = "study/arm/confirm/0"


def run_in_team(work: Callable[..., None], count: int, *arguments: Any) -> None:
    """Calls work(team, *arguments) in `count` processes."""
    place = opened("127.0.0.1")
    # A server that has imported this module forks them: each import takes seconds.
    multiprocessing.set_forkserver_preload([__name__])
    start_processes(  # type: ignore[no-untyped-call]
        _member, (count, place.port, work, arguments), nprocs=count, start_method="forkserver"
    )


def _member(
    rank: int, count: int, port: int, work: Callable[..., None], arguments: tuple[Any, ...]
) -> None:
    deterministic(1)
    work(join(rank, count, opened("127.0.0.1", port), "cpu"), *arguments)
    dist.barrier()
    dist.destroy_process_group()
    # Threads of gloo now and then abort an interpreter that ends in the usual way.
    os._exit(0)


def trained(config: Config, team: Team | None) -> tuple[list[dict[str, float]], dict[str, Tensor]]:
    """The metrics of each epoch, with those of the test set in the end, and the weights."""
    training = Training(config, *data.load_pool("digits"), team=team)
    metrics = [training.epoch() for _ in range(config.epochs)]
    tested, correct = training.test(data.load_test("digits")[0])
    metrics.append(tested)
    for each in metrics:
        each.pop("seconds_per_epoch", None)
    right = torch.tensor(list(correct.bits), dtype=torch.uint8)
    return metrics, {**training.model.state_dict(), "right": right}


def _train_all(team: Team, folder: Path) -> None:
    found = {name: trained(config, team) for name, config in CASES.items()}
    torch.save(found, folder / f"{team.rank}.pt")


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    deterministic(1)
    return {name: trained(config, None) for name, config in CASES.items()}


@pytest.mark.parametrize("count", [2, 4])
def test_numbers_do_not_depend_on_how_many_processes_train(
    alone: dict[str, Any], tmp_path: Path, count: int
) -> None:
    run_in_team(_train_all, count, tmp_path)
    teams = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(count)]
    for name, (metrics, weights) in alone.items():
        for rank, team in enumerate(teams):
            for epoch, expected in enumerate(metrics):
                assert team[name][0][epoch] == pytest.approx(expected, rel=2e-4, abs=1e-6), name
                assert team[name][0][epoch] == teams[0][name][0][epoch]
            for key, value in weights.items():
                torch.testing.assert_close(
                    team[name][1][key], value, rtol=1e-3, atol=1e-5, msg=f"{name} {key} {rank}"
                )
                assert torch.equal(team[name][1][key], teams[0][name][1][key])


def test_a_part_is_of_every_slice_of_a_batch() -> None:
    batch = torch.arange(12)
    assert Team(0, 1).part(batch, 1) is batch
    assert Team(1, 2).part(batch, 1).tolist() == [6, 7, 8, 9, 10, 11]
    assert [Team(rank, 2).part(batch, 2).tolist() for rank in (0, 1)] == [
        [0, 1, 2, 6, 7, 8],
        [3, 4, 5, 9, 10, 11],
    ]


def _trial(team: Team, folder: Path, config: Config, **more: Any) -> TrialRun:
    pool, facts = data.load_pool("digits")
    keeping = Keeping(str(folder), None, None)
    test = data.load_test("digits")[0]
    return TrialRun(NAME, config, keeping, pool, facts, test, "cpu", team, **more)


NOISY = replace(
    SHORT, model="tests.trainables.test_trial:noisy", model_options={}, options={"m": 8}
)
RESUMED = [NOISY, replace(GROUPS, epochs=3), replace(SHORT, variant="fsam", options=M)]


def _interrupt(team: Team, folder: Path) -> None:
    for number, config in enumerate(RESUMED):
        place = folder / str(number)
        reports = told(finish(_trial(team, place, config)))
        dist.barrier()
        weights = (place / "study/weights/arm/confirm/0.pt").read_bytes()
        for stop in (2, STEPS + 1):
            dist.barrier()
            if team.first:
                shutil.rmtree(place)
            first = _trial(team, place, config, clock=Clock())
            before: list[Report] = [first.step(0.0) for _ in range(stop)]
            if team.first:
                first.keep()
            dist.barrier()
            torch.rand(5 * (1 + team.rank))
            after = finish(_trial(team, place, config))
            assert after[0].resumed == before[-1].progress == stop / STEPS
            assert told(after) == reports
            dist.barrier()
            assert (place / "study/weights/arm/confirm/0.pt").read_bytes() == weights
    assert len(list(folder.rglob("*.pt"))) == len(RESUMED) * 2  # weights and one checkpoint each


def test_a_trial_that_was_interrupted_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    run_in_team(_interrupt, 2, tmp_path)


def breaking(num_classes: int, in_channels: int, image_size: int) -> nn.Module:
    """A model that says NaN in the second epoch, and to the second of several processes only."""

    class Breaking(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(in_channels * image_size**2, num_classes)
            self.norm = nn.LayerNorm(num_classes)
            self.passes = 0

        def forward(self, images: Tensor) -> Tensor:
            self.passes += self.training
            out: Tensor = self.norm(self.head(images.flatten(1)))
            broken = self.passes > 2 * STEPS + 1 and dist.get_rank() == 1
            return out * float("nan") if broken and self.training else out

    return Breaking()


def _diverge(team: Team, folder: Path) -> None:
    for precision in ("float32", "bfloat16"):
        config = replace(
            SHORT,
            epochs=3,
            model="tests.trainables.test_team:breaking",
            model_options={},
            precision=precision,
        )
        reports = finish(_trial(team, folder / precision, config))
        end = reports[-1].end
        assert end is not None
        assert (end.status, end.reason) == ("diverged", "diverged in epoch 2")
        weights = _trial(team, folder / precision, config).training.model.state_dict()
        assert all(value.isfinite().all() for value in weights.values())


def test_nan_in_one_process_is_divergence_in_all(tmp_path: Path) -> None:
    run_in_team(_diverge, 2, tmp_path)


def _refuse(team: Team) -> None:
    digits = data.load_pool("digits")
    for config in (SHORT, replace(SHORT, variant="none", perturb="none", rho=None)):
        with pytest.raises(ValueError, match="SyncBatchNorm does on GPUs only; give m"):
            Training(config, *digits, team=team)
    # A model that holds timm's layers need not be one of timm's.
    from timm.layers import BatchNormAct2d, EvoNorm2dB0

    for layer in (EvoNorm2dB0(4), BatchNormAct2d(4)):
        with pytest.raises(ValueError, match=r"2 replicas .*; give m"):
            team.wrapped(layer, None)
        team.wrapped(layer, 4)


def test_what_needs_batchnorm_over_all_is_refused_on_cpus() -> None:
    run_in_team(_refuse, 2)
