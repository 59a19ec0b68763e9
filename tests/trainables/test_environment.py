"""A process whose versions are not those of the study trains nothing."""

from __future__ import annotations

import platform
import re

import pytest

from study import provenance
from trainables import environment


def test_the_versions_of_the_driver_pass() -> None:
    environment.check(provenance.versions())


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        ({"torch": "1.0"}, r"torch \S+, not 1\.0$"),
        ({"python": "2.7", "numpy": "1.0"}, r"python 3\.\S+, not 2\.7; numpy \S+, not 1\.0$"),
        ({"no-such-package": "1.0"}, r"no-such-package not installed, not 1\.0$"),
    ],
)
def test_others_are_told_in_a_line(wanted: dict[str, str], told: str) -> None:
    with pytest.raises(RuntimeError, match=told) as caught:
        environment.check(wanted)
    assert re.match(f"node {re.escape(platform.node())} has other versions", str(caught.value))
