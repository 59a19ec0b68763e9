"""What the command makes of a user's environment in which things are missing."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.study.command import ROOT, SPEC

KEPT = ("PATH", "LD_LIBRARY_PATH", "VIRTUAL_ENV")
BARE = {key: os.environ[key] for key in KEPT if key in os.environ} | {"PYTHONPATH": str(ROOT)}
ENVIRONMENTS: Mapping[str, Mapping[str, str]] = {
    "no HOME, TERM or cache folder": {},
    "a HOME that is not there": {"HOME": "/nowhere", "XDG_CACHE_HOME": "/nowhere/cache"},
    "a TMPDIR that is not there": {"TMPDIR": "/nowhere"},
    "a terminal of ASCII": {"LANG": "C", "PYTHONIOENCODING": "ascii", "COLUMNS": "80"},
    "LC_ALL=C": {"LC_ALL": "C"},
    "a language that is not there": {"LANG": "xx_XX.UTF-9"},
    "TERM=dumb": {"TERM": "dumb"},
    "columns that are no number": {"COLUMNS": "x", "LINES": "-1"},
}
WRONG = ("--set", "confirm.seeds=×±")
PLAN = ("--set", "question=is 1 ± 2 × 3 \N{GRINNING FACE}?", "--plan")


def run(
    words: tuple[str, ...],
    environment: Mapping[str, str],
    folder: Path | str,
    redirect: str = "",
) -> subprocess.CompletedProcess[str]:
    """Runs the command in a shell, the only one that can close or cut its output as a user does."""
    line = f'"$0" -m study.run "$@" {redirect}'
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", line, sys.executable, str(SPEC), *words],
        cwd=folder,
        env={**BARE, **environment},
        capture_output=True,
        text=True,
        errors="replace",
        timeout=120,
    )


@pytest.mark.parametrize("title", ENVIRONMENTS)
def test_a_plan_and_an_error_are_told_whatever_the_environment_lacks(
    title: str, tmp_path: Path
) -> None:
    planned = run(PLAN, ENVIRONMENTS[title], tmp_path)
    assert (planned.returncode, planned.stderr) == (0, "")
    assert "norm_vs_all: is 1 " in planned.stdout
    wrong = run(WRONG, ENVIRONMENTS[title], tmp_path)
    assert (wrong.returncode, wrong.stdout) == (2, "")
    [line] = wrong.stderr.splitlines()
    assert "must be a whole number" in line
    assert list(tmp_path.iterdir()) == []


def test_what_ascii_cannot_say_is_said_in_other_words(tmp_path: Path) -> None:
    planned = run(PLAN, ENVIRONMENTS["a terminal of ASCII"], tmp_path)
    assert "is 1 +- 2 x 3 ??" in planned.stdout


def test_a_folder_that_cannot_be_written_is_enough_for_a_plan_and_told_by_a_study() -> None:
    assert run(PLAN, {}, "/proc").returncode == 0
    study = run((), {}, "/proc")
    assert (study.returncode, study.stdout) == (2, "")
    [line] = study.stderr.splitlines()
    assert line.startswith("/proc/studies/norm_vs_all: ")


def test_a_folder_that_was_deleted_is_told(tmp_path: Path) -> None:
    inside = tmp_path / "gone"
    inside.mkdir()
    code = f"import os, sys; os.rmdir({str(inside)!r}); from study import run; sys.exit(run.main())"
    done = subprocess.run(
        [sys.executable, "-c", code, str(SPEC)],
        cwd=inside,
        env=BARE,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2, done.stderr
    [line] = done.stderr.splitlines()
    assert line == "the current folder was deleted; go to another one"


@pytest.mark.parametrize("redirect", ["| head -1", "| true"])
def test_a_reader_that_has_seen_enough_is_no_error(redirect: str, tmp_path: Path) -> None:
    done = run(PLAN, {}, tmp_path, redirect)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("redirect", [">&-", "2>&-", ">&- 2>&-", "<&-"])
def test_closed_output_changes_no_exit_code(redirect: str, tmp_path: Path) -> None:
    planned, wrong = run(PLAN, {}, tmp_path, redirect), run(WRONG, {}, tmp_path, redirect)
    assert (planned.returncode, wrong.returncode) == (0, 2), (planned.stderr, wrong.stderr)
    assert "Traceback" not in planned.stderr + wrong.stderr


def test_output_on_a_full_disk_is_told_in_one_line(tmp_path: Path) -> None:
    done = run(PLAN, {}, tmp_path, "> /dev/full")
    assert done.returncode == 1
    assert done.stderr.splitlines() == ["cannot write the output: No space left on device"]
