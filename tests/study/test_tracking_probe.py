"""Whether a tracking store answers, asked before a study starts."""

from __future__ import annotations

import base64
import errno
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from study import preflight, tracking_probe
from study.tracking_probe import Problem, problem
from study.yamlfile import SpecError

SETTINGS = ("USERNAME", "PASSWORD", "TOKEN", "AUTH", "INSECURE_TLS", "SERVER_CERT_PATH")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in SETTINGS:
        monkeypatch.delenv(f"MLFLOW_TRACKING_{name}", raising=False)
    return tmp_path


@contextmanager
def answering(status: Callable[[BaseHTTPRequestHandler], int]) -> Iterator[int]:
    """The port of a server that answers with a status."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            assert self.path.startswith("/api/2.0/mlflow/experiments/search")
            self.send_response(status(self))
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Says nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


@pytest.fixture
def guarded() -> Iterator[str]:
    """Host and port of a server that lets in ada with the password p/w, and nobody else."""
    key = base64.b64encode(b"ada:p/w").decode()
    with answering(
        lambda asked: 200 if asked.headers["Authorization"] == f"Basic {key}" else 401
    ) as port:
        yield f"127.0.0.1:{port}"


def test_a_server_that_answers_and_a_file_have_no_problem() -> None:
    with answering(lambda asked: 200) as port:
        assert problem(f"http://127.0.0.1:{port}/") is None
    assert problem("sqlite:////srv/mlflow.db") is None


def test_a_password_counts_wherever_mlflow_takes_it_from(
    guarded: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert problem(f"http://ada:p%2Fw@{guarded}") is None
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ada")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "p/w")
    assert problem(f"http://{guarded}") is None


@pytest.mark.parametrize("status", [401, 403])
def test_a_refusal_lasts(status: int) -> None:
    with answering(lambda asked: status) as port:
        found = problem(f"http://ada:hunter2@127.0.0.1:{port}")
        assert found is not None
        assert found.lasting
        assert f"HTTP {status}" in found.text
        with pytest.raises(SpecError, match="--tracking-uri: MLflow at http://") as caught:
            preflight.tracking_answers("tiny", f"http://ada:hunter2@127.0.0.1:{port}", print)
    assert "hunter2" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_token_is_sent_as_mlflow_sends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "t0ken")
    with answering(
        lambda asked: 200 if asked.headers["Authorization"] == "Bearer t0ken" else 401
    ) as port:
        assert problem(f"http://127.0.0.1:{port}") is None


def test_where_only_mlflow_can_sign_in_nothing_is_asked(
    guarded: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"http://{guarded}"
    assert problem(uri) is not None
    with monkeypatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_AUTH", "plugin")
        assert problem(uri) is None
    (home / ".mlflow").mkdir()
    (home / ".mlflow/credentials").write_text("[mlflow]")
    assert problem(uri) is None


def test_an_error_of_the_server_passes() -> None:
    with answering(lambda asked: 503) as port:
        assert problem(f"http://127.0.0.1:{port}") == Problem(
            "answers HTTP 503 Service Unavailable"
        )


def test_a_server_that_is_down_is_one_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{taken.getsockname()[1]}"
        warnings: list[str] = []
        preflight.tracking_answers("tiny", uri, warnings.append)
    [warning] = warnings
    assert warning == (
        f"MLflow at {uri}: [Errno {errno.ECONNREFUSED}] Connection refused; the study runs all the "
        "same, MLflow catches up when it answers, or later with python -m study.sync tiny"
    )


def test_a_server_that_says_nothing_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking_probe, "PATIENCE", 0.1)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        found = problem(f"http://127.0.0.1:{silent.getsockname()[1]}")
    assert found == Problem("no answer within 5 s")
