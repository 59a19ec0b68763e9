"""Groups compute on one thread, as trials of one CPU do."""

from __future__ import annotations

import pytest

from trainables.training import deterministic


@pytest.fixture(autouse=True, scope="package")
def one_thread() -> None:
    deterministic(1)
