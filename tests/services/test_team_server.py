"""deploy/mlflow-server.sh, started as a team starts it, and a study of one of its users."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from study import sync, tracking, tracking_probe
from tests.services.postgres import PASSWORD, Postgres
from tests.services.team_server import ADMIN, TeamServer
from tests.study.mirror_check import assert_equals_journal
from tests.study.mirrored import Study

ADA = ("ada", "a password of hers")
BEN = ("ben", "another one of his")
SEARCH = "api/2.0/mlflow/experiments/search?max_results=10"


@pytest.fixture(scope="module")
def team(server: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TeamServer]:
    made = TeamServer(server, tmp_path_factory.mktemp("team"))
    try:
        made.start()
        for user in (ADA, BEN):
            made.add_user(*user)
        yield made
    finally:
        made.stop()


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setattr(os, "environ", {**os.environ, **sync.ENVIRONMENT})
        yield


def sign_in(user: tuple[str, str]) -> None:
    os.environ["MLFLOW_TRACKING_USERNAME"], os.environ["MLFLOW_TRACKING_PASSWORD"] = user


def mirrored(study: Study, uri: str) -> int:
    return sync.main([study.name, "--out", str(study.home.out), "--tracking-uri", uri])


def test_without_a_login_it_refuses(team: TeamServer) -> None:
    assert team.call("GET", SEARCH).status_code == 401
    assert team.call("GET", SEARCH, ("ada", "a guess of someone")).status_code == 401
    assert team.call("GET", "").status_code == 401
    assert team.call("GET", SEARCH, ADA).status_code == 200
    refused = tracking_probe.problem(team.uri)
    assert refused is not None
    assert refused.lasting
    sign_in(ADA)
    assert tracking_probe.problem(team.uri) is None


def test_only_the_admin_makes_users(team: TeamServer) -> None:
    user = {"username": "eve", "password": "chosen by herself"}
    assert team.call("POST", "api/2.0/mlflow/users/create", ADA, json=user).status_code == 403
    assert team.call("POST", "api/2.0/mlflow/users/create", json=user).status_code == 401
    assert team.call("GET", "api/2.0/mlflow/users/get?username=eve", ADMIN).status_code == 404


def test_a_wrong_host_is_refused(team: TeamServer) -> None:
    answer = team.call("GET", SEARCH, ADA, headers={"Host": "evil.example"})
    assert answer.status_code == 403
    assert "Invalid Host header" in answer.text


def test_a_study_of_one_user_is_seen_by_another_and_changed_by_its_own_alone(
    team: TeamServer, tmp_path: Path
) -> None:
    study = Study(tmp_path / "studies", name="shared")
    study.whole(study.trial())
    study.whole(study.trial(stage="confirm"))
    sign_in(ADA)
    assert mirrored(study, team.uri) == 0
    sign_in(BEN)
    assert_equals_journal(tracking.open_store(team.uri), study.home.journal)

    study.whole(study.trial(index=1))
    assert mirrored(study, team.uri) == 1
    sign_in(ADA)
    study.verdict()
    assert mirrored(study, team.uri) == 0
    assert_equals_journal(tracking.open_store(team.uri), study.home.journal)


def test_it_keeps_no_secret_on_disk(team: TeamServer) -> None:
    written = [path for path in team.folder.rglob("*") if path.is_file()]
    assert [path.name for path in written if path.suffix == ".ini"] == ["basic_auth.ini"]
    for secret in (PASSWORD, ADMIN[1], ADA[1], "a long random text"):
        assert [path for path in written if secret.encode() in path.read_bytes()] == []


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("MLFLOW_BACKEND_STORE_URI", "", "MLFLOW_BACKEND_STORE_URI is not set in the environment"),
        (
            "MLFLOW_BACKEND_STORE_URI",
            "sqlite:///mlflow.db",
            "MLFLOW_BACKEND_STORE_URI must be postgresql://USER@HOST:PORT/NAME",
        ),
        (
            "MLFLOW_BACKEND_STORE_URI",
            "postgresql://mlflow:open/sesame@db.example/mlflow",
            "MLFLOW_BACKEND_STORE_URI holds a password; give it in PGPASSWORD or ~/.pgpass",
        ),
        (
            "MLFLOW_BACKEND_STORE_URI",
            "postgresql://mlflow@db.example/mlflow?sslmode=require&password=sesame",
            "MLFLOW_BACKEND_STORE_URI holds a password; give it in PGPASSWORD or ~/.pgpass",
        ),
        (
            "MLFLOW_ARTIFACTS_DESTINATION",
            "",
            "MLFLOW_ARTIFACTS_DESTINATION is not set in the environment",
        ),
        (
            "MLFLOW_AUTH_ADMIN_PASSWORD",
            "",
            "MLFLOW_AUTH_ADMIN_PASSWORD is not set in the environment",
        ),
        (
            "MLFLOW_AUTH_ADMIN_PASSWORD",
            "short",
            "MLFLOW_AUTH_ADMIN_PASSWORD is too short: 12 characters or more",
        ),
        (
            "MLFLOW_FLASK_SERVER_SECRET_KEY",
            "",
            "MLFLOW_FLASK_SERVER_SECRET_KEY is not set in the environment",
        ),
    ],
)
def test_an_environment_that_cannot_work_is_refused_in_a_line(
    team: TeamServer, name: str, value: str, said: str
) -> None:
    assert team.refusal(**{name: value}) == f"mlflow-server.sh: {said}\n"
