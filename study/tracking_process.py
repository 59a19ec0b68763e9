"""The child process that mirrors a running study into MLflow. Imports no mlflow."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO

from study.tracking_uri import VARIABLE, default_uri, masked

LOG = "mlflow.log"
CAUGHT_UP = "caught up"
"""What the child says once all that the journal holds so far is in MLflow; else what is wrong."""


class MirrorProcess:
    """Runs `study.sync --follow` beside a study.

    The child lives as long as its standard input: when the study's process dies, however it dies,
    the child writes what is left and ends.
    """

    def __init__(self, name: str, out: Path, uri: str) -> None:
        """As `start`, but starts nothing yet."""
        self._command = [sys.executable, "-m", "study.sync", name, "--out", str(out.absolute())]
        self._command += ["--follow"]
        self._uri = uri
        self._log = out / name / LOG
        self._read = self._log.stat().st_size if self._log.exists() else 0
        self.catch_up = _catch_up_command(name, out, uri)
        """What the user types when the mirror is behind."""

    @classmethod
    def start(cls, name: str, out: Path, uri: str) -> MirrorProcess:
        """Starts the child. out: folder of all studies; the study's own is there already.

        Raises OSError when the process cannot be started.
        """
        mirror = cls(name, out, uri)
        mirror.spawn()
        return mirror

    def spawn(self) -> None:
        """Starts the child, the first one or another after it has died. Raises OSError."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 (no shell)
                self._command,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, VARIABLE: self._uri},  # no argument: it may hold a password
                start_new_session=True,  # Ctrl-C in the terminal is meant for the study alone
            )

    def said(self) -> list[str]:
        """Whole lines that the child wrote since the last call."""
        try:
            with self._log.open("rb") as file:
                file.seek(self._read)
                new = file.read()
        except FileNotFoundError:  # somebody tidied up
            return []
        whole = new[: new.rfind(b"\n") + 1]
        self._read += len(whole)
        return whole.decode(errors="replace").splitlines()

    def death(self) -> str | None:
        """How the child ended, though nobody told it to; None while it lives."""
        code = self._process.poll()
        return None if code is None else f"its process {_ending(code)}"

    def finish(self) -> None:
        """Tells the child that nothing more will come; it writes what is left and ends."""
        stdin: IO[bytes] | None = self._process.stdin
        if stdin is not None:
            stdin.close()

    def stop(self, timeout: float) -> str | None:
        """Lets the child write what is left, for at most `timeout` seconds.

        Returns None, or one line for the user: MLflow is behind, why, and how to catch up.
        """
        self.finish()
        try:
            code = self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self._process.kill()  # safe at any moment: how far it got is written after the fact
            self._process.wait()
            return self._behind(f"not done within {timeout:g} s")
        if code == 0:
            return None
        said = self._last_line() if code > 0 else ""
        return self._behind(said or f"its process {_ending(code)}")

    def _last_line(self) -> str:
        said = self._log.read_text(errors="replace").splitlines()
        return said[-1] if said else ""

    def _behind(self, reason: str) -> str:
        return f"MLflow is behind ({reason}); to catch up: {self.catch_up}"


def _ending(code: int) -> str:
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"


def _catch_up_command(name: str, out: Path, uri: str) -> str:
    command = ["python", "-m", "study.sync", name]
    if out.absolute() != Path.cwd() / "studies":
        command += ["--out", str(out)]
    if uri != default_uri(Path.cwd()):
        command += ["--tracking-uri", masked(uri)]
    return shlex.join(command)
