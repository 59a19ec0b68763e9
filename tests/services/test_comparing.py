"""`python -m study.compare` against a real MLflow server, while it is there and when it is away."""

from __future__ import annotations

import shutil
from pathlib import Path

from study.tracking_uri import default_uri
from tests.services.tracking_server import TrackingServer
from tests.study.command import Ended, run
from tests.study.finished import mirrored

ALL = [92.0, 93.0, 93.5]


def test_studies_of_a_team_are_compared_over_http(tmp_path: Path) -> None:
    served = tmp_path / "served"
    served.mkdir()
    server = TrackingServer(default_uri(served), served)

    def compare(first: str, *others: str) -> Ended:
        words = [*others, "--tracking-uri", server.uri]
        return run(tmp_path, spec=first, arguments=words, module="study.compare")

    try:
        server.start()
        for i, gain in enumerate((2.0, 3.0, 1.0)):
            better = [ALL[0] + gain, ALL[1] + gain + 0.5, ALL[2] + gain - 1]
            scores = {"sam_all": ALL, "sam_on": better}
            mirrored(tmp_path / "there", server.uri, f"study_{i}", scores, data_hash=f"data {i}")
        shutil.rmtree(tmp_path / "there")  # MLflow alone is asked
        ended = compare("study_0", "study_1", "study_2")
        assert (ended.code, ended.err) == (0, "")
        told = "Over 3 independent groups of studies the mean of sam_on − sam_all is +1.83 "
        assert ended.lines[-2].startswith(told)
        unknown = compare("study_0", "stady_1")
        assert unknown.code == 2
        assert unknown.err == "MLflow has no study 'stady_1'; did you mean 'study_1'?\n"
    finally:
        server.stop()
    away = compare("study_0")
    assert (away.code, away.out) == (2, "")
    assert away.err == f"--tracking-uri: MLflow at {server.uri}: [Errno 111] Connection refused\n"
