"""Processes that train one trial together on GPUs give what one process gives."""

from __future__ import annotations

import multiprocessing
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing.spawn import start_processes

from tests.trainables.test_team import CASES, SHORT
from trainables import data
from trainables.config import Config
from trainables.team import Team, join, opened
from trainables.training import Training, deterministic

COUNT = 2
ON_GPUS = {**CASES, "batch normalization over all": replace(SHORT, perturb="all", rho=0.05)}


def _member(rank: int, port: int, folder: Path) -> None:
    deterministic(1)
    torch.backends.cudnn.allow_tf32 = False
    place = opened("127.0.0.1", port)
    if torch.cuda.device_count() >= COUNT:
        torch.cuda.set_device(rank)
        team = join(rank, COUNT, place, "cuda")
    else:  # NCCL refuses two processes on one GPU, gloo does not
        dist.init_process_group("gloo", store=place, rank=rank, world_size=COUNT)
        team = Team(rank, COUNT)
    found = {name: trained(config, team) for name, config in ON_GPUS.items()}
    torch.save(found, folder / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()
    # Threads of gloo now and then abort an interpreter that ends in the usual way.
    os._exit(0)


def trained(config: Config, team: Team | None) -> tuple[list[dict[str, float]], dict[str, Tensor]]:
    training = Training(config, *data.load_pool("digits"), device="cuda", team=team)
    metrics = [training.epoch() for _ in range(config.epochs)]
    for each in metrics:
        each.pop("seconds_per_epoch")
    return metrics, {name: each.cpu() for name, each in training.model.state_dict().items()}


def test_numbers_do_not_depend_on_how_many_processes_train(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # With TF32 a batch in parts gives other digits from the fourth on.
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    place = opened("127.0.0.1")
    multiprocessing.set_forkserver_preload([__name__])
    start_processes(  # type: ignore[no-untyped-call]
        _member, (place.port, tmp_path), nprocs=COUNT, start_method="forkserver"
    )
    teams: list[Any] = [
        torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(COUNT)
    ]
    for name, config in ON_GPUS.items():
        metrics, weights = trained(config, None)
        for team in teams:
            for epoch, expected in enumerate(metrics):
                assert team[name][0][epoch] == pytest.approx(expected, rel=1e-3, abs=1e-5), name
                assert team[name][0][epoch] == teams[0][name][0][epoch], name
            for key, value in weights.items():
                torch.testing.assert_close(
                    team[name][1][key], value, rtol=1e-2, atol=1e-4, msg=f"{name} {key}"
                )
