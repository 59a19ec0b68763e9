"""The MLflow of a team, as deploy/mlflow-server.sh starts it, and its users."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import requests

from tests.services.postgres import PASSWORD, Postgres
from tests.services.tracking_server import TrackingServer

SCRIPT = Path(__file__).resolve().parents[2] / "deploy" / "mlflow-server.sh"
ADMIN = ("admin", "correct horse battery")
_TIMEOUT = 60.0


class TeamServer(TrackingServer):
    """A server with logins; runs and logins lie in a database of `server`."""

    def __init__(self, server: Postgres, folder: Path) -> None:
        """folder: for artifacts, and what the server says and writes."""
        uri = f"postgresql://postgres@127.0.0.1:{server.port}/{server.database()}"
        super().__init__(uri, folder)

    def _command(self) -> tuple[list[str], dict[str, str]]:
        return [str(SCRIPT)], {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PGPASSWORD": PASSWORD,
            "MLFLOW_BACKEND_STORE_URI": self._database,
            "MLFLOW_ARTIFACTS_DESTINATION": str(self.folder / "artifacts"),
            "MLFLOW_AUTH_ADMIN_PASSWORD": ADMIN[1],
            "MLFLOW_FLASK_SERVER_SECRET_KEY": "a long random text",
            "MLFLOW_PORT": str(self._port),
            "MLFLOW_WORKERS": "1",
            "MLFLOW_SERVER_FOLDER": str(self.folder / "server"),
        }

    def refusal(self, **changed: str) -> str:
        """What the script says when it refuses its environment with these variables."""
        words, environment = self._command()
        done = subprocess.run(
            words,
            env={**os.environ, **environment, **changed},
            capture_output=True,
            text=True,
            timeout=_TIMEOUT,
        )
        assert (done.returncode, done.stdout) == (2, "")
        return done.stderr

    def add_user(self, name: str, password: str) -> None:
        """Lets the admin make a user."""
        user = {"username": name, "password": password}
        self.call("POST", "api/2.0/mlflow/users/create", ADMIN, json=user).raise_for_status()

    def call(
        self, method: str, path: str, login: tuple[str, str] | None = None, **options: Any
    ) -> requests.Response:
        """Its answer to a request."""
        return requests.request(
            method, f"{self.uri}/{path}", auth=login, timeout=_TIMEOUT, **options
        )
