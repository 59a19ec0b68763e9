"""Mirrors a study's journal into MLflow: one experiment a study, one run a trial, nested.

The journal is the truth. Everything written here follows from it, timestamps too, so that writing
it again changes nothing: after an outage or a crash the mirror goes on from where it last was.
"""

from __future__ import annotations

import fcntl
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from study import tracking_names as names
from study import tracking_note, tracking_views
from study.home import Home
from study.journal_lines import Line, parse_start
from study.journal_reader import Reader
from study.records import Trial
from study.tracking_state import State, TrackingError, read_state, write_state
from study.tracking_uri import masked, sqlite_path

if TYPE_CHECKING:
    from mlflow import MlflowClient

ARTIFACTS = (
    *("report.html", "verdict.json", "trials.csv", "timings.csv", "measures.csv", "spec.yaml"),
    "plots",
)
"""Files and folders of a study's folder that its parent run holds as artifacts."""
INTERRUPTED = "interrupted"
EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}
"""Not prompts and traces; pages of MLflow 3.17 go by a switch instead: `tracking_views.link`."""

_LINES = 4000  # of the journal, held in memory at a time
_METRICS = 900  # a batch; MLflow takes 1000 things in all


@dataclass
class _Run:
    """What MLflow says of a run. reason: its tag; deleted: by somebody, so left alone."""

    id: str
    status: str
    reason: str | None = None
    deleted: bool = False


def open_store(uri: str) -> MlflowClient:
    """A client of the tracking store, its tables made if need be.

    Raises what MLflow raises when the store cannot be reached. Takes seconds of CPU time.
    """
    import mlflow.store.db.utils
    from mlflow import MlflowClient

    # ten attempts of its own would block for 100 s; whoever calls this tries again by itself
    mlflow.store.db.utils.MAX_RETRY_COUNT = 1
    path = sqlite_path(uri)
    if path is None:
        client = MlflowClient(uri)
        client.search_experiments(max_results=1)
        return client
    path.parent.mkdir(parents=True, exist_ok=True)
    # MLflow makes its tables without a lock: two processes at once would break the file
    with path.with_name(f"{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")  # readers, the UI, do not wait
        client = MlflowClient(uri)
        client.search_experiments(max_results=1)
    return client


class Mirror:
    """Writes the journal of one study to one store. On any error, throw it away and make anew."""

    def __init__(self, client: MlflowClient, home: Home, uri: str) -> None:
        """home: of a study whose journal has at least its header; uri: absolute.

        Raises TrackingError when the experiment was deleted in MLflow, and what MLflow raises.
        """
        self._client = client
        self._home = home
        self._uri = uri
        self._trials: dict[str, Trial] = {}
        self._ended: set[str] = set()
        self._verdict: Line | None = None
        self._after_looking: str | None = None
        self._time = 0.0
        self._journal = Reader(home.journal)
        self._header = next(line for _, line in self._journal.lines())
        self._experiment = self._find_experiment()
        self._runs: dict[str, _Run] = {}
        found = self._find_parent()
        self._parent = found or self._create_parent()
        self._offset = self._remembered_offset() if found else 0
        if not self._parent.deleted:
            self._log(self._parent, (), names.study_params(self._header), {})
        self._remember(self._header)
        for _, line in self._journal.lines(until=self._offset):
            self._remember(line)

    def catch_up(self) -> None:
        """Writes all lines of the journal that are new, and remembers how far it got."""
        fresh: dict[str, list[Line]] = {}
        for count, (offset, line) in enumerate(self._journal.lines(), 1):
            self._remember(line)
            if "trial" in line:
                fresh.setdefault(line["trial"], []).append(line)
            if count % _LINES == 0:
                self._send(fresh, offset)
                fresh = {}
        if self._journal.offset > self._offset:
            self._send(fresh, self._journal.offset)

    def reopen(self) -> None:
        """The study goes on: what an earlier interruption closed is running again."""
        for run in (*([] if self._verdict else [self._parent]), *self._open_runs()):
            if run.reason == INTERRUPTED and not run.deleted:
                self._client.update_run(run.id, "RUNNING")
                self._client.delete_tag(run.id, "reason")
                run.status, run.reason = "RUNNING", None

    def finish(self) -> None:
        """The study has ended: its verdict goes to the parent run; what is open was interrupted."""
        for run in self._open_runs():
            self._interrupt(run)
        if self._verdict is None:
            self._interrupt(self._parent)
        elif not self._parent.deleted:
            note = tracking_note.note(self._header, self._verdict, self._after_looking)
            tags = names.verdict_tags(self._verdict, self._after_looking, note)
            self._log(self._parent, names.summary_metrics(self._verdict), {}, tags)
            self._upload()
            self._close(self._parent, "FINISHED", None, self._verdict["time"])
        self._write_state(finished=self._verdict is not None)

    def _remember(self, line: Line) -> None:
        self._time = line["time"]
        match line["kind"]:
            case "start":
                trial = parse_start(line, self._header["spec"]["study"])
                self._trials[trial.name] = trial
            case "end":
                self._ended.add(line["trial"])
            case "verdict" if line["number"] == 0:
                self._verdict = line
            case "verdict":
                self._after_looking = line["verdict"]["sentence"]

    def _find_experiment(self) -> str:
        name = self._header["spec"]["study"]
        experiment = self._client.get_experiment_by_name(name)
        tags = EXPERIMENT_TAGS | tracking_views.tags(names.millis(self._header["time"]))
        if experiment is None:
            place = self._artifact_location(name)
            return str(self._client.create_experiment(name, place, tags=tags))
        if experiment.lifecycle_stage == "deleted":
            number = experiment.experiment_id
            raise TrackingError(
                f"the experiment {name!r} was deleted in MLflow; restore it there, or with"
                f" MLFLOW_TRACKING_URI={masked(self._uri)} mlflow experiments restore -x {number}"
            )
        for key in tags.keys() - experiment.tags.keys():  # an earlier version's, or a user's own
            self._client.set_experiment_tag(experiment.experiment_id, key, tags[key])
        return str(experiment.experiment_id)

    def _artifact_location(self, name: str) -> str | None:
        if self._uri.startswith("http"):
            return None  # the server's own choice
        path = sqlite_path(self._uri)
        return ((path.parent if path else Path.cwd()) / "mlruns" / name).as_uri()

    def _find_parent(self) -> _Run | None:
        """The study's run; a study of the same name that began at another time is another one."""
        began = names.millis(self._header["time"])
        for run in self._search("tags.stage = 'study'"):
            if run.info.start_time == began:
                for child in self._search(f"tags.`mlflow.parentRunId` = '{run.info.run_id}'"):
                    self._runs[child.data.tags.get("trial", "")] = _known(child)
                return _known(run)
        return None

    def _create_parent(self) -> _Run:
        study, began = self._header["spec"]["study"], names.millis(self._header["time"])
        return self._create(study, began, names.study_tags(self._header))

    def _remembered_offset(self) -> int:
        state = read_state(self._home.folder)
        if state is None or (state.uri, state.experiment) != (masked(self._uri), self._experiment):
            return 0
        return state.offset if _ends_a_line(self._home.journal, state.offset) else 0

    def _search(self, condition: str) -> Iterator[Any]:
        from mlflow.entities import ViewType

        page: str | None = None
        while True:
            found = self._client.search_runs(
                [self._experiment], condition, ViewType.ALL, page_token=page
            )
            yield from found
            page = found.token
            if not page:
                return

    def _send(self, fresh: Mapping[str, Iterable[Line]], offset: int) -> None:
        for name, news in fresh.items():
            self._send_trial(self._trials[name], news)
        self._offset = offset
        self._write_state(finished=False)

    def _write_state(self, *, finished: bool) -> None:
        state = State(masked(self._uri), self._experiment, self._offset, finished)
        write_state(self._home.folder, state)

    def _send_trial(self, trial: Trial, news: Iterable[Line]) -> None:
        metrics: list[names.Point] = []
        params: dict[str, str] = {}
        end: Line | None = None
        begun = self._time
        for line in news:
            match line["kind"]:
                case "start":
                    begun = line["time"]
                    params |= names.trial_params(self._header, trial)
                case "epoch":
                    params |= names.epoch_params(line)
                    metrics += names.epoch_metrics(line)
                case "end":
                    metrics += names.end_metrics(line, trial)
                    end = line
                case "measurement":
                    metrics += names.measured_metrics(line)
        run = self._runs.get(trial.name)
        if run is None:
            tags = names.trial_tags(self._header, trial, self._parent.id)
            run = self._create(names.trial_title(trial), names.millis(begun), tags)
            self._runs[trial.name] = run
        if run.deleted:
            return
        ending = names.end_tags(end) if end is not None else {}
        self._log(run, metrics, params, ending)
        if end is not None:
            reason = ending.get("reason")
            self._close(run, names.STATUS[end["status"]], reason, end["time"])

    def _create(self, title: str, began: int, tags: dict[str, str]) -> _Run:
        run = self._client.create_run(self._experiment, began, tags, title)
        return _Run(run.info.run_id, run.info.status)

    def _log(
        self,
        run: _Run,
        metrics: Iterable[names.Point],
        params: Mapping[str, str],
        tags: Mapping[str, str],
    ) -> None:
        from mlflow.entities import Metric, Param, RunTag

        points = [Metric(*point) for point in metrics]
        pairs = [Param(key, value) for key, value in params.items()]
        labels = [RunTag(key, value) for key, value in tags.items()]
        while points or pairs or labels:
            self._client.log_batch(run.id, points[:_METRICS], pairs, labels, synchronous=True)
            points, pairs, labels = points[_METRICS:], [], []

    def _close(self, run: _Run, status: str, reason: str | None, time: float) -> None:
        if run.reason is not None and reason is None:
            self._client.delete_tag(run.id, "reason")
        if (run.status, run.reason) != (status, reason):
            self._client.set_terminated(run.id, status, names.millis(time))
        run.status, run.reason = status, reason

    def _interrupt(self, run: _Run) -> None:
        if run.status == "RUNNING" and not run.deleted:
            self._log(run, (), {}, {"reason": INTERRUPTED})
            self._close(run, "KILLED", INTERRUPTED, self._time)

    def _open_runs(self) -> list[_Run]:
        return [
            run for name, run in self._runs.items() if name in self._trials.keys() - self._ended
        ]

    def _upload(self) -> None:
        for name in ARTIFACTS:
            path = self._home.folder / name
            if path.is_dir():
                self._client.log_artifacts(self._parent.id, str(path), name)
            elif path.is_file():
                self._client.log_artifact(self._parent.id, str(path))


def _ends_a_line(journal: Path, offset: int) -> bool:
    """Whether a line of the journal ends right before byte `offset`, as it did when it was sent."""
    with journal.open("rb") as file:
        file.seek(max(offset - 1, 0))
        return offset > 0 and file.read(1) == b"\n"


def _known(run: Any) -> _Run:
    deleted = run.info.lifecycle_stage == "deleted"
    return _Run(run.info.run_id, run.info.status, run.data.tags.get("reason"), deleted)
