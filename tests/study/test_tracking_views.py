"""The views of an experiment, and the note of its run, as MLflow takes them."""

from __future__ import annotations

import json
import re

from study import tracking_note, tracking_views
from study.tracking_views import TAG, VIEWS
from tests.study.command import ROOT

MAX_EXPERIMENT_TAG = 5000
"""Characters that servers of earlier versions take too."""


def test_views_are_tags_that_any_server_takes_the_first_one_the_newest() -> None:
    tags = tracking_views.tags(1_700_000_000_000)
    held = {key.removeprefix(TAG): json.loads(value) for key, value in tags.items()}
    assert max(map(len, tags.values())) <= MAX_EXPERIMENT_TAG
    assert [held[key]["name"] for key in VIEWS] == [view.name for view in VIEWS.values()]
    assert sorted(held, key=lambda key: -held[key]["createdAt"]) == list(VIEWS)
    state = json.loads(held["best"]["state"])
    assert state["searchFilter"] == "tags.stage = 'search'"
    assert state["orderByKey"] == "metrics.`validation_accuracy`"
    assert state["groupBy"] == {
        "aggregateFunction": "max",
        "groupByKeys": [{"mode": "tag", "groupByData": "arm"}],
    }
    assert [chart["metricKey"] for chart in state["compareRunCharts"]] == ["validation_accuracy"]


def test_a_note_holds_twenty_comparisons_and_counts_the_others() -> None:
    comparison = {"arm": "a", "against": "b", "n": 0, "word": "undecided"}
    comparison |= {"difference": None, "interval": [None, None], "p_holm": 0.0001}
    header = {"spec": {"question": ""}}
    verdict = {"verdict": {"sentence": "Found.", "comparisons": [comparison] * 23}}
    note = tracking_note.note(header, verdict, "more.")
    first, later, table, last = note.split("\n\n")
    row = "| `a` − `b`\xa0 | 0\xa0 | –\xa0 | –\xa0 | < 0.001\xa0 | undecided\xa0 |"
    assert (first, later) == ("Found.", "After looking: more.")
    assert table.splitlines()[2:] == [row] * 20
    assert last == "3 more comparisons: report.html among the artifacts."


def test_the_page_on_comparing_lists_the_views() -> None:
    text = (ROOT / "docs" / "comparing.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| (.+?) \| `(\w+)` \| .+ \|$", text, re.MULTILINE)
    assert listed == [(view.name, key) for key, view in VIEWS.items()]
    link = tracking_views.link("sqlite:///mlflow.db", "1")
    assert link.replace("=confirm", "=key") in text
