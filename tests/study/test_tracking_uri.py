"""Tracking URIs: which can work, which file they mean, and that no secret is shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from study.tracking_uri import absolute_uri, check_uri, default_uri, is_masked, masked, scrubbed

SECRET = "postgresql://bob:p%40ss/w?rd@db.example:5432/runs?password=hunter2"


def test_the_default_is_a_file_in_the_folder(tmp_path: Path) -> None:
    uri = default_uri(tmp_path)
    assert uri == f"sqlite:///{tmp_path}/mlflow.db"
    assert check_uri(uri) is None


@pytest.mark.parametrize(
    ("uri", "absolute"),
    [
        ("sqlite:///runs.db", "sqlite:////home/ada/runs.db"),
        ("sqlite:///a/runs.db?timeout=9", "sqlite:////home/ada/a/runs.db?timeout=9"),
        ("sqlite:////srv/runs.db", "sqlite:////srv/runs.db"),
        ("http://host:5000", "http://host:5000"),
    ],
)
def test_a_relative_file_is_taken_from_the_current_folder(uri: str, absolute: str) -> None:
    assert absolute_uri(uri, Path("/home/ada")) == absolute


@pytest.mark.parametrize(
    "uri", ["sqlite:///new.db", "http://127.0.0.1:5000", "https://user:pw@mlflow.example/path"]
)
def test_a_uri_that_may_work_has_no_problem(uri: str) -> None:
    assert check_uri(uri) is None


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("", "sqlite:///FILE.db"),
        ("mlruns", "sqlite:///FILE.db"),
        ("/srv/mlruns", "sqlite:///FILE.db"),
        ("file:///srv/mlruns", "sqlite:///FILE.db"),
        ("ftp://host/x", "unknown kind of store"),
        ("databricks", "sqlite:///FILE.db"),
        ("mongodb://host/x", "unknown kind of store"),
        ("http://", "no host"),
        ("http:host", "no host"),
        ("http://host:port", "ort"),
        ("https://[::1", "IPv6"),
        ("sqlite://", "must name a file"),
        ("sqlite:///", "must name a file"),
        ("sqlite:///:memory:", "must name a file"),
        ("sqlite:runs.db", "must name a file"),
        ("sqlite+aiosqlite:///runs.db", "unknown kind of store"),
        ("mysql+nonsense://host/x", "not a database URL"),
        ("postgresql://host:port/x", "not a database URL"),
    ],
)
def test_a_uri_that_can_never_work_is_told_in_one_line(uri: str, said: str) -> None:
    problem = check_uri(uri)
    assert problem is not None
    assert said in problem
    assert "\n" not in problem


def test_a_folder_or_another_file_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text("study: x")
    (tmp_path / "empty.db").touch()
    assert "is a folder" in str(check_uri(f"sqlite:///{tmp_path}"))
    assert "no SQLite database" in str(check_uri(f"sqlite:///{tmp_path}/spec.yaml"))
    assert check_uri(f"sqlite:///{tmp_path}/empty.db") is None


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("https://bob:hunter2@host:1/path", "https://***@host:1/path"),
        ("https://token@host", "https://***@host"),
        ("http://host:5000", "http://host:5000"),
        ("sqlite:////home/a@b/runs.db", "sqlite:////home/a@b/runs.db"),
        (SECRET, "postgresql://***@db.example:5432/runs?***"),
    ],
)
def test_secrets_are_masked(uri: str, shown: str) -> None:
    assert masked(uri) == shown
    assert masked(shown) == shown
    assert is_masked(shown) == (uri != shown)


def test_secrets_are_taken_out_of_error_messages() -> None:
    message = f"cannot open {SECRET}: p%40ss/w?rd, p@ss/w?rd and hunter2 are refused"
    told = scrubbed(message, SECRET)
    for secret in ("p%40ss", "p@ss", "hunter2", "bob"):
        assert secret not in told
    assert "db.example" in told


def test_the_name_of_a_databases_user_is_no_secret_but_a_token_is() -> None:
    text = "no user u; is the server running?"
    assert scrubbed(text, "postgresql://u@host/db") == text
    assert scrubbed("no tok", "https://tok@host") == "no ***"


def test_a_message_about_a_uri_without_secrets_stays_as_it_is() -> None:
    assert scrubbed("no host db", "http://db") == "no host db"
