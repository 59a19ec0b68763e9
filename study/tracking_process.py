"""The child process that mirrors a running study into MLflow. Imports no mlflow."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from study.tracking_uri import VARIABLE, default_uri, masked

LOG = "mlflow.log"
_WHEN_DONE, _WHEN_INTERRUPTED = 120.0, 6.5  # seconds that the child may take to catch up


class MirrorProcess:
    """Runs `study.sync --follow` beside a study.

    The child lives as long as its standard input: when the study's process dies, however it dies,
    the child writes what is left and ends.
    """

    def __init__(self, process: subprocess.Popen[bytes], log: Path, catch_up: str) -> None:
        """catch_up: the command that the user types when the mirror is behind."""
        self._process = process
        self._log = log
        self._catch_up = catch_up

    @classmethod
    def start(cls, name: str, out: Path, uri: str) -> MirrorProcess:
        """Starts the child. out: folder of all studies; the study's own is there already.

        Raises OSError when the process cannot be started.
        """
        log_path = out / name / LOG
        command = [sys.executable, "-m", "study.sync", name, "--out", str(out.absolute())]
        command += ["--follow"]
        with log_path.open("ab") as log:
            process = subprocess.Popen(  # noqa: S603 (no shell)
                command,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, VARIABLE: uri},  # not an argument: it may hold a password
                start_new_session=True,  # Ctrl-C in the terminal is meant for the study alone
            )
        return cls(process, log_path, _catch_up_command(name, out, uri))

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
        return self._behind(self._last_line() or f"its process ended with code {code}")

    def _last_line(self) -> str:
        said = self._log.read_text(errors="replace").splitlines()
        return said[-1] if said else ""

    def _behind(self, reason: str) -> str:
        return f"MLflow is behind ({reason}); to catch up: {self._catch_up}"


def _catch_up_command(name: str, out: Path, uri: str) -> str:
    command = ["python", "-m", "study.sync", name]
    if out.absolute() != Path.cwd() / "studies":
        command += ["--out", str(out)]
    if uri != default_uri(Path.cwd()):
        command += ["--tracking-uri", masked(uri)]
    return shlex.join(command)


@contextmanager
def mirrored(
    name: str, out: Path, uri: str, warn: Callable[[str], None]
) -> Iterator[MirrorProcess]:
    """Mirrors the study while the context lasts. warn: told when MLflow stays behind."""
    process = MirrorProcess.start(name, out, uri)
    patience = _WHEN_INTERRUPTED
    try:
        yield process
        patience = _WHEN_DONE
    finally:
        if warning := process.stop(patience):
            warn(warning)
