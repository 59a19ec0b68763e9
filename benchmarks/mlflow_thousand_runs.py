"""How long MLflow takes to open a study of many runs, and to compare 20 of them.

    python -m benchmarks.mlflow_thousand_runs [--runs 1000] [--repeats 10]

Starts a PostgreSQL of its own and on it the server of deploy/mlflow-server.sh, logins included, and
mirrors a study of so many trials into it. Then asks it what its pages ask, as a user who has logged
in: the first 100 runs of the experiment, newest first; and the history of every metric of 20 runs,
one request a metric. Prints the median of the repeats and their range.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from study import sync
from tests.services import postgres
from tests.services.team_server import ADMIN, TeamServer
from tests.study.mirrored import Study

EPOCHS = 10
_COMPARED = 20


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=10)
    options = parser.parse_args()
    programs = postgres.programs()
    if programs is None:
        sys.exit("PostgreSQL's server is not installed; on Debian: apt-get install postgresql")
    with tempfile.TemporaryDirectory() as folder, postgres.serving(programs) as database:
        team = TeamServer(database, Path(folder))
        try:
            team.start()
            _measure(team, _study(Path(folder), options.runs), options.repeats)
        finally:
            team.stop()


def _study(folder: Path, runs: int) -> Study:
    """A journal of so many finished trials, half of them of the confirm stage."""
    study = Study(folder / "studies", name="thousand", epochs=EPOCHS)
    for number in range(runs):
        stage = "confirm" if number >= runs // 2 else "search"
        trial = study.start(study.trial("sam_on", stage, number % (runs // 2 or 1)))
        for epoch in range(1, EPOCHS + 1):
            study.epoch(trial, epoch)
        study.end(trial, epochs=EPOCHS)
    return study


def _measure(team: TeamServer, study: Study, repeats: int) -> None:
    os.environ |= sync.ENVIRONMENT
    os.environ["MLFLOW_TRACKING_USERNAME"], os.environ["MLFLOW_TRACKING_PASSWORD"] = ADMIN
    begun = time.perf_counter()
    code = sync.main([study.name, "--out", str(study.home.out), "--tracking-uri", team.uri])
    if code:
        sys.exit(code)
    print(f"mirroring the study, once: {time.perf_counter() - begun:.1f} s")

    def post(path: str, **body: Any) -> Any:
        answer = team.call("POST", f"ajax-api/2.0/mlflow/{path}", ADMIN, json=body)
        answer.raise_for_status()
        return answer.json()

    name = {"experiment_name": study.name}
    found = team.call("GET", "ajax-api/2.0/mlflow/experiments/get-by-name", ADMIN, params=name)
    experiment = found.json()["experiment"]["experiment_id"]

    def opened() -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = post(
            "runs/search",
            experiment_ids=[experiment],
            max_results=100,
            order_by=["attributes.start_time DESC"],
            run_view_type="ACTIVE_ONLY",
        )["runs"]
        return rows

    rows = opened()
    one = rows[0]["data"]
    keys = [metric["key"] for metric in one["metrics"]]
    print(f"a run: {len(one['params'])} params, {len(keys)} metrics, {EPOCHS} epochs")
    compared = [row["info"]["run_id"] for row in rows[:_COMPARED]]

    def histories() -> int:
        points = 0
        for key in keys:
            answer = team.call(
                "GET",
                "ajax-api/2.0/mlflow/metrics/get-history-bulk",
                ADMIN,
                params={"run_id": compared, "metric_key": key, "max_results": 25000},
            )
            answer.raise_for_status()
            points += len(answer.json()["metrics"])
        return points

    print(f"opening the experiment, {len(rows)} rows: {_timed(opened, repeats)}")
    print(f"comparing {len(compared)} runs, {histories()} points: {_timed(histories, repeats)}")


def _timed(call: Callable[[], object], repeats: int) -> str:
    seconds = []
    for _ in range(repeats):
        begun = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - begun)
    low, middle, high = min(seconds), statistics.median(seconds), max(seconds)
    return f"median {middle:.2f} s, {low:.2f} to {high:.2f}, n = {repeats}"


if __name__ == "__main__":
    main()
