"""Confirmed models are measured after the verdict: as tasks of a real Ray, into a real MLflow."""

from __future__ import annotations

import csv
import signal
from pathlib import Path
from typing import Any

import pytest

from study import tracking
from study.tracking_uri import default_uri
from tests.study.command import Ended, journal_lines, run, running
from tests.study.test_command import EXACT, ONE_PAIR, QUICK, TWO_ARMS
from trainables import catalog

pytestmark = pytest.mark.ray

SETTINGS = (*QUICK, TWO_ARMS, ONE_PAIR)
WORDS = catalog.MEASURES
EVERYTHING = f"confirm.measure=[{', '.join(WORDS)}]"
RUNS = 4  # two arms, two seeds
TASKS = 4 * RUNS + 2  # a line joins the two runs of a seed


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("measured")


@pytest.fixture(scope="module")
def interrupted(folder: Path) -> Ended:
    with running(folder, (*SETTINGS, EVERYTHING)) as command:
        command.wait_for(lambda: len(measured(folder)) >= 2)
        command.signal(signal.SIGINT)
        return command.ended()


@pytest.fixture(scope="module")
def before(folder: Path, interrupted: Ended) -> dict[str, bytes]:
    """What the study wrote before its models were measured."""
    return exact(folder)


@pytest.fixture(scope="module")
def done(folder: Path, before: dict[str, bytes]) -> Ended:
    return run(folder, (*SETTINGS, EVERYTHING))


def exact(folder: Path) -> dict[str, bytes]:
    return {name: (study(folder) / name).read_bytes() for name in EXACT}


def study(folder: Path) -> Path:
    return folder / "studies" / "quick"


def measured(folder: Path) -> list[dict[str, Any]]:
    return journal_lines(study(folder), kind="measurement")


def rows(folder: Path) -> list[dict[str, str]]:
    with (study(folder) / "measures.csv").open() as file:
        return list(csv.DictReader(file))


def test_the_same_command_goes_on_measuring(folder: Path, interrupted: Ended, done: Ended) -> None:
    assert interrupted.code == 130, interrupted.err
    assert done.code == 0, done.err
    assert f"quick: measuring {', '.join(WORDS)} (" in done.out
    keys = [(each["trial"], each["what"], each["against"]) for each in measured(folder)]
    assert len(keys) == len(set(keys)) == TASKS
    assert {what for _, what, _ in keys} == set(WORDS)


def test_the_verdict_knows_nothing_of_it(
    folder: Path, before: dict[str, bytes], done: Ended
) -> None:
    assert exact(folder) == before
    assert b"worst_l2" not in b"".join(before.values())


def test_every_value_is_in_the_table_and_the_page_shows_it(folder: Path, done: Ended) -> None:
    found = rows(folder)
    assert len(found) == sum(len(each["values"]) for each in measured(folder))
    assert {row["arm"] for row in found if row["what"] == "sharpness"} == {"sam_all", "sam_on"}
    assert {row["part"] for row in found if row["measure"] == "hessian_top"} == {
        "all", "norm", "rest",
    }  # fmt: skip
    page = (study(folder) / "report.html").read_text()
    assert "Measured on the confirmed models" in page
    assert 'aria-label="sharpness"' in page


def test_mlflow_has_the_headlines_and_the_table(folder: Path, done: Ended) -> None:
    client = tracking.open_store(default_uri(folder))
    experiment = client.get_experiment_by_name("quick")
    for run_ in client.search_runs([experiment.experiment_id]):
        if run_.data.tags["stage"] == "confirm":
            its = [m for m in measured(folder) if m["trial"] == run_.data.tags["trial"]]
            [sharp] = [m for m in its if m["what"] == "sharpness"]
            for key, headline in catalog.HEADLINES.items():
                first = next(v for v in sharp["values"] if (v["measure"], v["part"]) == headline)
                assert run_.data.metrics[key] == first["value"]
        elif run_.data.tags["stage"] == "study":
            assert "measures.csv" in [file.path for file in client.list_artifacts(run_.info.run_id)]
        else:
            assert not catalog.HEADLINES.keys() & run_.data.metrics.keys()


def test_nothing_is_measured_twice_and_lost_weights_are_told(folder: Path, done: Ended) -> None:
    again = run(folder, (*SETTINGS, EVERYTHING))
    assert again.code == 0
    assert "measuring" not in again.out
    journal = study(folder) / "journal.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(x for x in lines if '"what": "histograms"' not in x))
    (study(folder) / "weights" / "sam_on" / "confirm" / "0.pt").unlink()
    lost = run(folder, (*SETTINGS, EVERYTHING))
    assert lost.code == 0, lost.err
    assert "quick: not measured: histograms of quick/sam_on/confirm/0: " in lost.out
    assert len(measured(folder)) == TASKS - 1
