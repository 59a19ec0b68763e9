"""Tests of what only a GPU can show; without one each is skipped."""

from __future__ import annotations

import pytest
import torch

from trainables.training import deterministic


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if "tests/gpu/" in item.nodeid:
                item.add_marker(pytest.mark.skip(reason="PyTorch sees no GPU here"))


@pytest.fixture(autouse=True, scope="package")
def as_in_trials() -> None:
    deterministic(2)
