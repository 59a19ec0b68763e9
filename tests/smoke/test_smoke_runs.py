"""Smoke runs as a user starts them, on a real Ray."""

from __future__ import annotations

import signal
import tempfile
from pathlib import Path

import pytest

from tests.study.command import SPEC, journal_lines, run, running

pytestmark = pytest.mark.ray


def test_smoke_runs_of_several_studies_leave_nothing_and_tell_no_verdict(tmp_path: Path) -> None:
    photographs = SPEC.with_name("cifar10_images.yaml")
    ended = run(tmp_path, arguments=[str(photographs), "--smoke"])
    assert ended.code == 0, ended.err
    assert ended.err == ""
    assert ended.lines == [
        "smoke_norm_vs_all: sgd and sam_all, a few digits as digits",
        "smoke_norm_vs_all: 8 trials ran, 0 failed; no verdict",
        "smoke_cifar10_images: sgd and sam_all, a few digits as imagefolder",
        "smoke_cifar10_images: 8 trials ran, 0 failed; no verdict",
    ]
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_smoke_run_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("RAY_TMPDIR", tempfile.gettempdir())  # its sockets need short paths
    monkeypatch.setenv("TMPDIR", str(scratch))
    with running(tmp_path, arguments=["--smoke"]) as command:
        command.wait_for(lambda: any(journal_lines(p) for p in scratch.glob("sam-*/0/smoke_*")))
        command.signal(signal.SIGINT)
        stopped = command.ended()
        assert stopped.code == 130
        assert stopped.err.strip() == "interrupted"
        assert command.wait_for_children() == {}
    assert list(scratch.glob("sam-study-*")) == []
    assert [path.name for path in tmp_path.iterdir()] == ["scratch"]
