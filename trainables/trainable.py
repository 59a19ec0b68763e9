"""Ray's view of the training: the only module here that knows Ray.

The process that drives a study imports this module too, so torch is imported where it is used.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import ray
from ray import tune
from ray.util import get_current_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

if TYPE_CHECKING:
    from trainables.batched.run import GroupRun
    from trainables.team import Place, Team
    from trainables.trial import Report

_BUNDLE = 1.0
"""Seconds after which the epochs done since go to the driver."""
_SLICE = 3.0
"""Seconds after which a sign of life goes there in the middle of an epoch."""
_WAIT = 0.2
"""Seconds that a step of a trial takes that only waits."""


class _Run(Protocol):
    """Trials under way, as GroupRun."""

    def step(self, until: float) -> Sequence[Report]: ...
    def stop(self, trial: str) -> None: ...
    def keep(self) -> None: ...


class SamTrainable(tune.Trainable):  # type: ignore[misc]
    """Trains one trial, or a group of them as one, an epoch or a part of it a step; an actor goes
    on with the next.

    config: `threads` of a process, and `trials`: none, for a process that only waits, or for each
    its `name`, its `slot` of so many `slots`, and `training` (fields of training.Config). With
    trials there are also `keeping` (of trial.Keeping), `facts` of the data set, `versions` that the
    process must have, and in lists, because Tune takes a bare reference for something to fill in,
    references to images: `pool` and, in the confirm stage alone, `test`. Each result holds
    trial.Report objects as `reports`, and as `left` the names of the trials that go on. Where its
    placement group has several bundles a worker trains in each, and this process itself does
    nothing but lead them.
    """

    _given: Mapping[str, Any]
    _left: list[str]
    _run: _Run | None
    _workers: _Workers | None = None

    def setup(self, config: Mapping[str, Any]) -> None:
        """Takes the first trials; their work begins in `step`, where a failure can be told."""
        group = get_current_placement_group()
        if group is not None and group.bundle_count > 1:
            self._workers = _Workers(group)
        self._take(config)

    def reset_config(self, new_config: Mapping[str, Any]) -> bool:
        """Takes other trials in this process."""
        self._take(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """One epoch, or what can be done of it in a few seconds."""
        if not self._given["trials"]:
            if self._workers is None:
                from trainables.batched import run  # noqa: F401  most of what a process starts with

            time.sleep(_WAIT)
            return {"reports": [], "left": [], "done": True}
        if self._run is None:
            self._run = self._begin(self._given)
        reports = self._run.step(time.monotonic() + _SLICE)
        for report in reports:
            if report.end is not None:
                self._left.remove(report.trial)
        return {"reports": reports, "left": list(self._left), "done": not self._left}

    def train_buffered(self, *limits: float) -> list[dict[str, Any]]:
        """Steps for about a second, so that short epochs do not wait for the driver one by one.

        limits: how long and how many, by Tune's settings; they are not read, because the order in
        which Tune passes them is not the one in which it declares them (ray 2.60).
        """
        until = time.monotonic() + _BUNDLE
        results = [self.train()]
        while not results[-1]["done"] and time.monotonic() < until:
            results.append(self.train())
        return results

    def drop(self, trial: str) -> None:
        """Goes on without a trial, which a pruner stopped."""
        if trial in self._left and self._run is not None:
            self._left.remove(trial)
            self._run.stop(trial)

    def keep(self) -> None:
        """Writes checkpoints of the trials under way: the study stops."""
        if self._run is not None:
            self._run.keep()

    def cleanup(self) -> None:
        """Ends the workers."""
        if self._workers is not None:
            self._workers.end()

    def _take(self, config: Mapping[str, Any]) -> None:
        self._given = config
        self._left = [each["name"] for each in config["trials"]]
        self._run = None
        self.config: dict[str, Any] = {}  # every result would carry it

    def _begin(self, config: Mapping[str, Any]) -> _Run:
        if self._workers is None:
            return _begun(config, _device(), None)
        self._workers.begin(config)
        return self._workers


class _Workers:
    """One process in each bundle of a placement group; together they train a trial after another.

    Whatever happens to one of them is raised, and then all of them have ended.
    """

    def __init__(self, group: Any) -> None:
        # Ray knows the whole of a bundle that one process takes.
        self._actors = [
            ray.remote(SamWorker)
            .options(
                num_cpus=bundle.get("CPU", 0),
                num_gpus=bundle.get("GPU", 0),
                scheduling_strategy=PlacementGroupSchedulingStrategy(
                    group, placement_group_bundle_index=index
                ),
            )
            .remote()
            for index, bundle in enumerate(group.bundle_specs)
        ]
        count = len(self._actors)
        place = self._actors[0].open.remote()
        # Nobody waits for that yet: there may be no trial to train.
        self._joining = [a.join.remote(i, count, place) for i, a in enumerate(self._actors)]

    def begin(self, config: Mapping[str, Any]) -> None:
        """Takes a trial."""
        self._all(self._joining)
        self._all([actor.begin.remote(config) for actor in self._actors])

    def step(self, until: float) -> Sequence[Report]:
        """As GroupRun.step."""
        seconds = until - time.monotonic()  # clocks of other nodes differ
        first, *_ = self._all([actor.step.remote(seconds) for actor in self._actors])
        reports: Sequence[Report] = first
        return reports

    def stop(self, trial: str) -> None:
        """As GroupRun.stop."""
        self._all([actor.stop.remote(trial) for actor in self._actors])

    def keep(self) -> None:
        """As GroupRun.keep."""
        self._all([self._actors[0].keep.remote()])

    def end(self) -> None:
        """Ends them at once."""
        for actor in self._actors:
            ray.kill(actor)

    def _all(self, results: list[Any]) -> list[Any]:
        """What all of them give. The first that fails ends all: the others would wait for it."""
        waiting = results
        try:
            while waiting:
                done, waiting = ray.wait(waiting)
                ray.get(done)
            return list(ray.get(results))
        except BaseException:
            self.end()
            raise


class SamWorker:
    """One of the processes that train a trial together."""

    _place: Place | None = None
    _team: Team
    _run: GroupRun | None = None

    def open(self) -> tuple[str, int]:
        """Opens a place, at this host and port, where all of them meet."""
        from trainables import team

        host = ray.util.get_node_ip_address()
        self._place = team.opened(host)
        return host, self._place.port

    def join(self, rank: int, count: int, place: tuple[str, int]) -> None:
        """Meets the others."""
        from trainables import team
        from trainables.batched import run  # noqa: F401  most of what a process starts with

        there = self._place or team.opened(*place)
        self._team = team.join(rank, count, there, _device())

    def begin(self, config: Mapping[str, Any]) -> None:
        """Takes a trial."""
        self._run = None  # before the next one needs its memory
        self._run = _begun(config, _device(), self._team)

    def step(self, seconds: float) -> Sequence[Report]:
        """As GroupRun.step."""
        assert self._run is not None
        return self._run.step(time.monotonic() + seconds)

    def stop(self, trial: str) -> None:
        """As GroupRun.stop."""
        assert self._run is not None
        self._run.stop(trial)

    def keep(self) -> None:
        """As GroupRun.keep."""
        assert self._run is not None
        self._run.keep()


def _device() -> str:
    """What this process trains on: the GPU that Ray gave it, if it gave it one."""
    if not ray.get_gpu_ids():
        return "cpu"
    import torch

    if not torch.cuda.is_available():
        raise RuntimeError(
            "Ray gave this trial a GPU that PyTorch cannot use: install a PyTorch for the GPUs of "
            "the node and its driver, or set resources.gpu to 0"
        )
    return "cuda"


def _begun(config: Mapping[str, Any], device: str, team: Team | None) -> GroupRun:
    from trainables import environment
    from trainables.batched.run import GroupRun
    from trainables.config import Config
    from trainables.training import deterministic
    from trainables.trial import Keeping, TrialRun

    environment.check(config["versions"])
    deterministic(config["threads"])
    [pool] = ray.get(config["pool"])
    test = next(iter(ray.get(config["test"])), None)
    slots = config["slots"]
    runs = {
        trial["slot"]: TrialRun(
            trial["name"],
            Config(**trial["training"]),
            Keeping(**config["keeping"]),
            pool,
            config["facts"],
            test,
            device,
            team,
            slot=(trial["slot"], slots) if slots > 1 else None,
        )
        for trial in config["trials"]
    }
    return GroupRun(runs, slots)
