"""Studies as MLflow holds them, whoever ran them: their confirm runs, read and put in order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from study.yamlfile import SpecError
from trainables.catalog import nearest, shown

if TYPE_CHECKING:
    from mlflow import MlflowClient

_PAGE = 500  # runs an answer: a server may need seconds for more
_LENGTH = 80  # characters of anybody's text that are kept


@dataclass(frozen=True)
class Run:
    """A confirm run. accuracy: on test data, in percent, None where it has none or failed.

    params: as in MLflow. index: counts within the arm from 0. offset: whether the arm has seeds of
    its own.
    """

    arm: str
    variant: str
    perturb: str
    seed: int
    index: int
    accuracy: float | None
    diverged: bool
    params: Mapping[str, str]
    offset: bool = False

    @property
    def method(self) -> str:
        """VARIANT/SUBSET."""
        return f"{self.variant}/{self.perturb}"


@dataclass(frozen=True)
class Study:
    """A study and its confirm runs. judged: it has its verdict. extended: it was, after looking.

    earlier: how many studies of the same name there are that began before; they are left alone.
    """

    name: str
    data_hash: str
    judged: bool
    extended: bool
    earlier: int
    runs: tuple[Run, ...]

    def of_arm(self, arm: str) -> list[Run]:
        """The runs of an arm, by index."""
        return sorted((run for run in self.runs if run.arm == arm), key=lambda run: run.index)


def read(client: MlflowClient, name: str) -> Study:
    """The study `name`, the latest where several have that name.

    Raises SpecError where there is none, and what MLflow raises when the store cannot be read.
    """
    experiment = client.get_experiment_by_name(name)
    if experiment is None or experiment.lifecycle_stage == "deleted":
        names = [each.name for each in _all(client.search_experiments)]
        raise SpecError(f"MLflow has no study {shown(name)}{nearest(name, names)}")
    where = experiment.experiment_id
    parents = list(_runs(client, where, "tags.stage = 'study'"))
    if not parents:
        raise SpecError(f"{name}: the experiment of that name in MLflow holds no study")
    parent = max(parents, key=lambda run: run.info.start_time)
    condition = f"tags.stage = 'confirm' and tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
    tags = parent.data.tags
    return Study(
        name=name,
        data_hash=_plain(tags.get("data_hash", "")),
        judged="verdict" in tags,
        extended="verdict_after_looking" in tags,
        earlier=len(parents) - 1,
        runs=tuple(filter(None, map(_run, _runs(client, where, condition)))),
    )


def _run(run: Any) -> Run | None:
    """The run as a record; None for one that no study wrote."""
    tags = run.data.tags
    index = tags.get("trial", "").rpartition("/")[2]
    seed = tags.get("seed", "")
    arm, variant, perturb = (_plain(tags.get(key, "")) for key in ("arm", "variant", "perturb"))
    if not (arm and variant and perturb and index.isdecimal() and seed.isdecimal()):
        return None
    accuracy = run.data.metrics.get("test_accuracy")
    failed = run.info.status == "FAILED"
    scored = accuracy is not None and 0 <= accuracy < 100.5 and not failed
    return Run(
        arm,
        variant,
        perturb,
        seed=int(seed),
        index=int(index),
        accuracy=float(accuracy) if scored else None,
        diverged="diverged" in tags,
        params={_plain(key): _plain(value) for key, value in run.data.params.items()},
        offset="seed_offset" in tags,
    )


def _runs(client: MlflowClient, experiment: str, condition: str) -> Iterator[Any]:
    def search(**page: Any) -> Any:
        return client.search_runs([experiment], condition, **page)

    return _all(search)


def _all(search: Any) -> Iterator[Any]:
    """What a search of MLflow finds, page by page."""
    page: str | None = None
    while True:
        found = search(max_results=_PAGE, page_token=page)
        yield from found
        page = found.token
        if not page:
            return


def _plain(text: str) -> str:
    """Somebody's text, in one line that no terminal takes for an order."""
    plain = "".join(c if c.isprintable() else "?" for c in text)
    return plain if len(plain) <= _LENGTH else f"{plain[: _LENGTH - 1]}…"
