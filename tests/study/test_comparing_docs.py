"""What docs/comparing.md says of MLflow's filters, asked of a real store."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from study import tracking
from study.tracking_uri import default_uri
from tests.study.command import ROOT
from tests.study.finished import mirrored

TEXT = (ROOT / "docs" / "comparing.md").read_text(encoding="utf-8")
A = [92.0, 93.0, 91.0]
FILTERS = {
    "tags.stage = 'search' and tags.arm = 'sam_on'": {
        "one/sam_on/search/0", "one/sam_on/search/1", "two/sam_on/search/0",
    },
    "tags.stage = 'confirm'": {
        f"{study}/{arm}/confirm/{i}"
        for study in ("one", "two") for arm in ("sam_all", "sam_on") for i in range(3)
    },
    "tags.diverged = 'true'": {"one/sam_all/search/1", "two/sam_on/confirm/2"},
    "attributes.status = 'FAILED'": {"two/sam_all/confirm/1"},
    "tags.stage = 'confirm' and tags.seed = '100002'": {
        f"{study}/{arm}/confirm/2" for study in ("one", "two") for arm in ("sam_all", "sam_on")
    },
    "tags.stage = 'confirm' and metrics.test_accuracy < 50": {"two/sam_on/confirm/2"},
    "tags.stage = 'search' and tags.variant = 'sam' and tags.perturb = 'norm'": {
        "one/sam_on/search/0", "one/sam_on/search/1", "two/sam_on/search/0",
    },
    "tags.stage = 'study'": {"one", "two"},
    "tags.stage = 'study' and tags.verdict LIKE '%tests better than%'": {"one"},
}  # fmt: skip


@pytest.fixture(scope="module")
def store(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("team")
    shutil.copy(empty_store, folder / "mlflow.db")
    uri = default_uri(folder)
    two_arms = (
        "arms={sam_all: {variant: sam, perturb: all}, sam_on: {variant: sam, perturb: norm}}",
        "verdict.also=[]",
    )
    mirrored(
        folder / "studies", uri, "one", {"sam_all": A, "sam_on": [98.0, 99.5, 97.0]}, *two_arms,
        search={"sam_on": [90.0, 95.0], "sam_all": [91.0, "diverged"]},
    )  # fmt: skip
    mirrored(
        folder / "studies", uri, "two",
        {"sam_all": [92.0, "failed", 93.0], "sam_on": [92.5, 93.0, "diverged"]}, *two_arms,
        search={"sam_on": [93.0]},
    )  # fmt: skip
    return uri


def test_the_page_holds_the_filters_that_are_tested_and_no_other() -> None:
    blocks = re.findall(r"```filter\n(.*?)```", TEXT, re.DOTALL)
    assert [line for block in blocks for line in block.splitlines()] == list(FILTERS)


@pytest.mark.parametrize("text", FILTERS)
def test_a_filter_finds_what_the_page_says(store: str, text: str) -> None:
    client = tracking.open_store(store)
    experiments = [client.get_experiment_by_name(name).experiment_id for name in ("one", "two")]
    found = client.search_runs(experiments, text)
    assert {run.data.tags.get("trial", run.info.run_name) for run in found} == FILTERS[text]


def test_the_lines_of_python_run(store: str) -> None:
    [code] = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    code = code.replace("norm_vs_all_gn", "two").replace("norm_vs_all", "one")
    folder = Path(store.removeprefix("sqlite:///")).parent
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True
    )
    shown = ended.stdout.splitlines()
    assert [line.split()[1:] for line in shown[1:]] == [
        ["one", "0.2", "95.0"], ["two", "0.1", "93.0"], ["one", "0.1", "90.0"],
    ]  # fmt: skip
