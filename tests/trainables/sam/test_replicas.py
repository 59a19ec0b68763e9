"""Several processes that train one model on parts of each batch give what one process gives."""

from __future__ import annotations

import itertools
import os
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel

from tests.trainables.sam.nets import loss_of, make_batches, make_net, sgd
from trainables.sam import SharpnessAware

STEPS = 3


def _train(kind: str, options: dict[str, Any], rank: int, replicas: int) -> dict[str, Tensor]:
    net = make_net(kind)
    model: nn.Module = net if replicas == 1 else DistributedDataParallel(net)
    optimizer = SharpnessAware(model, sgd(net), **{"rho": 0.3} | options)
    for images, labels in make_batches(STEPS, samples=16):
        part = slice(rank * 16 // replicas, (rank + 1) * 16 // replicas)
        optimizer.step(loss_of(model), (images[part], labels[part]), clip_norm=1.0)
    return {k: v.detach().clone() for k, v in net.state_dict().items()}


def _replica(rank: int, replicas: int, port: int, cases: list[Any], folder: str) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=replicas)
    found = [_train(kind, options, rank, replicas) for kind, options in cases]
    torch.save(found, Path(folder) / f"{rank}.pt")
    torch.save(_scaled(rank), Path(folder) / f"scaled-{rank}.pt")
    net = make_net("batch")
    with pytest.raises(ValueError, match="SyncBatchNorm does on GPUs only; give m"):
        SharpnessAware(DistributedDataParallel(net), sgd(net), rho=0.1)
    # Without a perturbation there is nothing that the replicas would have to share.
    SharpnessAware(DistributedDataParallel(net), sgd(net), "none")
    dist.destroy_process_group()


def _scaled(rank: int) -> dict[str, Any]:
    """Steps with a scaler; one of them overflows at w + e, on the second replica alone."""
    net = make_net("layer")
    model = DistributedDataParallel(net)
    optimizer, scaler = SharpnessAware(model, sgd(net), rho=0.3), GradScaler("cpu")
    passes = itertools.count()
    loss = loss_of(model)

    def overflowing(batch: Any) -> Tensor:
        return loss(batch) * (float("inf") if rank == 1 and next(passes) == 3 else 1.0)

    skipped = []
    for images, labels in make_batches(STEPS, samples=8):
        optimizer.step(overflowing, (images, labels), scaler=scaler)
        skipped.append(optimizer.last_step.skipped.item())
    return {"skipped": skipped, "scaler": scaler.state_dict(), "net": net.state_dict()}


CASES: list[tuple[str, dict[str, Any]]] = [
    ("batch", {"m": 4}),
    ("batch", {"m": 4, "perturb": "norm", "variant": "asam"}),
    ("layer", {"m": 4}),
    ("layer", {}),
    ("layer", {"perturb": "norm"}),
    ("layer", {"variant": "gsam"}),
    ("layer", {"variant": "fsam"}),
    ("layer", {"variant": "vasso", "m": 4}),
    ("layer", {"ascent": "previous", "m": 4}),
    ("layer", {"variant": "stable_sam", "m": 4}),
    ("layer", {"variant": "none", "rho": None}),
]


@pytest.mark.parametrize("replicas", [2, 4])
def test_replicas_agree_with_one_process(replicas: int, tmp_path: Path) -> None:
    # Also that one perturbation for all of them needs BatchNorm over all, which a CPU has not.
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    spawn(_replica, (replicas, port, CASES, str(tmp_path)), nprocs=replicas)  # type: ignore[no-untyped-call]
    for number, (kind, options) in enumerate(CASES):
        alone = _train(kind, options, 0, 1)
        for rank in range(replicas):
            found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)[number]
            for name, value in alone.items():
                torch.testing.assert_close(
                    found[name], value, rtol=1e-9, atol=1e-12, msg=f"{kind} {options} {name}"
                )
    first, *others = [
        torch.load(tmp_path / f"scaled-{rank}.pt", weights_only=True) for rank in range(replicas)
    ]
    assert first["skipped"] == [0, 1, 0]
    assert first["scaler"]["scale"] == GradScaler("cpu").get_scale() / 2
    for other in others:
        assert other["skipped"] == first["skipped"]
        assert other["scaler"] == first["scaler"]
        for name, value in first["net"].items():
            assert torch.equal(other["net"][name], value)
