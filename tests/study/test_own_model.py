"""The example of a model and a data set of one's own, run as its README says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from study import run
from tests.study import command
from tests.study.command import ROOT, journal_lines

pytestmark = pytest.mark.ray

EXAMPLE = ROOT / "docs" / "own_model"
SPEC = Path("stripes.yaml")
QUICK = (
    "workload.epochs=2",
    "workload.model.channels=8",
    "workload.data.train_size=64",
    "workload.data.validation_size=64",
    "tune.trials_per_arm=2",
    "confirm.seeds=2",
)


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A copy of the example, so that a study leaves nothing in the original."""
    return Path(shutil.copytree(EXAMPLE, tmp_path / "own_model"))


def test_the_example_runs_to_its_verdict(here: Path) -> None:
    ended = command.run(here, QUICK, SPEC)
    assert ended.code == 0, ended.err
    assert ended.lines[0] == "stripes: starting Ray, loading my_package.data:load"
    home = here / "studies" / "stripes"
    [header] = journal_lines(home, kind="header")
    assert header["data"]["classes"] == ["horizontal", "rising", "vertical", "falling"]
    assert header["spec"]["workload"]["model"]["channels"] == 8
    ends = journal_lines(home, kind="end", status="finished")
    assert sum("test_accuracy" in end["scores"] for end in ends) == 4
    assert len(ends) == 8
    [epoch] = journal_lines(home, kind="epoch", trial="stripes/sam_on/search/0", epoch=1)
    # 2 GroupNorms of 8 channels; convolutions of 72 and 576 weights; 8 x 4 weights and 4 biases.
    assert epoch["metrics"]["perturbed_share"] == pytest.approx(100 * 32 / (32 + 72 + 576 + 36))
    assert json.loads((home / "verdict.json").read_text())["comparisons"]


def test_what_is_wrong_with_ones_own_code_is_told_in_one_line_before_anything_is_made(
    here: Path,
) -> None:
    before = sorted(here.rglob("*.*"))
    ended = command.run(here, ("workload.model.chanels=8",), SPEC)
    assert ended.code == 2
    assert ended.err == (
        "arm sgd: my_package.nets:make_net raised TypeError: make_net() got an unexpected keyword "
        "argument 'chanels'\n"
    )
    assert [path for path in sorted(here.rglob("*.*")) if path.suffix != ".pyc"] == before


def test_its_steps_are_timed_though_its_code_prints(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with (here / "my_package" / "nets.py").open("a") as file:
        file.write("\nprint('imported')\n")
    monkeypatch.chdir(here)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    assert run.main([str(SPEC), "--plan", "--time"]) == 0
    assert "hours of training steps" in capsys.readouterr().out


def test_the_plan_needs_no_import_of_it(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(here / "my_package")
    monkeypatch.chdir(here)
    assert run.main([str(SPEC), "--plan"]) == 0
    assert "my_package.nets:make_net" in capsys.readouterr().out
