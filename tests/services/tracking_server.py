"""`mlflow server` as a team runs it: a database behind it, artifacts through it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from tests.services.postgres import free_port

_PATIENCE = 180.0  # seconds; the first start makes the tables
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
}


class TrackingServer:
    """A server that starts and stops, always at the same address."""

    def __init__(self, database: str, folder: Path) -> None:
        """database: its URL. folder: for artifacts and what the server says."""
        self._port = free_port()
        self._database = database
        self.folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self.uri = f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Starts it and waits until it answers."""
        words, environment = self._command()
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                words,
                cwd=self.folder,
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + _PATIENCE
        while not self._answers():
            log_text = (self.folder / "log").read_text()
            assert self._process.poll() is None, log_text
            assert time.monotonic() < deadline, log_text
            time.sleep(0.1)

    def _command(self) -> tuple[list[str], dict[str, str]]:
        """What starts it, and what it finds in its environment besides."""
        words = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"]
        words += ["--port", str(self._port), "--workers", "1"]
        words += ["--backend-store-uri", self._database]
        words += ["--artifacts-destination", str(self.folder / "artifacts")]
        return words, _ENVIRONMENT

    def stop(self) -> None:
        """Ends it with all its processes; a second time changes nothing."""
        if self._process is None:
            return
        os.killpg(self._process.pid, signal.SIGTERM)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._process = None

    def kill(self) -> None:
        """Ends it with all its processes at once, as a machine that loses power."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._process = None

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=1) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False
