"""Whether MLflow holds what a journal says, no more and no less: slow and obvious on purpose."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from study import tracking_names
from study.journal_lines import parse_start

STATUS = {"finished": "FINISHED", "pruned": "KILLED", "diverged": "KILLED", "failed": "FAILED"}
Line = dict[str, Any]


def assert_equals_journal(client: Any, journal: Path) -> None:
    """Asserts that MLflow equals the journal of a study that runs no more, metric by metric.

    client: an MlflowClient. Every trial has exactly one run with its status, times, params and
    tags, and each metric's values, steps and timestamps; no run is RUNNING, none is there twice.
    """
    header, by_kind = _read(journal)
    study, began = header["spec"]["study"], int(header["time"] * 1000)
    experiment = client.get_experiment_by_name(study)
    assert experiment is not None, f"no experiment {study}"
    found = _all_runs(client, experiment.experiment_id)
    [parent] = [
        run for run in found if run.data.tags["stage"] == "study" and run.info.start_time == began
    ]
    mine = [r for r in found if r.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    names = [run.data.tags["trial"] for run in mine]
    assert sorted(names) == sorted(by_kind["start"]), "one run a trial"
    _assert_parent(parent, header, by_kind["verdict"])
    for run in mine:
        name = run.data.tags["trial"]
        start, end = by_kind["start"][name], by_kind["end"].get(name)
        epochs = [line for key, line in by_kind["epoch"].items() if key[0] == name]
        _assert_ended(run, end)
        assert run.info.start_time == int(start["time"] * 1000), name
        assert run.info.run_name == name.removeprefix(f"{study}/")
        _assert_tags(run, header, start)
        _assert_params(run, header, start, epochs)
        _assert_metrics(client, run, start, epochs, end)


def _read(journal: Path) -> tuple[Line, dict[str, dict[Any, Line]]]:
    """The header, and of each kind its lines by what tells them apart; the first one wins."""
    lines = [
        json.loads(raw)
        for raw in journal.read_bytes().splitlines(keepends=True)
        if raw[-1:] == b"\n"
    ]
    by_kind: dict[str, dict[Any, Line]] = {
        kind: {} for kind in ("start", "epoch", "end", "verdict")
    }
    for line in lines:
        kind = line["kind"]
        if kind in ("start", "end"):
            by_kind[kind].setdefault(line["trial"], line)
        elif kind == "epoch":
            by_kind[kind].setdefault((line["trial"], line["epoch"]), line)
        elif kind == "verdict":
            by_kind[kind].setdefault(line["number"], line)
    return lines[0], by_kind


def _all_runs(client: Any, experiment: str) -> list[Any]:
    runs: list[Any] = []
    page = None
    while True:
        found = client.search_runs([experiment], max_results=500, page_token=page)
        runs += found
        if not (page := found.token):
            return runs


def _assert_parent(parent: Any, header: Line, verdicts: dict[Any, Line]) -> None:
    tags = parent.data.tags
    assert tags["spec_hash"] == header["hash"]
    assert tags["question"] == tracking_names.text(header["spec"]["question"])
    if 0 in verdicts:
        assert parent.info.status == "FINISHED"
        assert parent.info.end_time == int(verdicts[0]["time"] * 1000)
        assert tags["verdict"] == tracking_names.text(verdicts[0]["verdict"]["sentence"])
        assert "reason" not in tags
    else:
        assert (parent.info.status, tags["reason"]) == ("KILLED", "interrupted")
        assert "verdict" not in tags


def _assert_ended(run: Any, end: Line | None) -> None:
    name, status, reason = run.info.run_name, run.info.status, run.data.tags.get("reason")
    if end is None:
        assert (status, reason) == ("KILLED", "interrupted"), name
        return
    expected = None if end["status"] == "finished" else tracking_names.text(end["reason"])
    assert (status, reason) == (STATUS[end["status"]], expected), name
    assert run.info.end_time == int(end["time"] * 1000), name
    assert ("diverged" in run.data.tags) == (end["status"] == "diverged"), name


def _assert_tags(run: Any, header: Line, start: Line) -> None:
    expected = {
        "study": header["spec"]["study"],
        "stage": start["stage"],
        "arm": start["arm"],
        "seed": str(start["seed"]),
        "spec_hash": header["hash"],
        "data_hash": header["data"]["hash"],
        "commit": header["commit"],
    }
    assert {key: run.data.tags.get(key) for key in expected} == expected
    methods = header["spec"]["arms"][start["arm"]]["methods"]
    pairs = {(method["variant"], method["perturb"]) for method in methods}
    assert (run.data.tags["variant"], run.data.tags["perturb"]) in pairs


def _assert_params(run: Any, header: Line, start: Line, epochs: list[Line]) -> None:
    expected = tracking_names.trial_params(header, parse_start(start, header["spec"]["study"]))
    for key, value in start["hyperparameters"].items():
        if key not in ("variant", "perturb"):
            assert expected[key] == tracking_names.text(value, 500)
    for line in epochs:
        if line["epoch"] == 1 and line["metrics"].get("perturbed_share") is not None:
            expected["perturbed_share"] = str(line["metrics"]["perturbed_share"])
    assert run.data.params == expected, run.info.run_name


def _assert_metrics(
    client: Any, run: Any, start: Line, epochs: list[Line], end: Line | None
) -> None:
    expected: dict[str, list[tuple[int, str, int]]] = {}
    for line in epochs:
        for key, value in line["metrics"].items():
            if key != "perturbed_share":
                point = line["epoch"], _shown(value), int(line["time"] * 1000)
                expected.setdefault(key, []).append(point)
    if end is not None and start["stage"] == "confirm":
        for key in ("test_accuracy", "test_loss"):
            if key in end["scores"]:
                point = end["epochs"], _shown(end["scores"][key]), int(end["time"] * 1000)
                expected.setdefault(key, []).append(point)
    assert run.data.metrics.keys() == expected.keys(), run.info.run_name
    for key, points in expected.items():
        history = client.get_metric_history(run.info.run_id, key)
        held = sorted((p.step, _shown(p.value), p.timestamp) for p in history)
        assert held == sorted(points), (run.info.run_name, key)


def _shown(value: float | None) -> str:
    """A number as text, because one that is not finite equals nothing: null in the journal."""
    return "nan" if value is None or math.isnan(value) else repr(float(value))
