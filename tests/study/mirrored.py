"""Journals as a study writes them, and what MLflow made of them."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from study import journal, resolve, tracking
from study.home import Home
from study.journal import Journal
from study.records import End, Epoch, Trial
from study.yamlfile import Document

T0 = 1_700_000_000.0
EPOCHS = 3
METRICS = (
    "train_loss",
    "train_accuracy",
    "validation_loss",
    "validation_accuracy",
    "perturbation_norm",
    "gradient_evaluations",
    "seconds_per_epoch",
)
SUMMARY = 6  # metrics of the parent run
TABLES = ("experiments", "runs", "metrics", "latest_metrics", "params", "tags")


def spec_of(name: str = "s", question: str = "Which is better?", epochs: int = EPOCHS) -> Any:
    data = {
        "study": name,
        "question": question,
        "workload": {
            "data": {"name": "digits", "train_size": 80, "validation_size": 30, "label_noise": 0.4},
            "model": {"name": "resnet8", "width": 4},
            "optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 0.0005},
            "epochs": epochs,
            "batch_size": 64,
            "label_smoothing": 0.1,
        },
        "arms": {
            "sgd": {"variant": "none"},
            "sam_on": {
                "variant": "asam",
                "perturb": "norm",
                "search": {"lr": {"low": 0.01, "high": 1.0}},
            },
        },
        "search": {"rho": "suggested"},
        "tune": {"trials_per_arm": 2},
        "confirm": {"seeds": 2},
        "verdict": {"baseline": "sgd", "equivalence_margin": 0.5},
    }
    return resolve.resolve(Document(data, {(): "test"}))


class Study:
    """A study's folder with a journal that a test writes line by line."""

    def __init__(
        self,
        out: Path,
        name: str = "s",
        question: str = "Which is better?",
        epochs: int = EPOCHS,
    ) -> None:
        self.home = Home(out, name)
        self.home.folder.mkdir(parents=True)
        self.name = name
        self.time = T0
        self._journal = Journal(self.home.journal)
        spec = spec_of(self.name, question, epochs)
        header = {"kind": "header", "version": 2, "time": T0, "spec": spec.model_dump()}
        header |= {
            "hash": "h" * 64,
            "plan": "p",
            "commit": "c0ffee",
            "versions": {},
            "data": {"hash": "d1"},
        }
        self._journal.append(header)

    def tick(self) -> float:
        self.time += 1.25
        return self.time

    def trial(self, arm: str = "sam_on", stage: Any = "search", index: int = 0) -> Trial:
        rho = {} if arm == "sgd" else {"rho": 0.75, "lr": 0.2}
        return Trial(self.name, arm, stage, index, 7 + index, rho)

    def start(self, trial: Trial) -> Trial:
        self._journal.append(journal.start_line(trial, self.tick()))
        return trial

    def epoch(self, trial: Trial, epoch: int, **changed: float) -> None:
        values = {key: epoch + i / 10 for i, key in enumerate(METRICS)}
        values |= {"perturbed_share": 1.5, **changed}
        self._journal.append(journal.epoch_line(Epoch(trial.name, epoch, values, self.tick())))

    def end(
        self, trial: Trial, status: Any = "finished", reason: str = "", epochs: int = EPOCHS
    ) -> None:
        scores = {"validation_accuracy": 90.0} if status != "failed" else {}
        if scores and trial.stage == "confirm":
            scores |= {"test_accuracy": 88.0, "test_loss": 0.4}
        end = End(trial.name, status, reason, scores, epochs, self.tick())
        self._journal.append(journal.end_line(end))

    def whole(self, trial: Trial) -> Trial:
        self.start(trial)
        for epoch in range(1, EPOCHS + 1):
            self.epoch(trial, epoch)
        self.end(trial)
        return trial

    def verdict(self) -> None:
        sample = {"mean": 88.0, "standard_deviation": 1.0, "standard_error": 0.5, "n": 4}
        arm = {"validation_accuracy": sample, "test_accuracy": sample}
        comparison = {"arm": "sam_on", "against": "sgd", "n": 4, "word": "better"}
        comparison |= {"difference": 1.5, "interval": [1.0, 2.0], "p_holm": None}
        verdict = {
            "sentence": "sam_on is better.",
            "arms": {"sgd": arm, "sam_on": {**arm, "test_accuracy": None}},
            "comparisons": [comparison],
        }
        self._journal.append(
            {"kind": "verdict", "number": 0, "verdict": verdict, "time": self.tick()}
        )


def runs(uri: str, name: str = "s") -> dict[str, Any]:
    """MLflow's runs of a study by run name."""
    client = tracking.open_store(uri)
    experiment = client.get_experiment_by_name(name)
    found = client.search_runs([experiment.experiment_id])
    by_name = {run.info.run_name: run for run in found}
    assert len(by_name) == len(found)
    return by_name


def rows(uri: str) -> Mapping[str, list[Any]]:
    """Everything that the store holds."""
    with sqlite3.connect(uri.removeprefix("sqlite:///")) as connection:
        return {t: sorted(connection.execute(f"SELECT * FROM {t}"), key=repr) for t in TABLES}
