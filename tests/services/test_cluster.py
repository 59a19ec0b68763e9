"""Studies on a Ray cluster of processes, from submit to the same bytes as on a laptop."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from study.tracking import open_store
from tests.services.jobs_cluster import JobsCluster
from tests.services.postgres import PASSWORD, Postgres
from tests.services.team_server import ADMIN, TeamServer
from tests.study.command import ROOT, SPEC, Ended, journal_lines, run
from tests.study.mirror_check import assert_equals_journal

pytestmark = pytest.mark.ray

_PATIENCE = 240.0
SMALL = (
    "workload.model.width=4",
    "tune.trials_per_arm=2",
    "confirm.seeds=2",
    "resources.max_trials=1",
)
LARGE = "workload.epochs=12"
LITTLE = "workload.epochs=3"


@pytest.fixture(scope="module")
def team(server: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TeamServer]:
    made = TeamServer(server, tmp_path_factory.mktemp("team"))
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="module")
def cluster(team: TeamServer) -> Iterator[JobsCluster]:
    with tempfile.TemporaryDirectory(prefix="ray-") as folder:
        made = JobsCluster(
            Path(folder),
            {
                "PGPASSWORD": PASSWORD,
                "MLFLOW_TRACKING_URI": team.uri,
                "MLFLOW_TRACKING_USERNAME": ADMIN[0],
                "MLFLOW_TRACKING_PASSWORD": ADMIN[1],
            },
        )
        try:
            made.start()
            yield made
        finally:
            made.stop()


class Client:
    """Commands of somebody outside of the cluster; out: a folder of its head."""

    def __init__(self, cluster: JobsCluster, out: Path) -> None:
        self._cluster = cluster
        self.out = out

    def __call__(self, command: str, *words: str, token: str | None = None) -> Ended:
        """Runs a command to its end."""
        access = {**self._cluster.access, "RAY_AUTH_TOKEN": token or self._cluster.token}
        begun = time.monotonic()
        done = subprocess.run(
            [
                *(sys.executable, "-m", f"study.{command}", *words),
                *("--address", self._cluster.address, "--out", str(self.out)),
            ],
            env={**os.environ, "PYTHONPATH": str(ROOT), **access},
            cwd=self.out,
            capture_output=True,
            text=True,
            timeout=_PATIENCE,
        )
        return Ended(done.returncode, done.stdout, done.stderr, time.monotonic() - begun)

    def submit(self, name: str, ledger: str, *settings: str) -> Ended:
        """Submits a study of the paper's question."""
        words = [word for each in (f"study={name}", *SMALL, *settings) for word in ("--set", each)]
        return self("submit", str(SPEC), "--ledger", ledger, *words)

    def state(self, name: str) -> str:
        """The state of a study by study.status."""
        [standing] = json.loads(self("status", name, "--json").out)
        return str(standing["state"])

    def lines(self, name: str, kind: str) -> list[dict[str, object]]:
        """Lines of a study's journal."""
        return journal_lines(self.out / name, kind=kind)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.2)


def same_as_on_a_laptop(folder: Path, home: Path, epochs: str) -> None:
    settings = (f"study={home.name}", *SMALL, epochs)
    ended = run(folder, settings, arguments=("--tracking-uri", f"sqlite:///{folder}/mlflow.db"))
    assert ended.err == ""
    for file in ("verdict.json", "trials.csv"):
        here = folder / "studies" / home.name / file
        assert (home / file).read_bytes() == here.read_bytes(), file


def test_two_studies_share_a_cluster_and_survive_a_stop_and_a_lost_worker(
    cluster: JobsCluster,
    team: TeamServer,
    server: Postgres,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "head"
    out.mkdir()
    client = Client(cluster, out)
    ledger = f"postgresql://postgres@127.0.0.1:{server.port}/{server.database()}"
    cluster.add_worker()
    spot = cluster.add_worker()

    submitted = client.submit("large", ledger, LARGE)
    assert submitted.code == 0, submitted
    assert "to watch: python -m study.status large --address" in submitted.out
    wait_for(lambda: bool(client.lines("large", "start")))
    # A small one behind it starts at once: the large one has its cap.
    assert client.submit("little", ledger, LITTLE).code == 0
    wait_for(lambda: bool(client.lines("little", "start")))
    again = client.submit("little", ledger, LITTLE)
    assert (again.code, "runs there already, as job little-" in again.err) == (2, True)
    both = client("status")
    assert both.code == 0
    assert [line.partition(",")[0] for line in both.lines if not line.startswith(" ")] == [
        "large: running",
        "little: running",
    ]

    wait_for(lambda: bool(client.lines("large", "end")))
    url = f"postgresql://postgres:{PASSWORD}@127.0.0.1:{server.port}/"
    stopped = client("stop", "large", "--ledger", ledger)
    assert (stopped.code, "large has stopped" in stopped.out) == (0, True), stopped
    assert client.state("large") == "stopped"
    assert client.submit("large", ledger, LARGE).code == 0
    cluster.lose(spot)
    for name in ("little", "large"):
        wait_for(lambda name=name: (out / name / "verdict.json").exists())  # type: ignore[misc]
        wait_for(lambda name=name: client.state(name) == "done")  # type: ignore[misc]
    assert url not in "".join(path.read_text() for path in out.glob("*/journal.jsonl"))

    laptop = tmp_path / "laptop"
    laptop.mkdir()
    same_as_on_a_laptop(laptop, out / "large", LARGE)
    same_as_on_a_laptop(laptop, out / "little", LITTLE)

    replayed = client("replay", "little/sam_on/confirm/1")
    assert (replayed.code, "the same numbers, bit for bit" in replayed.out) == (0, True), replayed
    extended = client("extend", "little", "--seeds", "3", "--ledger", ledger)
    assert extended.code == 0, extended
    report = client("report", "little")
    assert report.code in (0, 1)
    wait_for(lambda: client.state("little") == "done")
    assert "After looking, with" in client("report", "little").out

    for key, value in zip(("USERNAME", "PASSWORD"), ADMIN, strict=True):
        monkeypatch.setenv(f"MLFLOW_TRACKING_{key}", value)
    store = open_store(team.uri)
    for name in ("large", "little"):
        assert_equals_journal(store, out / name / "journal.jsonl")


def test_nobody_without_the_token_is_let_in(cluster: JobsCluster, tmp_path: Path) -> None:
    assert cluster.status("api/jobs/", cluster.token) == 200
    for path in ("api/jobs/", "nodes", "logical/actors", "api/cluster_status"):
        assert cluster.status(path, None) == 401, path
        assert cluster.status(path, "0" * 64) == 403, path
    refused = Client(cluster, tmp_path)("status", token="0" * 64)
    assert refused.code == 2
    assert refused.err.count("\n") == 1
    assert "give the cluster's token" in refused.err
    for address in (f"ray://127.0.0.1:{cluster.client_port}", cluster.nodes):
        assert _let_in(cluster, address, cluster.token), address
        assert not _let_in(cluster, address, "0" * 64), address


def _let_in(cluster: JobsCluster, address: str, token: str) -> bool:
    """Whether Ray's client, or a driver, gets into the cluster."""
    script = f"import ray; ray.init({address!r}, logging_level=50); print(ray.cluster_resources())"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, **cluster.access, "RAY_AUTH_TOKEN": token},
        capture_output=True,
        text=True,
        timeout=_PATIENCE,
    )
    return done.returncode == 0 and "node:__internal_head__" in done.stdout


def test_a_password_in_a_url_is_not_sent(cluster: JobsCluster, tmp_path: Path) -> None:
    secret = "postgresql://ada:secret@127.0.0.1/ledgers"
    refused = Client(cluster, tmp_path).submit("quiet", secret)
    assert refused.code == 2
    assert "holds a password" in refused.err
    assert "secret" not in refused.err
