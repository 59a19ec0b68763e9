"""The command as a user runs it, on a real Ray and a real MLflow store."""

from __future__ import annotations

import csv
import json
import shutil
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from study.tracking import open_store
from study.tracking_uri import default_uri
from tests.study.command import Command, Ended, journal_lines, run, running

pytestmark = pytest.mark.ray

QUICK = (
    "workload.epochs=2",
    "workload.data.train_size=128",
    "workload.data.validation_size=64",
    "workload.model.width=4",
    "tune.trials_per_arm=2",
    "confirm.seeds=2",
    "study=quick",
)
TWO_ARMS = "arms={sam_all: {variant: sam}, sam_on: {variant: sam, perturb: norm}}"
ONE_PAIR = "verdict={baseline: sam_all, equivalence_margin: 0.5}"
EXACT = ("verdict.json", "trials.csv")
FUSSY = """
from trainables.models import make_model

def make(num_classes, in_channels, image_size):
    options = dict(num_classes=num_classes, in_channels=in_channels, image_size=image_size)
    net = make_model("resnet8", width=4, **options)

    def refuse(module, images):
        if module.training and len(images[0]) == 16:
            raise ValueError("no batch of 16")

    net.register_forward_pre_hook(refuse)
    return net
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("whole")


@pytest.fixture(scope="module")
def whole(folder: Path) -> Ended:
    return run(folder, QUICK)


def trials(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "studies/quick/trials.csv").open(newline="") as file:
        return {row["trial"]: row for row in csv.DictReader(file)}


def test_a_study_ends_with_its_verdict_and_says_nothing_else(folder: Path, whole: Ended) -> None:
    assert whole.code == 0, whole.err
    assert whole.err == ""
    assert whole.lines[0] == "quick: starting Ray, loading digits"
    assert sum(line.startswith("[") for line in whole.lines) == 16
    assert whole.lines[-2].startswith("to compare studies: mlflow ui --backend-store-uri sqlite:")
    assert whole.lines[-1].startswith(
        "this study there: http://127.0.0.1:5000/#/experiments/1/runs?"
    )
    assert "with lr and weight decay fixed for all arms." in " ".join(whole.out.split())
    home = folder / "studies/quick"
    for name in ("report.html", "spec.yaml", "timings.csv", "ledger.log", *EXACT):
        assert (home / name).stat().st_size > 0
    verdict = json.loads((home / "verdict.json").read_text())
    assert len(verdict["comparisons"]) == 4
    text = "".join((home / name).read_text() for name in EXACT)
    assert str(folder) not in text


def test_no_confirm_trial_starts_before_the_search_is_over(folder: Path, whole: Ended) -> None:
    home = folder / "studies/quick"
    ends = [e["time"] for e in journal_lines(home, kind="end") if "/search/" in e["trial"]]
    starts = [s["time"] for s in journal_lines(home, kind="start", stage="confirm")]
    assert len(ends) == len(starts) == 8
    assert min(starts) >= max(ends)
    for end in journal_lines(home, kind="end"):
        assert ("test_accuracy" in end["scores"]) == ("/confirm/" in end["trial"])


def test_mlflow_holds_one_experiment_a_parent_and_a_run_a_trial(folder: Path, whole: Ended) -> None:
    client = open_store(default_uri(folder))
    experiment = client.get_experiment_by_name("quick")
    runs = client.search_runs([experiment.experiment_id], max_results=100)
    [parent] = [r for r in runs if r.data.tags["stage"] == "study"]
    children = [r for r in runs if r is not parent]
    assert len(children) == 16
    assert {r.info.status for r in runs} == {"FINISHED"}
    assert {r.data.tags["mlflow.parentRunId"] for r in children} == {parent.info.run_id}
    [one] = [r for r in children if r.data.tags["trial"] == "quick/sam_on/confirm/1"]
    tags = {"study", "arm", "variant", "perturb", "seed", "spec_hash", "data_hash", "commit"}
    assert tags <= set(one.data.tags)
    assert one.data.tags["seed"] == "100001"
    assert {"rho", "lr", "weight_decay", "model", "perturbed_share"} <= set(one.data.params)
    row = trials(folder)["quick/sam_on/confirm/1"]
    assert one.data.metrics["test_accuracy"] == float(row["test_accuracy"])
    history = client.get_metric_history(one.info.run_id, "validation_accuracy")
    assert [point.step for point in history] == [1, 2]
    assert "report.html" in {a.path for a in client.list_artifacts(parent.info.run_id)}


def test_the_same_command_again_only_reports(folder: Path, whole: Ended) -> None:
    before = [(folder / "studies/quick" / name).read_bytes() for name in EXACT]
    again = run(folder, QUICK)
    assert again.code == 0, again.err
    assert "starting Ray" not in again.out
    assert again.lines[-1] == whole.lines[-1]
    assert [(folder / "studies/quick" / name).read_bytes() for name in EXACT] == before


def test_a_changed_spec_under_the_same_name_is_refused(folder: Path, whole: Ended) -> None:
    changed = run(folder, [*QUICK, "workload.epochs=3"])
    assert changed.code == 2
    assert "-  epochs: 2" in changed.err
    assert "+  epochs: 3" in changed.err
    assert "--set study=quick_2" in changed.err
    assert "Traceback" not in changed.err


def interrupted_at(command: Command, home: Path, ends: int, number: signal.Signals) -> Ended:
    command.wait_for(lambda: len(journal_lines(home, kind="end")) >= ends)
    command.signal(number)
    return command.ended()


def test_an_interrupted_study_goes_on_to_the_same_bytes(
    folder: Path, whole: Ended, tmp_path: Path
) -> None:
    home = tmp_path / "studies/quick"
    done: set[str] = set()
    for ends, number, code in ((3, signal.SIGINT, 130), (9, signal.SIGTERM, 130)):
        with running(tmp_path, QUICK) as command:
            stopped = interrupted_at(command, home, ends, number)
            assert stopped.code == code, stopped.err
            assert stopped.err.strip() == "interrupted; the same command goes on from here"
            assert command.wait_for_children() == {}
        for line in journal_lines(home, kind="end"):
            done.add(line["trial"])
        # On a busy machine the mirror may not have opened the store before the interrupt.
        if runs := mirrored_runs(tmp_path):
            assert "RUNNING" not in {r.info.status for r in runs}
    with running(tmp_path, QUICK) as command:
        command.wait_for(lambda: len(journal_lines(home, kind="end")) >= len(done) + 1)
        second = run(tmp_path, QUICK)
        assert second.code == 2
        assert "runs this study; wait for it" in second.err
        command.signal(signal.SIGKILL)
        assert command.ended().code == -signal.SIGKILL
        # Ray's own agents take their time to notice; what trains and what mirrors must be gone.
        left = command.wait_for_children().values()
        assert not [line for line in left if "study." in line or "Trainable" in line]
    ended = run(tmp_path, QUICK)
    assert ended.code == 0, ended.err
    starts = [line["trial"] for line in journal_lines(home, kind="start")]
    assert len(starts) == len(set(starts)) == 16
    for name in EXACT:
        assert (home / name).read_bytes() == (folder / "studies/quick" / name).read_bytes()
    statuses = [r.info.status for r in mirrored_runs(tmp_path)]
    assert statuses == ["FINISHED"] * (1 + 16)


def test_an_extension_keeps_the_planned_verdict_first_and_goes_on_after_an_interrupt(
    folder: Path, whole: Ended, tmp_path: Path
) -> None:
    assert whole.code == 0
    shutil.copytree(folder / "studies", tmp_path / "studies")
    home = tmp_path / "studies/quick"
    planned = json.loads((home / "verdict.json").read_text())
    more = ("--trials", "3", "--seeds", "4")
    before = len(journal_lines(home, kind="end"))
    grown = run(tmp_path, (*QUICK, "tune.trials_per_arm=3", "confirm.seeds=4"))
    assert grown.code == 2
    assert "python -m study.extend quick --trials 3 --seeds 4 raises them" in grown.err
    with running(tmp_path, spec="quick", arguments=more, module="study.extend") as command:
        command.wait_for(lambda: len(journal_lines(home, kind="end")) > before)
        command.signal(signal.SIGINT)
        assert command.ended().code == 130
    other = run(tmp_path, spec="quick", arguments=("--seeds", "9"), module="study.extend")
    assert other.code == 2
    assert "an extension to 3 search trials an arm and 4 confirm seeds is under way" in other.err
    ended = run(tmp_path, spec="quick", arguments=more, module="study.extend")
    assert ended.code == 0, ended.err
    said = " ".join(ended.out.split())
    assert f"As planned: {planned['sentence']}" in said
    assert "After looking, with 3 search trials an arm and 4 confirm seeds: " in said
    verdict = json.loads((home / "verdict.json").read_text())
    [after] = verdict.pop("after_looking")
    assert verdict == planned
    assert {c["n"] for c in after["comparisons"]} == {4}
    counts = Counter((row["arm"], row["stage"]) for row in trials(tmp_path).values())
    assert {counts[arm, "search"] for arm in verdict["arms"]} == {3}
    # Two seeds more for the same configurations, or four for all arms if one arm's changed.
    assert {counts[arm, "confirm"] for arm in verdict["arms"]} in ({4}, {6})
    starts = [line["trial"] for line in journal_lines(home, kind="start")]
    assert len(starts) - len(set(starts)) <= 2  # those that the interrupt cut off
    runs = mirrored_runs(tmp_path)
    assert {r.info.status for r in runs} == {"FINISHED"}
    parent = next(r for r in runs if r.data.tags["stage"] == "study")
    assert parent.data.tags["verdict"] == planned["sentence"]
    assert parent.data.tags["verdict_after_looking"] == after["sentence"]
    again = run(tmp_path, QUICK)
    assert again.code == 0
    assert "After looking" in again.out
    assert "starting Ray" not in again.out


def mirrored_runs(folder: Path) -> list[Any]:
    """The runs of the study in MLflow's default store, [] while it is not there."""
    client = open_store(default_uri(folder))
    experiment = client.get_experiment_by_name("quick")
    return [] if experiment is None else list(client.search_runs([experiment.experiment_id]))


def test_a_diverged_and_a_failed_trial_end_as_such_and_the_study_goes_on(tmp_path: Path) -> None:
    # A step of 1e30 overflows; the model fails in training where a batch has 16 images.
    (tmp_path / "fussy.py").write_text(FUSSY)
    searches = (
        "workload.model={name: fussy:make}",
        TWO_ARMS,
        ONE_PAIR,
        "arms.sam_all.search={rho: {choices: [0.1]}, lr: {choices: [1.0e+30]}}",
        "arms.sam_all.trials=1",
        "arms.sam_on.search={rho: {choices: [0.1]}, batch_size: {choices: [32, 16]}}",
        "arms.sam_on.trials=2",
        "tune={sampler: grid}",
        "search={}",
    )
    ended = run(tmp_path, [*QUICK, *searches])
    assert ended.code == 0, ended.err
    assert ended.err == ""
    rows = trials(tmp_path)
    assert rows["quick/sam_all/search/0"]["status"] == "diverged"
    assert rows["quick/sam_all/search/0"]["validation_accuracy"] == "10.0"
    assert rows["quick/sam_on/search/1"]["status"] == "failed"
    assert rows["quick/sam_on/search/1"]["reason"] == "ValueError"
    assert rows["quick/sam_on/search/0"]["status"] == "finished"
    assert rows["quick/sam_on/confirm/1"]["batch_size"] == "32"
    verdict = json.loads((tmp_path / "studies/quick/verdict.json").read_text())
    assert verdict["without_diverged"]
    [note] = journal_lines(tmp_path / "studies/quick", kind="note")
    assert "failed 4 times, the last time: " in note["text"]
    assert "no batch of 16" in note["text"]


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    generator = np.random.default_rng(0)
    root = tmp_path / "photos of mine"
    for part, count in (("train", 30), ("test", 10)):
        for shade, name in ((60, "chat noir"), (190, "élan")):
            (root / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = generator.integers(shade - 50, shade + 50, (20, 24, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{i}.png")
    (root / "test" / "élan" / "torn.jpg").write_bytes(b"\xff\xd8\xff\xe0 no more")
    return root


def test_a_folder_of_images_is_studied_streamed_and_broken_files_are_named(
    tmp_path: Path, images: Path
) -> None:
    settings = (
        "workload.data={name: imagefolder, train_size: 40, validation_size: 20, image_size: 8}",
        f"workload.data.root={images}",
        "workload.data.stream=true",
        "workload.data.augment=resized_crop_flip",
        "workload.batch_size=16",
        TWO_ARMS,
        ONE_PAIR,
    )
    ended = run(tmp_path, [*QUICK[:1], *QUICK[3:], *settings])
    assert ended.code == 0, ended.err
    [note] = journal_lines(tmp_path / "studies/quick", kind="note")
    assert note["text"].startswith("1 test files cannot be decoded and were left out: ")
    assert "torn.jpg" in note["text"]
    assert note["text"] in " ".join(ended.out.split())


def test_what_cannot_run_is_told_before_anything_is_created(tmp_path: Path) -> None:
    greedy = run(tmp_path, [*QUICK, "resources.cpu=9999"])
    assert greedy.code == 2
    assert "a trial asks for 9999 CPU, the cluster has" in greedy.err
    unknown = run(tmp_path, [*QUICK, "workload.model={name: timm/resnet19}"])
    assert unknown.code == 2
    assert "resnet19" in unknown.err
    assert "Traceback" not in greedy.err + unknown.err
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_while_ray_starts_is_as_clean(tmp_path: Path) -> None:
    with running(tmp_path, QUICK) as command:
        # The first worker process: data is being loaded.
        command.wait_for(
            lambda: any(
                line.startswith("ray::") and not line.endswith("Agent")
                for line in command.left_behind().values()
            )
        )
        command.signal(signal.SIGINT)
        stopped = command.ended()
        assert stopped.code == 130
        assert stopped.err.strip() == "interrupted; the same command goes on from here"
        assert command.wait_for_children() == {}
    assert list(tmp_path.iterdir()) == []


def test_a_trial_that_is_replayed_has_the_same_numbers(folder: Path, whole: Ended) -> None:
    before = sorted(path for path in (folder / "studies").rglob("*") if path.name != "lock")
    for trial in ("quick/sam_on/confirm/1", "quick/sam_all/search/0"):
        ended = run(folder, spec=trial, module="study.replay")
        assert (ended.code, ended.err) == (0, "")
        assert f"{trial}: the same numbers, bit for bit: all metrics of 2 epochs" in ended.out
    assert sorted(p for p in (folder / "studies").rglob("*") if p.name != "lock") == before


def test_a_trial_whose_numbers_differ_is_told(folder: Path, whole: Ended, tmp_path: Path) -> None:
    shutil.copytree(folder / "studies", tmp_path / "studies")
    journal, changed = tmp_path / "studies/quick/journal.jsonl", []
    for line in map(json.loads, journal.read_text().splitlines()):
        if line["kind"] == "header":
            line["versions"]["torch"] = "2.13.0"
        if line["kind"] == "epoch" and line["trial"] == "quick/sgd/search/1":
            line["metrics"]["train_loss"] += 1e-9
        changed.append(json.dumps(line) + "\n")
    journal.write_text("".join(changed))
    ended = run(tmp_path, spec="quick/sgd/search/1", module="study.replay")
    assert (ended.code, ended.err) == (1, "")
    assert "quick/sgd/search/1: other numbers: train_loss of epoch 1 is " in ended.out
    assert "what is different here: torch 2.13.0 -> " in ended.out
    for wrong, told in (
        ("quick/x/search/0", "holds no trial"),
        ("../x", "not the name of a trial"),
    ):
        refused = run(tmp_path, spec=wrong, module="study.replay")
        assert (refused.code, told in refused.err) == (2, True)


def test_a_study_that_is_asked_to_stop_stops_and_goes_on(tmp_path: Path) -> None:
    longer = ("workload.epochs=2000", "study=long", TWO_ARMS, ONE_PAIR, *QUICK[1:-1])
    with running(tmp_path, longer) as command:
        home = tmp_path / "studies/long"
        command.wait_for(lambda: bool(journal_lines(home, kind="epoch")))
        shown = run(tmp_path, spec="long", module="study.status")
        assert shown.lines[0].startswith("long: running, search stage, 0/8 trials done, ")
        stopped = run(tmp_path, spec="long", module="study.stop")
        assert (stopped.code, stopped.err) == (0, "")
        assert stopped.out.startswith("long has stopped; ")
        ended = command.ended()
    assert ended.code == 130
    assert ended.err.strip() == "interrupted; the same command goes on from here"
    again = run(tmp_path, spec="long", module="study.stop")
    assert again.out == "long does not run\n"
    assert list((home / "checkpoints").rglob("*.pt"))
