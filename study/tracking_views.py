"""Where MLflow's pages show a study: views that its experiment offers, and the link that opens one.

A view is what the page of runs saves when its user clicks *Views*: an experiment tag that holds
filter, columns, grouping and charts as JSON. Its form is MLflow's own and in no documentation; it
was read off version 3.17, and tests/services/test_browser.py opens each view in a browser.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

TAG = "mlflow.sharedViewState."
"""What the key of a view's tag begins with; the view's own key follows."""
UI = "http://127.0.0.1:5000"
"""Where `mlflow ui` listens unless told otherwise."""
TRAINING = "workflowType=machine_learning"
"""Without it the pages of MLflow 3.17 open an experiment as one of prompts and traces, whatever its
tags say, until their user flips a switch there."""

_ARM = {"mode": "tag", "groupByData": "arm"}
_SECTION = "charts"


@dataclass(frozen=True)
class View:
    """columns: with MLflow's prefix, such as params.rho. order: the column to sort by, downwards.
    group: what the runs of an arm together show of a metric, `average` or `max`; None: no groups.
    """

    name: str
    filter: str
    columns: Sequence[str]
    charts: Sequence[Mapping[str, Any]]
    group: str | None = None
    order: str | None = None

    def state(self) -> dict[str, Any]:
        """What MLflow's page of runs restores."""
        state: dict[str, Any] = {
            "searchFilter": self.filter,
            "selectedColumns": [_quoted(column) for column in self.columns],
            "runsHiddenMode": "SHOW_ALL",
            "compareRunCharts": [
                {
                    "uuid": f"chart-{i}",
                    "metricSectionId": _SECTION,
                    "deleted": False,
                    "isGenerated": False,
                    "runsCountToCompare": 100,
                    **chart,
                }
                for i, chart in enumerate(self.charts)
            ],
            "compareRunSections": [
                {
                    "uuid": _SECTION,
                    "name": self.name,
                    "display": True,
                    "isReordered": False,
                    "columns": 2,
                }
            ],
        }
        if self.order is not None:
            state |= {"orderByKey": _quoted(self.order), "orderByAsc": False}
        if self.group is not None:
            state["groupBy"] = {"aggregateFunction": self.group, "groupByKeys": [_ARM]}
        return state


def _bar(metric: str) -> dict[str, Any]:
    return {"type": "BAR", "metricKey": metric, "displayName": metric}


def _line(metric: str) -> dict[str, Any]:
    own = {"selectedMetricKeys": [metric], "lineSmoothness": 0, "useGlobalLineSmoothing": False}
    return {**_bar(metric), "type": "LINE", **own}


def _scatter(param: str, metric: str) -> dict[str, Any]:
    axes = {"xaxis": {"key": param, "type": "PARAM"}, "yaxis": {"key": metric, "type": "METRIC"}}
    return {"type": "SCATTER", **axes}


VIEWS: Mapping[str, View] = {
    "confirm": View(
        "Test accuracy by arm",
        "tags.stage = 'confirm'",
        ("metrics.test_accuracy", "metrics.validation_accuracy", "params.rho", "tags.seed"),
        (
            _bar("test_accuracy"),
            _line("validation_accuracy"),
            _bar("test_loss"),
            _line("train_loss"),
        ),
        group="average",
    ),
    "search": View(
        "Validation accuracy over rho",
        "tags.stage = 'search'",
        ("metrics.validation_accuracy", "tags.arm", "params.rho"),
        (_scatter("rho", "validation_accuracy"), _line("validation_accuracy")),
        order="metrics.validation_accuracy",
    ),
    "best": View(
        "Best of the search by arm",
        "tags.stage = 'search'",
        ("metrics.validation_accuracy", "params.rho"),
        (_bar("validation_accuracy"),),
        group="max",
        order="metrics.validation_accuracy",
    ),
    "cost": View(
        "Cost by arm",
        "tags.stage = 'confirm'",
        ("metrics.seconds_per_epoch", "metrics.gradient_evaluations", "params.perturbed_share"),
        (_bar("seconds_per_epoch"), _bar("gradient_evaluations")),
        group="average",
    ),
    "unfinished": View(
        "Runs that did not finish",
        "attributes.status != 'FINISHED'",
        ("tags.reason", "tags.diverged", "tags.arm", "tags.stage", "params.rho"),
        (),
    ),
}
"""By the key in their links, in the order in which MLflow lists them."""


def tags(began: int) -> dict[str, str]:
    """Tags that give an experiment its views. began: of the study, in milliseconds since 1970."""
    found = {}
    for place, (key, view) in enumerate(VIEWS.items()):
        made = began - place  # the newest is listed first
        state = json.dumps(view.state(), separators=(",", ":"))
        held = {"name": view.name, "createdAt": made, "updatedAt": made, "state": state}
        found[TAG + key] = json.dumps(held)
    return found


def link(uri: str, experiment: str, view: str = "confirm") -> str:
    """The address of a view in the pages of the tracking server at `uri`, without its password; of
    another store in those of `mlflow ui`.

    experiment: MLflow's id.
    """
    place = UI
    if uri.startswith("http"):
        parts = urlsplit(uri)
        place = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}"
    mode = "&compareRunsMode=CHART" if VIEWS[view].charts else ""
    asked = f"{TRAINING}&viewStateShareKey={view}{mode}"
    return f"{place}/#/experiments/{experiment}/runs?{asked}"


def _quoted(column: str) -> str:
    kind, _, name = column.partition(".")
    return f"{kind}.`{name}`"
