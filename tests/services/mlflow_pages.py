"""Addresses of MLflow's pages that show a study."""

from __future__ import annotations

import json
from collections.abc import Sequence
from urllib.parse import quote

from mlflow import MlflowClient

from study.tracking_views import TRAINING

VERDICTS = "tags.stage = 'study'"


class Pages:
    """Of one study on a tracking server, which need not run when this is made.

    server: its URL. experiment, study: MLflow's ids of the experiment and of the study's run.
    confirm: the ids of its confirm runs by their names.
    """

    def __init__(self, server: str, client: MlflowClient, name: str) -> None:
        """client: of the store behind the server at the URL `server`."""
        self.experiment: str = client.get_experiment_by_name(name).experiment_id
        [parent] = client.search_runs([self.experiment], "tags.stage = 'study'")
        self.study: str = parent.info.run_id
        confirm = client.search_runs([self.experiment], "tags.stage = 'confirm'")
        self.confirm: dict[str, str] = {run.info.run_name: run.info.run_id for run in confirm}
        self.server = server

    def run(self, artifact: str = "") -> str:
        """The page of the study's run, or the one that shows one of its artifacts."""
        page = f"{self.server}/#/experiments/{self.experiment}/runs/{self.study}"
        return f"{page}/artifacts/{artifact}?{TRAINING}" if artifact else f"{page}?{TRAINING}"

    def studies(self, experiments: Sequence[str]) -> str:
        """The page of the runs of several studies, with those that hold a verdict."""
        found = quote(json.dumps(experiments))
        asked = f"experiments={found}&searchFilter={quote(VERDICTS)}&{TRAINING}"
        return f"{self.server}/#/compare-experiments/s?{asked}"

    def compared(self, names: Sequence[str]) -> str:
        """The page that compares these confirm runs."""
        runs = quote(json.dumps([self.confirm[name] for name in names]))
        where = f"runs={runs}&experiments=%5B%22{self.experiment}%22%5D&{TRAINING}"
        return f"{self.server}/#/compare-runs?{where}"
