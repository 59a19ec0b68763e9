"""The disk of a study fills up, and is emptied again."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.faults import checks, moments
from tests.faults.checks import TRIALS
from tests.faults.ground import PATIENCE, Ground, Place
from tests.faults.moments import Moment
from tests.faults.outcome import Outcome

_SIZE = "140m"  # a study wants 100 MB at its start
_BLOCKS = (1 << 20, 1 << 12, 1)
_FULL = "No space left on device"


class _NotAllowedError(Exception):
    """To mount anything here."""


def full(ground: Ground) -> Outcome:
    """A file fills the disk of the study's folder at a random moment, and is deleted later."""
    fault, rounds, problems = "disk full", ground.rounds(5), []
    randomness, how = ground.randomness(fault), f"tmpfs of {_SIZE}B filled up"
    again = 0.0
    for number in range(rounds):
        # the last one is hit while it writes its verdict
        ends = TRIALS if number == 4 else randomness.randint(1, TRIALS - 2)
        moment = Moment(ends, 0 if ends == TRIALS else randomness.uniform(0, 1))
        disk = ground.folder / f"disk-{ground.count(fault)}"
        try:
            with _mounted(disk):
                place = ground.place(fault, out=disk / "studies")
                found = _fill(place, disk, moment)
                found += [*_readable(place), *checks.ended_with(place.run(), 0)]
                seen, calm = place.seen(), ground.calm.seen
                found += [*checks.same(seen, calm), *place.mirror_problems()]
        except _NotAllowedError as error:
            return Outcome(fault, how, skipped=str(error))
        again += checks.lost(seen, calm)
        problems += [f"at {moment}: {each}" for each in found]
        ground.say(f"full at {moment}: {len(found)} problems")
    held = f"code 1 in one line, records readable, same bytes; {again / rounds:.2f} epochs lost"
    return Outcome(fault, how, rounds, held, tuple(problems))


def _fill(place: Place, disk: Path, moment: Moment) -> list[str]:
    """Fills the disk while the command runs; what did not hold of how it ended."""
    filler = disk / "filler"
    with place.command() as command:
        if not moments.comes(command, moment, place.ends, PATIENCE):
            return ["ended before the disk was full"]
        try:
            with filler.open("wb", buffering=0) as file:
                for size in _BLOCKS:
                    _write_all(file.fileno(), size)
            ended = command.ended(PATIENCE)
        finally:
            filler.unlink(missing_ok=True)
    problems = checks.ended_with(ended, 1)
    if _FULL not in ended.err:
        problems.append(f"did not say that the disk is full: {ended.err!r}")
    return problems


def _write_all(file: int, size: int) -> None:
    """Writes blocks until none of this size fits."""
    block = bytes(size)
    while True:
        try:
            os.write(file, block)
        except OSError:
            return


def _readable(place: Place) -> list[str]:
    """Whether journal and ledger can be read, and agree on what was handed out."""
    from study import journal

    try:
        contents = journal.read(place.home / "journal.jsonl")
        ledger = place.seen().ledger
    except Exception as error:  # whatever it is that reading raises, it must not
        return [f"journal or ledger cannot be read: {error!r}"]
    done = sum(states.get("COMPLETE", 0) for states in ledger.values())
    if done > len(contents.ends):
        return [f"the ledger knows {done} ends, the journal only {len(contents.ends)}"]
    return []


@contextmanager
def _mounted(folder: Path) -> Iterator[None]:
    """A small disk of its own. Raises _NotAllowedError where nothing may be mounted."""
    mount, unmount = shutil.which("mount"), shutil.which("umount")
    if mount is None or unmount is None:
        raise _NotAllowedError("there is no program mount")
    folder.mkdir()
    words = [mount, "-t", "tmpfs", "-o", f"size={_SIZE}", "tmpfs", str(folder)]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise _NotAllowedError(f"mounting is not allowed: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run([unmount, "--lazy", str(folder)], check=True)
