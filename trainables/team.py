"""The processes that train one trial together, each on its part of every batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import TCPStore  # type: ignore[attr-defined]
from torch.nn.parallel import DistributedDataParallel

from trainables.sam.replicas import Replicas

T = TypeVar("T")
Place: TypeAlias = TCPStore


class Team:
    """`count` processes that take the same steps, of which this one is number `rank`.

    By default one process alone, for which nothing here does anything.
    """

    def __init__(self, rank: int = 0, count: int = 1) -> None:
        self.rank = rank
        self.count = count

    @property
    def first(self) -> bool:
        """Whether this is the process that decides and writes for all."""
        return self.rank == 0

    def wrapped(self, model: nn.Module, m: int | None) -> nn.Module:
        """The model as SharpnessAware takes it; its weights and buffers are those of the first.

        m: samples a perturbation. Without it BatchNorm normalizes with the batches of all. Raises
        ValueError where it cannot: see Replicas.share_batchnorm.
        """
        if self.count == 1:
            return model
        wrapped = DistributedDataParallel(model)
        Replicas(wrapped).share_batchnorm(m)
        return wrapped

    def part(self, batch: Tensor, slices: int) -> Tensor:
        """Of every one of the slices of a batch this process's part, in their order.

        batch: [n, ...], n a multiple of slices times count. Gives [n / count, ...].
        """
        if self.count == 1:
            return batch
        parts = batch.view(slices, self.count, -1, *batch.shape[1:])
        return parts[:, self.rank].flatten(0, 1)

    def sum(self, values: Tensor) -> None:
        """Replaces values by their sum over all, without waiting for the device."""
        if self.count > 1:
            dist.all_reduce(values)

    def agree(self, decision: Callable[[], bool]) -> bool:
        """What the first decides; the others do not even ask."""
        if self.count == 1:
            return decision()
        told = torch.tensor(decision() if self.first else False)
        dist.broadcast(told, 0)
        return bool(told)

    def share(self, make: Callable[[], T]) -> T:
        """What the first makes: tensors on the CPU and plain values."""
        if self.count == 1:
            return make()
        held: list[Any] = [make() if self.first else None]
        dist.broadcast_object_list(held, 0)
        made: T = held[0]
        return made


def opened(host: str, port: int | None = None) -> Place:
    """The place where the processes of a trial meet: a new one at a free port of this host, or the
    one that another process has opened."""
    return Place(host, port or 0, is_master=port is None, wait_for_workers=False)


def join(rank: int, count: int, place: Place, device: str) -> Team:
    """Meets the other processes of a trial; waits until all are there. device: what all of them
    compute on."""
    # Two ways to talk, by where a tensor lies: what is decided on the host waits for no device.
    backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
    dist.init_process_group(backend, store=place, rank=rank, world_size=count)
    return Team(rank, count)
