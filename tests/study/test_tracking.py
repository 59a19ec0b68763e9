"""The mirror against a real SQLite store of MLflow, fed from journals written as a study does."""

from __future__ import annotations

import json
import math
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from study import journal, tracking, tracking_names, tracking_state, tracking_views
from study.records import End, Trial
from study.tracking import Mirror
from study.tracking_state import State, TrackingError
from tests.study.mirrored import EPOCHS, METRICS, SUMMARY, T0, Study, rows, runs
from tests.study.synthetic import HEADER, make_spec


def sync(study: Study, uri: str, *, finish: bool = True) -> Mirror:
    mirror = Mirror(tracking.open_store(uri), study.home, uri)
    mirror.catch_up()
    if finish:
        mirror.finish()
    return mirror


def history(uri: str, run: Any, key: str) -> list[tuple[int, float, int]]:
    points = tracking.open_store(uri).get_metric_history(run.info.run_id, key)
    return sorted((point.step, point.value, point.timestamp) for point in points)


def test_a_trial_has_all_names_that_every_study_shares(study: Study, uri: str) -> None:
    study.whole(study.trial(stage="confirm"))
    sync(study, uri)
    found = runs(uri)
    parent, run = found["s"], found["sam_on/confirm/0"]
    tags = {k: v for k, v in run.data.tags.items() if not k.startswith("mlflow.run")}
    assert tags == {
        "study": "s",
        "stage": "confirm",
        "arm": "sam_on",
        "variant": "asam",
        "perturb": "norm",
        "seed": "7",
        "trial": "s/sam_on/confirm/0",
        "spec_hash": "h" * 64,
        "data_hash": "d1",
        "commit": "c0ffee",
        "mlflow.parentRunId": parent.info.run_id,
        **{k: v for k, v in tags.items() if k == "mlflow.user"},
    }
    assert (
        run.data.params.items()
        >= {
            "rho": "0.75",
            "lr": "0.2",
            "momentum": "0.9",
            "weight_decay": "0.0005",
            "model": "resnet8",
            "width": "4",
            "norm": "bn",
            "affine": "true",
            "dataset": "digits",
            "train_size": "80",
            "validation_size": "30",
            "label_noise": "0.4",
            "augment": "crop",
            "batch_size": "64",
            "epochs": "3",
            "label_smoothing": "0.1",
            "perturbed_share": "1.5",
        }.items()
    )
    assert set(run.data.metrics) == {*METRICS, "test_accuracy", "test_loss"}
    assert run.info.status == "FINISHED"
    assert run.info.start_time == 1_700_000_001_250
    assert run.info.end_time == tracking_names.millis(study.time)


def test_an_approximate_trial_says_what_makes_it_so() -> None:
    spec = make_spec(
        "arms.sam_on={variant: sam, perturb: norm, ascent: 'fraction:0.25', "
        "search: {every: {choices: [1, 5]}}}"
    )
    header = {**HEADER, "spec": spec.model_dump(), "hash": "h"}

    def tag(every: int) -> str:
        trial = Trial("tiny", "sam_on", "search", 0, 0, {"rho": 0.1, "every": every})
        return tracking_names.trial_tags(header, trial, "parent")["approximate"]

    assert tag(1) == "ascent on 0.25 of the batch"
    assert tag(5) == "ascent on 0.25 of the batch, perturbed in one of 5 steps"


def test_the_parent_run_tells_the_question(study: Study, uri: str) -> None:
    sync(study, uri, finish=False)
    parent = runs(uri)["s"]
    assert parent.data.tags["stage"] == "study"
    assert parent.data.tags["question"] == "Which is better?"
    assert parent.data.tags["mlflow.note.content"] == "Which is better?"
    assert parent.data.params == {"confirm_seeds": "2", "trials_per_arm": "2"}
    assert parent.info.status == "RUNNING"


def test_an_experiment_gets_the_views_that_it_lacks_and_keeps_those_that_were_changed(
    study: Study, uri: str
) -> None:
    client = tracking.open_store(uri)
    views = tracking_views.tags(tracking_names.millis(T0))
    first, *_ = views
    number = client.create_experiment("s", tags={first: "mine"})
    sync(study, uri, finish=False)
    held = client.get_experiment(number).tags
    assert held == {**tracking.EXPERIMENT_TAGS, **views, first: "mine"}


def test_metrics_have_the_epoch_as_step_and_the_journals_time(study: Study, uri: str) -> None:
    study.whole(study.trial(stage="confirm"))
    sync(study, uri)
    run = runs(uri)["sam_on/confirm/0"]
    start = 1_700_000_001_250
    expected = [(epoch, epoch + 0.1, start + 1250 * epoch) for epoch in (1, 2, 3)]
    assert history(uri, run, "train_accuracy") == expected
    assert history(uri, run, "test_accuracy") == [(3, 88.0, start + 5000)]


def test_a_search_trial_has_no_test_score_even_if_the_journal_held_one(study: Study) -> None:
    trial = study.start(study.trial())
    scores = {"validation_accuracy": 90.0, "test_accuracy": 88.0}
    line = journal.end_line(End(trial.name, "finished", "", scores, 3, study.tick()))
    assert list(tracking_names.end_metrics(line, trial)) == []


def test_numbers_that_are_not_finite_are_nan_in_mlflow(study: Study, uri: str) -> None:
    trial = study.start(study.trial())
    study.epoch(trial, 1, train_loss=math.inf, validation_loss=math.nan)
    study.end(trial, "diverged", "the loss is not finite", epochs=1)
    for _ in range(2):
        sync(study, uri)
    run = runs(uri)["sam_on/search/0"]
    for key in ("train_loss", "validation_loss"):
        [(step, value, _)] = history(uri, run, key)
        assert step == 1
        assert math.isnan(value)


def test_a_diverged_trial_is_killed_and_a_failed_one_failed(study: Study, uri: str) -> None:
    study.end(study.start(study.trial(index=0)), "diverged", "NaN in epoch 1", epochs=0)
    study.end(study.start(study.trial(index=1)), "failed", "out of memory", epochs=0)
    sync(study, uri)
    diverged, failed = runs(uri)["sam_on/search/0"], runs(uri)["sam_on/search/1"]
    assert diverged.info.status == "KILLED"
    assert diverged.data.tags["reason"] == "NaN in epoch 1"
    assert diverged.data.tags["diverged"] == "true"
    assert failed.info.status == "FAILED"
    assert failed.data.tags["reason"] == "out of memory"
    assert "diverged" not in failed.data.tags


@pytest.mark.parametrize("forget", [False, True])
def test_mirroring_again_changes_nothing(study: Study, uri: str, forget: bool) -> None:
    study.whole(study.trial())
    study.whole(study.trial(stage="confirm"))
    study.end(study.start(study.trial(index=1)), "diverged", "NaN", epochs=0)
    open_trial = study.start(study.trial("sgd"))
    study.epoch(open_trial, 1, train_loss=math.nan)
    sync(study, uri)
    before = rows(uri)
    if forget:
        (study.home.folder / tracking_state.STATE).unlink()
    sync(study, uri)
    assert rows(uri) == before


def test_every_crash_between_two_batches_is_made_good(
    study: Study, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    trials = [study.whole(study.trial(index=index)) for index in range(2)]
    study.verdict()
    client = tracking.open_store(uri)
    for name in ("create_run", "log_batch", "set_terminated"):
        original: Callable[..., Any] = getattr(client, name)

        def dies_after(*args: Any, original: Any = original, **kwargs: Any) -> None:
            original(*args, **kwargs)
            raise ConnectionError("accepted, but the answer was lost")

        with monkeypatch.context() as patch:
            patch.setattr(client, name, dies_after)
            with pytest.raises(ConnectionError):
                Mirror(client, study.home, uri).catch_up()
    sync(study, uri)
    assert len(runs(uri)) == 1 + len(trials)
    assert len(rows(uri)["metrics"]) == len(trials) * EPOCHS * len(METRICS) + SUMMARY


def test_what_was_mirrored_is_not_read_again(study: Study, uri: str) -> None:
    study.whole(study.trial())
    sync(study, uri)
    state = tracking_state.read_state(study.home.folder)
    assert state is not None
    assert state.offset == study.home.journal.stat().st_size
    with sqlite3.connect(uri.removeprefix("sqlite:///")) as connection:
        connection.execute("DELETE FROM metrics")
    sync(study, uri)
    assert rows(uri)["metrics"] == []


def test_another_store_is_filled_from_the_start(
    study: Study, uri: str, empty_store: Path, tmp_path: Path
) -> None:
    study.whole(study.trial())
    sync(study, uri)
    shutil.copy(empty_store, tmp_path / "other.db")
    other = f"sqlite:///{tmp_path}/other.db"
    sync(study, other)
    assert runs(other).keys() == runs(uri).keys()
    assert len(rows(other)["metrics"]) == EPOCHS * len(METRICS)


def test_an_interrupted_study_is_killed_and_runs_again_when_resumed(study: Study, uri: str) -> None:
    trial = study.start(study.trial())
    study.epoch(trial, 1)
    sync(study, uri)
    for name in ("s", "sam_on/search/0"):
        run = runs(uri)[name]
        assert (run.info.status, run.data.tags["reason"]) == ("KILLED", "interrupted")
        assert run.info.end_time == tracking_names.millis(study.time)

    mirror = Mirror(tracking.open_store(uri), study.home, uri)
    mirror.reopen()
    for name in ("s", "sam_on/search/0"):
        run = runs(uri)[name]
        assert run.info.status == "RUNNING"
        assert "reason" not in run.data.tags

    study.epoch(trial, 2)
    study.end(trial, epochs=2)
    study.verdict()
    mirror.catch_up()
    mirror.finish()
    found = runs(uri)
    assert {run.info.status for run in found.values()} == {"FINISHED"}
    assert found.keys() == {"s", "sam_on/search/0"}


def test_a_study_that_was_interrupted_once_ends_finished_without_a_reason(
    study: Study, uri: str
) -> None:
    trial = study.start(study.trial())
    sync(study, uri)
    study.end(trial)
    study.verdict()
    sync(study, uri)
    for run in runs(uri).values():
        assert run.info.status == "FINISHED"
        assert "reason" not in run.data.tags


def test_the_verdict_comes_with_artifacts_and_summary(study: Study, uri: str) -> None:
    (study.home.folder / "report.html").write_text("<p>report")
    (study.home.folder / "verdict.json").write_text("{}")
    (study.home.folder / "plots").mkdir()
    (study.home.folder / "plots" / "effects.png").write_bytes(b"png")
    study.whole(study.trial())
    study.verdict()
    sync(study, uri)
    parent = runs(uri)["s"]
    assert parent.info.status == "FINISHED"
    assert parent.data.tags["verdict"] == "sam_on is better."
    assert parent.data.tags["mlflow.note.content"] == (
        "Which is better?\n\nsam_on is better.\n\n"
        "| comparison\xa0 | n\xa0 | difference\xa0 | interval\xa0 | p (Holm)\xa0 | verdict\xa0 |\n"
        "|---|---|---|---|---|---|\n"
        "| `sam_on` − `sgd`\xa0 | 4\xa0 | +1.50\xa0 | [+1.00, +2.00]\xa0 | –\xa0 | better\xa0 |"
    )
    p = parent.data.metrics.pop("p.sam_on_vs_sgd")
    assert math.isnan(p)
    assert parent.data.metrics == {
        "test_accuracy.sgd": 88.0,
        "standard_error.sgd": 0.5,
        "validation_accuracy.sgd": 88.0,
        "validation_accuracy.sam_on": 88.0,
        "difference.sam_on_vs_sgd": 1.5,
    }
    client = tracking.open_store(uri)
    run_id = parent.info.run_id
    assert {item.path for item in client.list_artifacts(run_id)} == {
        "plots",
        "report.html",
        "verdict.json",
    }
    assert [item.path for item in client.list_artifacts(run_id, "plots")] == ["plots/effects.png"]
    experiment = client.get_experiment_by_name("s")
    assert experiment.artifact_location.startswith(f"file://{Path(uri[10:]).parent}/")
    before = rows(uri)
    sync(study, uri)
    assert rows(uri) == before


def test_hostile_text_is_stored_as_far_as_it_can_be(tmp_path: Path, uri: str) -> None:
    question = "ü\0\ud800 <script>'\"; DROP TABLE runs;" + "長" * 9000
    study = Study(tmp_path / "studies", "h", question)
    study.end(study.start(study.trial()), "failed", "x" * 20_000)
    for _ in range(2):
        sync(study, uri)
    found = runs(uri, "h")
    stored = found["h"].data.tags["question"]
    assert stored.startswith("ü\N{REPLACEMENT CHARACTER}? <script>'\"; DROP TABLE runs;長")
    assert len(stored) == tracking_names.MAX_TAG
    assert stored.endswith("…")
    assert len(found["sam_on/search/0"].data.tags["reason"]) == tracking_names.MAX_TAG


def test_more_metrics_than_a_batch_holds_all_arrive(tmp_path: Path, uri: str) -> None:
    study = Study(tmp_path / "studies", epochs=300)
    trial = study.start(study.trial())
    for epoch in range(1, 301):
        study.epoch(trial, epoch)
    study.end(trial, epochs=300)
    sync(study, uri)
    assert len(rows(uri)["metrics"]) == 300 * len(METRICS)


def test_a_later_study_of_the_same_name_gets_runs_of_its_own(
    study: Study, uri: str, tmp_path: Path
) -> None:
    study.whole(study.trial())
    sync(study, uri)
    shutil.rmtree(study.home.folder)
    again = Study(study.home.out)
    path = again.home.journal
    path.write_text(path.read_text().replace(f"{T0}", f"{T0 + 999}"))
    again.whole(again.trial())
    sync(again, uri)
    assert len(rows(uri)["runs"]) == 4
    assert len(rows(uri)["experiments"]) == 2  # MLflow's own, Default, is the other


def test_two_studies_share_one_store(tmp_path: Path, uri: str, study: Study) -> None:
    other = Study(tmp_path / "studies", "t")
    study.whole(study.trial())
    other.whole(other.trial())
    sync(study, uri)
    sync(other, uri)
    assert runs(uri, "s").keys() == {"s", "sam_on/search/0"}
    assert runs(uri, "t").keys() == {"t", "sam_on/search/0"}


def test_a_deleted_experiment_is_told_with_what_to_do(study: Study, uri: str) -> None:
    sync(study, uri)
    client = tracking.open_store(uri)
    number = client.get_experiment_by_name("s").experiment_id
    client.delete_experiment(number)
    with pytest.raises(TrackingError, match=f"mlflow experiments restore -x {number}"):
        sync(study, uri)
    client.restore_experiment(number)
    study.whole(study.trial())
    sync(study, uri)
    assert "sam_on/search/0" in runs(uri)


def test_a_run_that_the_user_deleted_stays_deleted(study: Study, uri: str) -> None:
    trial = study.start(study.trial())
    sync(study, uri, finish=False)
    tracking.open_store(uri).delete_run(runs(uri)["sam_on/search/0"].info.run_id)
    study.epoch(trial, 1)
    study.end(trial)
    sync(study, uri)
    assert runs(uri).keys() == {"s"}
    assert rows(uri)["metrics"] == []


def test_only_one_process_mirrors_a_study(study: Study) -> None:
    with (
        tracking_state.only_one(study.home.folder),
        pytest.raises(TrackingError, match="another process"),
        tracking_state.only_one(study.home.folder),
    ):
        pass
    with tracking_state.only_one(study.home.folder):
        pass


@pytest.mark.parametrize("content", ["", "{", '{"uri": "x"}', "[1]", '"text"'])
def test_a_broken_state_file_means_starting_from_the_first_line(study: Study, content: str) -> None:
    (study.home.folder / tracking_state.STATE).write_text(content)
    assert tracking_state.read_state(study.home.folder) is None


def test_the_state_that_is_written_is_read_back(study: Study) -> None:
    state = State("sqlite:////x/mlflow.db", "1", 42)
    tracking_state.write_state(study.home.folder, state)
    assert tracking_state.read_state(study.home.folder) == state
    assert json.loads((study.home.folder / tracking_state.STATE).read_text())["offset"] == 42


def test_damaged_lines_are_passed_over_as_by_the_report(study: Study, uri: str) -> None:
    first, second = study.trial(index=0), study.trial(index=1)
    study.whole(first)
    mirror = sync(study, uri, finish=False)
    place = study.home.journal
    with place.open("ab") as file:
        file.write(b'{"kind": "sta\x00\n[]\n' + b'{"kind": "end", "trial": "s/sgd/search/1"}\n')
        orphan = journal.end_line(End(second.name, "finished", "", {}, 0, T0))
        file.write(json.dumps(orphan).encode() + b"\n")
    mirror.catch_up()
    study.whole(second)
    mirror.catch_up()
    sync(study, uri)
    assert set(runs(uri)) == {"s", "sam_on/search/0", "sam_on/search/1"}
    assert study.home.begun()[1].damaged == (7, 8, 9, 10)
    state = tracking_state.read_state(study.home.folder)
    assert state is not None
    assert state.offset == place.stat().st_size
