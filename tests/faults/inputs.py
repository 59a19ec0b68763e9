"""Mutated inputs: study files, folders of images, journals."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from tests.faults import checks
from tests.faults.ground import STUDY, Ground, Place
from tests.faults.outcome import Outcome
from tests.study.command import run
from tests.study.mutated_journals import mutated

_LONGEST = 2000  # characters of an answer, the path of a file among them
_HANGS = 60  # seconds, in this process
_SAMPLE, _SHORT_SAMPLE = 5, 2
"""So many of each kind go through the real command; the others through its code in this process."""


@dataclass(frozen=True)
class _Answer:
    """code: None where the command ended with an exception that no user should see."""

    code: int | None
    out: str
    err: str


def specs(ground: Ground) -> Outcome:
    """Study files and --set arguments that are wrong in every way that came to mind."""
    from study import run as command
    from tests.hostile import specs as hostile

    fault, count = "mutated specs", ground.rounds(400, 300)
    sample = ground.rounds(_SAMPLE, _SHORT_SAMPLE)
    folder = ground.folder / "mutated-specs"
    folder.mkdir()
    path = folder / "spec.yaml"
    problems, codes, refused = [], Counter[int | None](), []
    for spec in hostile(ground.seed, count):
        path.write_bytes(spec.content)
        words = [str(path), *(word for each in spec.settings for word in ("--set", each))]
        before = _files(folder)
        answer = _asked(command.main, [*words, "--plan"], folder)
        codes[answer.code] += 1
        problems += [f"{spec.title}: {each}" for each in _wrong(answer, (0, 2))]
        problems += [f"{spec.title}: made {made}" for made in _files(folder).keys() - before.keys()]
        if answer.code == 2 and "\0" not in "".join(words):
            refused.append(spec)
    for spec in ground.randomness(fault).sample(refused, min(sample, len(refused))):
        path.write_bytes(spec.content)
        ended = run(folder, spec.settings, path)
        problems += [f"{spec.title}, command: {each}" for each in checks.ended_with(ended, 2)]
        if made := sorted(each.name for each in folder.iterdir() if each != path):
            problems.append(f"{spec.title}, command: made {made}")
    how = f"--plan of each, {sample} of those refused through the command"
    return Outcome(fault, how, count, _told(codes), tuple(problems))


def image_folders(ground: Ground) -> Outcome:
    """Folders of images with files and links that are none, or that eat memory."""
    from tests.hostile import image_folders as hostile

    fault, count = "mutated image folders", ground.rounds(100, 50)
    sample = ground.rounds(_SAMPLE, _SHORT_SAMPLE)
    top = ground.folder / "mutated-folders"
    top.mkdir()
    problems, codes, refused = [], Counter[int | None](), []
    for number, folder in enumerate(hostile(ground.seed, count)):
        root = top / str(number)
        folder.make(root)
        answer = _asked(_load, [str(root), str(top / "cache")], top)
        codes[answer.code] += 1
        found = _wrong(answer, (0, 2))
        if answer.code != (0 if folder.usable else 2):
            found.append(f"exit code {answer.code}: {answer.err}")
        problems += [f"{folder.title}: {each}" for each in found]
        if not folder.usable:
            refused.append((folder.title, root))
    for title, root in ground.randomness(fault).sample(refused, min(sample, len(refused))):
        place = ground.place(fault, settings=_of_images(root))
        problems += [f"{title}, command: {each}" for each in checks.ended_with(place.run(), 2)]
        if place.out.exists():
            problems.append(f"{title}, command: made {place.out.name}")
    how = f"loaded each, {sample} of those refused through the command"
    return Outcome(fault, how, count, _told(codes), tuple(problems))


def journals(ground: Ground) -> Outcome:
    """The journal of a study that is done, with bytes or lines changed."""
    from study import report

    fault, count = "mutated journals", ground.rounds(200, 56)
    sample = ground.rounds(_SAMPLE, _SHORT_SAMPLE)
    whole, problems = ground.copy_of_calm(fault), []
    journal = whole.home / "journal.jsonl"
    codes = Counter[int | None]()
    made = list(mutated(ground.seed, count, journal.read_bytes()))
    for title, garbled in made:
        journal.write_bytes(garbled)
        before = _files(whole.home)
        answer = _asked(report.main, [STUDY, "--out", str(whole.out)], whole.folder)
        codes[answer.code] += 1
        found = _wrong(answer, (0, 1, 2))
        if answer.code == 2 and _files(whole.home) != before:
            found.append("refused, and yet the folder is another")
        if journal.read_bytes() != garbled:
            found.append("a report changed the journal")
        problems += [f"{title}: {each}" for each in found]
    for title, garbled in ground.randomness(fault).sample(made, sample):
        journal.write_bytes(garbled)
        problems += [f"{title}, command: {each}" for each in _gone_on(whole)]
    how = f"report of each, {sample} through the command"
    return Outcome(fault, how, count, _told(codes), tuple(problems))


def _gone_on(place: Place) -> list[str]:
    """What does not hold of the command on a garbled journal: it goes on, or refuses in a line."""
    ended = place.run()
    if "Traceback" in ended.err:
        return [f"a traceback: {ended.err[-1000:]}"]
    if ended.code == 2:
        return checks.ended_with(ended, 2)
    return [] if ended.code in (0, 1) else [f"exit code {ended.code}: {ended.err!r}"]


def _load(arguments: Sequence[str]) -> int:
    """Loads a folder of images as the process that loads data does; told as the command does."""
    from trainables.data import DataError, load_pool, load_test

    root, os.environ["XDG_CACHE_HOME"] = arguments
    try:
        load_pool("imagefolder", root=Path(root), image_size=8)
        load_test("imagefolder", root=Path(root), image_size=8)
    except DataError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _of_images(root: Path) -> tuple[str, ...]:
    sizes = "train_size: 2, validation_size: 1, image_size: 8"
    return (
        f"workload.data={{name: imagefolder, {sizes}}}",
        f"workload.data.root={root}",
        "workload.batch_size=1",
    )


def _asked(
    command: Callable[[Sequence[str]], int], arguments: Sequence[str], folder: Path
) -> _Answer:
    """Runs a command in this process, in `folder`."""
    out, err = io.StringIO(), io.StringIO()
    code: int | None
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        contextlib.chdir(folder),
        warnings.catch_warnings(),
        _no_hang(),
    ):
        try:
            code = command(arguments)
        except SystemExit as left:  # argparse
            code = left.code if isinstance(left.code, int) else None
        except Exception as error:  # what a user would see as a traceback is what is looked for
            return _Answer(None, out.getvalue(), f"{type(error).__name__}: {error}")
    return _Answer(code, out.getvalue(), err.getvalue())


def _wrong(answer: _Answer, codes: tuple[int, ...]) -> list[str]:
    """What does not hold of an answer to hostile input. codes: that it may end with."""
    if answer.code is None:
        return [f"a traceback: {answer.err[:500]}"]
    problems = [] if answer.code in codes else [f"exit code {answer.code}"]
    if answer.code == 2:
        said = answer.err.removesuffix("\n")
        if not said or len(said) > _LONGEST or not said.isprintable():
            problems.append(f"not one line: {said[:300]!r}")
    return problems


@contextlib.contextmanager
def _no_hang() -> Iterator[None]:
    """Raises TimeoutError where its body hangs."""

    def ring(number: int, frame: FrameType | None) -> None:
        raise TimeoutError("hangs")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(_HANGS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _files(folder: Path) -> Mapping[Path, tuple[int, int]]:
    """Size and time of every file."""
    there = [path for path in folder.rglob("*") if path.is_file()]
    return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in there}


def _told(codes: Counter[int | None]) -> str:
    each = ", ".join(f"{count} x {code}" for code, count in sorted(codes.items(), key=str))
    return f"no traceback, no hang, nothing half made; exit codes {each}"
