"""Real services, started once for all tests here."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import NoReturn

import pytest
from playwright.sync_api import Browser

from tests.services import browser, postgres
from tests.services.postgres import Postgres
from tests.services.tracking_server import TrackingServer


@pytest.fixture(scope="session")
def server() -> Iterator[Postgres]:
    """A PostgreSQL server. Without one installed, tests are skipped, and fail where CI=1."""
    with _serving() as running:
        yield running


@pytest.fixture(scope="module")
def own_server() -> Iterator[Postgres]:
    """One that no other module uses: it may be stopped."""
    with _serving() as running:
        yield running


def _serving() -> AbstractContextManager[Postgres]:
    folder = postgres.programs()
    if folder is None:
        _missing("PostgreSQL's server is not installed; on Debian: apt-get install postgresql")
    return postgres.serving(folder)


def _missing(what: str) -> NoReturn:
    if os.environ.get("CI") == "1":
        pytest.fail(what)
    pytest.skip(what)


@pytest.fixture
def url(server: Postgres) -> str:
    """The URL of a new, empty database."""
    return server.url(server.database())


@pytest.fixture(scope="session")
def tracking(
    server: Postgres, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TrackingServer]:
    """An MLflow server on PostgreSQL."""
    database = server.url(server.database())
    running = TrackingServer(database, tmp_path_factory.mktemp("tracking"))
    try:
        running.start()
        yield running
    finally:
        running.stop()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """A browser. Without one installed, tests are skipped, and fail where CI=1."""
    program = browser.program()
    if program is None:
        _missing("Chromium is not installed; on Debian: apt-get install chromium")
    with browser.launched(program) as running:
        yield running
