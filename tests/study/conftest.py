"""Fixtures that several test modules of the study share."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import pytest

from study import tracking
from study.tracking_uri import default_uri
from tests.study.mirrored import Study


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tracking store without runs; making one takes MLflow seconds."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    tracking.open_store(default_uri(path.parent))
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return path


@pytest.fixture
def uri(empty_store: Path, tmp_path: Path) -> str:
    """The URI of a tracking store of the test's own."""
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return default_uri(tmp_path)


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """A study that has begun."""
    return Study(tmp_path / "studies")
