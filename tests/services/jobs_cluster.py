"""A Ray cluster of several nodes on this machine, let in by a token alone, with its Jobs API."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path

import requests

from tests.faults.processes import below, find, kill, wait_until_gone
from tests.services.postgres import free_port

_PATIENCE = 60.0  # seconds until a node is there
_GOES = 10.0  # seconds that a node has to end by itself


class JobsCluster:
    """A head without CPUs for trials, and workers of one CPU each.

    folder: for what the nodes write, short, because sockets lie there. environment: what a study
    finds on the head besides. A node has a folder of its own: nodes of one machine that share one
    take a job's files away from each other.
    """

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.token = secrets.token_hex(32)
        self.address = f"http://127.0.0.1:{free_port()}"
        self.client_port = free_port()
        self._port = free_port()
        self.nodes = f"127.0.0.1:{self._port}"
        """Where nodes and drivers join."""
        self._folder = folder
        self._environment = environment
        self._nodes: list[subprocess.Popen[bytes]] = []

    @property
    def access(self) -> dict[str, str]:
        """The environment of whoever is let in."""
        return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token}

    def start(self) -> None:
        """Starts the head and waits until it answers."""
        self._node(
            *("--head", f"--port={self._port}", "--num-cpus=0", "--dashboard-host=127.0.0.1"),
            f"--dashboard-port={self.address.rpartition(':')[2]}",
            f"--ray-client-server-port={self.client_port}",
        )
        deadline = time.monotonic() + _PATIENCE
        while self.status("api/version", self.token) != 200:
            assert time.monotonic() < deadline, self._said(0)
            time.sleep(0.2)

    def add_worker(self) -> subprocess.Popen[bytes]:
        """Starts a worker; it joins a few seconds later."""
        self._node(f"--address={self.nodes}", "--num-cpus=1")
        return self._nodes[-1]

    def lose(self, node: subprocess.Popen[bytes]) -> None:
        """Ends a node with all its processes at once, as a machine that is taken away."""
        itself = find(node.pid)
        family = below(node.pid) + ([] if itself is None else [itself])
        for process in family:
            kill(process)
        node.wait()
        self._nodes.remove(node)

    def status(self, path: str, token: str | None) -> int:
        """The HTTP status with which it answers; 0 where it does not."""
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        try:
            return requests.get(f"{self.address}/{path}", headers=headers, timeout=10).status_code
        except requests.ConnectionError:
            return 0

    def stop(self) -> None:
        """Ends every node."""
        for node in reversed(self._nodes):
            family = below(node.pid)
            node.send_signal(signal.SIGTERM)
            for process in wait_until_gone(family, _GOES):
                kill(process)
            node.wait()
        self._nodes.clear()

    def _node(self, *words: str) -> None:
        number = len(list(self._folder.glob("*.log")))
        with (self._folder / f"{number}.log").open("wb") as log:
            self._nodes.append(
                subprocess.Popen(
                    [
                        *(sys.executable, "-m", "ray.scripts.scripts", "start", *words),
                        f"--temp-dir={self._folder / str(number)}",
                        f"--dashboard-agent-listen-port={free_port()}",
                        *("--disable-usage-stats", "--block"),
                    ],
                    env={**self._inherited(), **self._environment, **self.access},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            )

    @staticmethod
    def _inherited() -> dict[str, str]:
        """This environment, where `python` is this one, and does not find this code by itself."""
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        kept = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        return {**kept, "PATH": path}

    def _said(self, number: int) -> str:
        return (self._folder / f"{number}.log").read_text()
