"""The folder of a study: one process at a time, one spec, and clear words where it is unusable."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from study import preflight
from study.home import Home
from study.journal import Journal
from study.journal_reader import VERSION
from study.yamlfile import SpecError
from tests.study.command import ROOT
from tests.study.synthetic import HEADER, make_spec

FACTS = {"hash": "feed", "undecodable": []}
SPEC = make_spec()


@contextmanager
def another_process_in(out: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the study `tiny`."""
    code = (
        "import sys\nfrom pathlib import Path\nfrom study.home import Home\n"
        "with Home(Path(sys.argv[1]), 'tiny').claimed():\n"
        "    print('held', flush=True)\n    sys.stdin.read()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(out)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def begin(out: Path) -> Home:
    home = Home(out, "tiny")
    with home.claimed(), preflight.opened(home, SPEC, FACTS):
        pass
    return home


def test_a_study_belongs_to_one_process_until_that_ends_however_it_ends(tmp_path: Path) -> None:
    home = Home(tmp_path, "tiny")
    with another_process_in(tmp_path) as process:
        with (
            pytest.raises(
                SpecError, match=rf"another process \(pid {process.pid} on .+, since 20.+\) runs"
            ),
            home.claimed(),
        ):
            pass
        with pytest.raises(SpecError, match="runs this study; wait for it"):
            home.check_free()
        with Home(tmp_path, "other").claimed():
            pass
        process.send_signal(signal.SIGKILL)
        process.wait()
        with home.claimed():
            pass


def test_the_claim_ends_with_an_exception(tmp_path: Path) -> None:
    home = Home(tmp_path, "tiny")
    with pytest.raises(ZeroDivisionError), home.claimed():
        raise ZeroDivisionError
    home.check_free()


def test_the_same_spec_goes_on_and_another_is_refused_with_the_ways_out(tmp_path: Path) -> None:
    home = begin(tmp_path)
    before = home.journal.read_bytes()
    assert home.check_same(make_spec("question=Worded otherwise?")) is not None
    with pytest.raises(SpecError) as caught:
        home.check_same(make_spec("confirm.seeds=7", "workload.optimizer.lr=0.2"))
    told = str(caught.value).splitlines()
    assert [line for line in told if line[:1] in "+-" and line[:3] not in ("+++", "---")] == [
        "-    lr: 0.1",
        "+    lr: 0.2",
        "-  seeds: 6",
        "+  seeds: 7",
    ]
    ways = "(--set study=tiny_2), undo the change to go on with the old one, or move"
    assert f"{ways} {home.folder} away" in " ".join(told)
    assert home.journal.read_bytes() == before


def test_a_spec_of_another_version_is_told_in_one_line(tmp_path: Path) -> None:
    home = Home(tmp_path, "tiny")
    with home.claimed():
        journal = Journal(home.journal)
        plain = {**SPEC.model_dump(), "tune": {"budget": 3}}
        journal.append({**HEADER, "version": VERSION, "spec": plain, "hash": "x"})
        journal.close()
    with pytest.raises(SpecError, match="written by another version of this program") as caught:
        home.check_same(SPEC)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("left", [b"", b'{"kind": "header", "vers'])
def test_a_crash_before_the_first_line_leaves_a_study_that_can_begin(
    tmp_path: Path, left: bytes
) -> None:
    home = Home(tmp_path, "tiny")
    with home.claimed():
        home.journal.write_bytes(left)
    assert home.check_same(SPEC) is None
    begin(tmp_path)
    assert home.begun()[0] == SPEC


def test_damaged_lines_are_noted_once_and_the_study_goes_on(tmp_path: Path) -> None:
    home = begin(tmp_path)
    whole = home.journal.read_bytes()
    home.journal.write_bytes(whole + b'{"kind": "end", "tri\x00\n' + b'{"kind": "note"}\n')
    begin(tmp_path)
    begin(tmp_path)
    contents = home.begun()[1]
    assert contents.damaged == (2, 3)
    assert contents.notes == (contents.damage,)


def test_a_damaged_header_is_named_with_what_to_do(tmp_path: Path) -> None:
    home = begin(tmp_path)
    home.journal.write_bytes(home.journal.read_bytes().replace(b'"commit"', b'"comnit"'))
    with pytest.raises(SpecError) as caught:
        home.check_same(SPEC)
    assert str(caught.value) == (
        f"{home.journal}: not a journal, or its first line, which says what the study is, is "
        f"damaged; restore it from a copy, or move the folder {home.folder} away"
    )


def test_a_journal_that_cannot_be_read_is_told_in_one_line(tmp_path: Path) -> None:
    home = begin(tmp_path)
    home.journal.unlink()
    home.journal.mkdir()
    for look in (home.contents, home.rounds, partial(home.check_same, make_spec())):
        with pytest.raises(SpecError, match=r"journal.jsonl: cannot be read: Is a directory"):
            look()


def test_a_file_without_line_ends_that_is_no_journal_is_not_cut_off(tmp_path: Path) -> None:
    home = begin(tmp_path)
    home.journal.write_bytes(b"\x00\x01")
    with pytest.raises(SpecError, match="not a journal; restore it from a copy, or move"):
        home.check_same(SPEC)


def test_of_two_processes_that_claim_at_once_exactly_one_gets_it(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom study.home import Home\n"
        "from study.yamlfile import SpecError\nprint('ready', flush=True)\n"
        "for line in sys.stdin:\n"
        "    try:\n"
        "        with Home(Path(sys.argv[1]), line.strip()).claimed():\n"
        "            print('runs', flush=True)\n            sys.stdin.readline()\n"
        "    except SpecError as error:\n"
        "        print(error, flush=True)\n        sys.stdin.readline()\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    both = [
        subprocess.Popen(command, cwd=ROOT, bufsize=1, text=True, **pipes)  # type: ignore[call-overload]
        for _ in range(2)
    ]
    try:
        assert [process.stdout.readline() for process in both] == ["ready\n"] * 2
        for number in range(20):
            for process in both:
                process.stdin.write(f"study{number}\n")
            told = [process.stdout.readline() for process in both]
            assert told.count("runs\n") == 1
            assert (
                sum("runs this study; wait for it, or stop it first" in each for each in told) == 1
            )
            for process in both:
                process.stdin.write("\n")
    finally:
        for process in both:
            process.kill()
            process.communicate()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_told(
    tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", refuse)
    with (
        pytest.raises(SpecError, match=r"its file system has no locks .*another folder with --out"),
        Home(tmp_path, "tiny").claimed(),
    ):
        pass


def test_a_holder_that_has_not_said_who_it_is_is_another_process(tmp_path: Path) -> None:
    with another_process_in(tmp_path):
        (tmp_path / "tiny" / "lock").write_bytes(b"")
        with pytest.raises(SpecError, match="another process runs this study"):
            Home(tmp_path, "tiny").check_free()


def test_a_ledger_without_its_journal_is_refused(tmp_path: Path) -> None:
    home = begin(tmp_path)
    home.journal.unlink()
    home.ledger.write_text("")
    with pytest.raises(SpecError, match="holds a ledger without its journal; move it away"):
        home.check_same(SPEC)


def test_folders_that_cannot_be_are_told_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    for out in (file, file / "below", tmp_path / ("x" * 300), Path("/proc/nowhere")):
        home = Home(out, "tiny")
        with pytest.raises(SpecError) as caught:  # noqa: PT012 (whichever of the three comes first)
            home.check_same(SPEC)
            preflight.writable(home)
            with home.claimed():
                pass
        assert "cannot be " in str(caught.value)
        assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_study_that_is_asked_for_by_a_wrong_name_is_not_made(tmp_path: Path) -> None:
    begin(tmp_path)
    with pytest.raises(SpecError, match=r"holds no study 'tinny'; .*did you mean 'tiny'\?"):
        Home(tmp_path, "tinny").begun()
    with pytest.raises(SpecError, match="studies there: none"):
        Home(tmp_path / "nowhere", "tiny").begun()
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]


def test_who_drives_a_study_is_known_from_its_lock(tmp_path: Path) -> None:
    home = Home(tmp_path, "tiny")
    assert not home.is_driven()
    with home.claimed():
        assert home.is_driven()
        lock = (home.folder / "lock").read_bytes()
    assert not home.is_driven()
    holder = json.loads(lock)
    elsewhere = json.dumps({**holder, "machine": "another boot"}).encode()
    for dead in (lock.replace(b'"started": ', b'"started": 1'), elsewhere, b"{}", b"[1]", b"\xff"):
        (home.folder / "lock").write_bytes(dead)
        assert not home.is_driven(), dead
    with home.claimed():
        (home.folder / "lock").write_bytes(elsewhere)
        assert home.is_driven()


def test_a_study_begun_before_the_engine_settings_goes_on(tmp_path: Path) -> None:
    home = Home(tmp_path, "tiny")
    plain = SPEC.model_dump()
    del plain["engine"]
    with home.claimed():
        journal = Journal(home.journal)
        journal.append({**HEADER, "version": VERSION, "spec": plain, "hash": "of then"})
        journal.close()
    assert home.check_same(SPEC) is not None
    other = SPEC.model_copy(update={"engine": SPEC.engine.model_copy(update={"eval_batch": 64})})
    with pytest.raises(SpecError, match="eval_batch: 64"):
        home.check_same(other)
