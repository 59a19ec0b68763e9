"""Runs one trial of a study again: python -m study.replay STUDY/ARM/STAGE/INDEX. Says whether its
numbers are the same, bit for bit, and changes nothing of the study."""

from __future__ import annotations

import argparse
import math
import re
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from study import cluster, nodes, places, provenance, run
from study.checkpoints import open_storage
from study.course import Group, Waiting
from study.failures import Failures
from study.home import Home
from study.journal import Contents
from study.part import NAME
from study.records import End, Epoch, Failure, Trial
from study.spec import Spec
from study.terminal import Output
from study.yamlfile import SpecError

_MEASURED = {"seconds_per_epoch"}
"""Metrics of the machine, not of the training."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0 the same numbers, 1 others, 2 wrong input, 130 interrupted."""
    parser = argparse.ArgumentParser(
        prog="python -m study.replay",
        description="Run one trial of a study again and compare its numbers with the journal's.",
        allow_abbrev=False,
    )
    parser.add_argument("trial", metavar="TRIAL", help="STUDY/ARM/STAGE/INDEX, as in MLflow")
    places.add_out(parser)
    parser.add_argument(
        "--address", metavar="ADDR", help="a Ray cluster, or the URL of one (default: here)"
    )
    options = parser.parse_args(arguments)

    def replay() -> int:
        if cluster.is_jobs_address(options.address):
            more = ("--address", "auto")
            return cluster.forward("study.replay", arguments, options.address, options.out, *more)
        return _replay(options.trial, options.out, options.address, Output())

    return run.guarded(replay, goes_on=False)


def _replay(name: str, out: Path, address: str | None, console: Console) -> int:
    study = name.partition("/")[0]
    if not re.fullmatch(NAME, study):
        raise SpecError(f"{name!r} is not the name of a trial: STUDY/ARM/STAGE/INDEX")
    home = Home(out, study)
    rounds, contents = home.rounds()
    trial = _find(name, contents)
    again = _Again(trial, len(contents.epochs[name]))
    _run(rounds[-1], home, contents, again, address, console)
    return _compare(name, contents, again, console)


def _find(name: str, contents: Contents) -> Trial:
    if (trial := contents.trials.get(name)) is None:
        arms = sorted({each.rpartition("/")[0] for each in contents.trials})
        raise SpecError(f"the journal holds no trial {name}; it holds those of {', '.join(arms)}")
    if not contents.epochs.get(name):
        raise SpecError(f"the journal holds no epoch of {name}: there is nothing to compare")
    return trial


def _run(
    spec: Spec,
    home: Home,
    contents: Contents,
    again: _Again,
    address: str | None,
    console: Console,
) -> None:
    """Trains it where a study of the spec would, from the start, with checkpoints of its own."""
    from study.engine import Engine

    console.print(f"{again.trial.name}: starting Ray, loading {spec.workload.data.name}")
    folder = f"{home.name}/replay-{uuid.uuid4().hex}"
    storage = f"{home.storage_uri}/{folder}"
    try:
        with Engine(spec, address, storage) as engine:
            nodes.check(home)
            engine.at_once()
            if engine.load_pool()["hash"] != contents.header["data"]["hash"]:
                raise SpecError(
                    f"workload.data: the images of {spec.workload.data.name} are no longer those "
                    "of the study; restore them"
                )
            if again.trial.stage == "confirm":
                engine.load_test()
            failures = Failures(spec.retries, {})
            failures.begin([again.trial.name], ())
            engine.run(again, failures, [again])
    finally:
        open_storage(home.storage_uri).delete(folder)


class _Again:
    """The course of a single trial, and who listens to it. wanted: epochs of it that the journal
    holds; it stops after them."""

    def __init__(self, trial: Trial, wanted: int) -> None:
        self.trial = trial
        self.epochs: list[Epoch] = []
        self.result: End | None = None
        self._wanted = wanted
        self._next: list[Group] = [(trial,)]

    def next(self) -> Group | Waiting:
        """As of a Course."""
        if self._next:
            return self._next.pop()
        return "wait" if self.result is None else "done"

    def stops(self, epoch: Epoch) -> bool:
        """As of a Course."""
        return epoch.epoch >= self._wanted

    def again(self, group: Group) -> None:
        """As of a Course."""
        self._next.append(group)

    def ended(self, trial: str) -> None:
        """As of a Course."""

    def start(self, trial: Trial, at: float) -> None:
        """As of a Listener."""

    def epoch(self, epoch: Epoch) -> None:
        """As of a Listener."""
        if epoch.epoch == len(self.epochs) + 1:  # what a retry repeats comes again
            self.epochs.append(epoch)

    def failure(self, failure: Failure) -> None:
        """As of a Listener."""

    def resumed(self, trial: str, progress: float) -> None:
        """As of a Listener."""

    def end(self, end: End) -> None:
        """As of a Listener."""
        self.result = end

    def note(self, text: str) -> None:
        """As of a Listener."""


def _compare(name: str, contents: Contents, again: _Again, console: Console) -> int:
    """Tells whether the numbers are those of the journal; the exit code."""
    before = contents.epochs[name]
    for then, now in zip(before, again.epochs, strict=False):
        for key in sorted((then.metrics.keys() | now.metrics.keys()) - _MEASURED):
            if not _same(then.metrics.get(key), now.metrics.get(key)):
                return _differs(
                    f"{key} of epoch {then.epoch} is {now.metrics.get(key)}, the journal has "
                    f"{then.metrics.get(key)}",
                    name, contents, console,
                )  # fmt: skip
    if len(again.epochs) != len(before):
        text = f"{len(again.epochs)} epochs, the journal has {len(before)}"
        return _differs(text, name, contents, console)
    scores: Mapping[str, float] = {}
    if (end := contents.ends.get(name)) is not None and end.status in ("finished", "diverged"):
        scores = end.scores
        found = {} if again.result is None else again.result.scores
        for key, value in scores.items():
            if not _same(value, found.get(key)):
                text = f"{key} is {found.get(key)}, the journal has {value}"
                return _differs(text, name, contents, console)
        if end.correct and again.result and again.result.correct != end.correct:
            return _differs("other test images are right", name, contents, console)
    compared = f"all metrics of {len(before)} epochs"
    compared += f" and {', '.join(scores)}" if scores else ""
    console.print(f"{name}: the same numbers, bit for bit: {compared}", soft_wrap=True)
    return 0


def _differs(what: str, name: str, contents: Contents, console: Console) -> int:
    console.print(f"{name}: other numbers: {what}", soft_wrap=True)
    changed = provenance.changes(contents.header["versions"], contents.header["commit"])
    because = ", ".join(changed) or "nothing: versions and code are those that the study began with"
    console.print(f"what is different here: {because}", soft_wrap=True)
    return 1


def _same(then: float | None, now: float | None) -> bool:
    """Bit for bit, where NaN equals NaN: the journal has one word for all that is not finite."""
    if then is None or now is None:
        return then is now
    return then == now or not (math.isfinite(then) or math.isfinite(now))


if __name__ == "__main__":
    run.leave(main())
