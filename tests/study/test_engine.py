"""Studies on a real Ray, with mishaps at exact moments; the command is tested in test_command."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import ray
from PIL import Image

from study import journal, preflight, report, stages
from study.course import Course
from study.engine import Engine
from study.home import Home
from study.journal import Contents, RecordError
from study.ledger import Ledger, open_file
from study.recorder import Recorder
from study.records import End, Epoch, Result, Trial
from study.spec import Spec
from study.stages import Plan
from study.yamlfile import SpecError
from tests.study.command import kill, processes
from tests.study.synthetic import make_spec
from trainables import data
from trainables.training import Config, Training, deterministic

ARMS = (
    "{sgd: {variant: none}, sam_on: {variant: sam, perturb: norm},"
    # The second of two choices overflows in the first step; `lost` has no other.
    " brittle: {variant: none, search: {lr: {choices: [0.05, 1.0e30]}}},"
    " lost: {variant: none, search: {lr: {choices: [1.0e30]}}, trials: 1}}"
)
QUICK = (
    "workload.epochs=3",
    "workload.data.train_size=128",
    "workload.data.validation_size=64",
    "workload.model.width=4",
    f"arms={ARMS}",
    "tune.trials_per_arm=2",
    "confirm.seeds=2",
    "verdict={baseline: sgd, equivalence_margin: 0.5}",
)
TRIALS = 2 + 2 + 2 + 1 + 4 * 2


@pytest.fixture(scope="module", autouse=True)
def _cluster() -> Iterator[None]:
    """One Ray for all tests here, connected as the command connects."""
    with Engine(make_spec(), None):
        yield


@dataclass
class Watch:
    """A listener that does something at a moment. starts: trials as often as they started."""

    at: Callable[[str, int], None] = lambda name, epoch: None
    starts: list[str] = field(default_factory=list)

    def start(self, trial: Trial, at: float) -> None:
        self.starts.append(trial.name)
        self.at(trial.name, 0)

    def epoch(self, epoch: Epoch) -> None:
        self.at(epoch.trial, epoch.epoch)

    def end(self, end: End) -> None:
        pass

    def note(self, text: str) -> None:
        pass


def execute(spec: Spec, home: Home, watch: Watch | None = None) -> Contents:
    """Runs what is missing of a study, recorded as the command does it."""
    engine = Engine(spec, None)
    facts = engine.load_pool()
    watch = watch or Watch()
    with home.claimed(), preflight.opened(home, spec, facts) as records:
        ledger = Ledger(open_file(home.ledger), spec)
        with Recorder(records, ledger, on_error=engine.stop) as recorder:

            def results() -> tuple[Result, ...]:
                recorder.flush()
                return home.begun()[1].results

            def begin(plan: Plan, so_far: object) -> None:
                if plan.stage == "confirm":
                    preflight.note_undecodable(engine.load_test(), "test", recorder.note)

            engine.run(Course(spec, ledger, results, begin), [recorder, watch])
    return home.begun()[1]


def kill_actors() -> None:
    """Ends the processes that train, as an out-of-memory killer does."""
    for pid, line in processes():
        if line.startswith("ray::SamTrainable") and _is_ours(pid):
            kill(pid)


def _is_ours(pid: int) -> bool:
    while pid > 1:
        if pid == os.getpid():
            return True
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            return False
    return False


def numbers(contents: Contents) -> Mapping[str, object]:
    """What must not depend on when and how often a trial was run, by trial."""
    return {
        result.trial.name: (
            result.trial,
            result.end.status,
            result.end.reason,
            result.end.scores,
            [
                (e.epoch, {k: repr(v) for k, v in e.metrics.items() if k != "seconds_per_epoch"})
                for e in result.epochs
            ],
        )
        for result in contents.results
    }


def unique_lines(home: Home) -> bool:
    keys = [(x["kind"], x.get("trial"), x.get("epoch")) for _, x in journal.lines(home.journal)]
    keys = [key for key in keys if key[0] != "note"]
    return len(keys) == len(set(keys))


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> tuple[Home, Contents]:
    """A study without mishaps."""
    spec = make_spec(*QUICK)
    home = Home(tmp_path_factory.mktemp("calm"), spec.study)
    return home, execute(spec, home)


def test_a_trial_on_ray_is_the_training_loop_alone(calm: tuple[Home, Contents]) -> None:
    spec, contents = calm[0].begun()
    deterministic(1)
    pool, facts = data.load_pool("digits")
    test, _ = data.load_test("digits")
    chosen = [r for r in contents.results if r.trial.arm == "sam_on"]
    assert len(chosen) == 4
    for result in chosen:
        alone = Training(Config(**stages.training_config(spec, result.trial)), pool, facts)
        for epoch in result.epochs:
            there = dict(epoch.metrics)
            there.pop("perturbed_share", None)
            assert there | {"seconds_per_epoch": 0} == alone.epoch() | {"seconds_per_epoch": 0}
        scores = {"validation_accuracy": result.epochs[-1].metrics["validation_accuracy"]}
        if result.trial.stage == "confirm":
            scores |= alone.test(test)
        assert result.end.scores == scores


def test_a_diverged_trial_is_an_outcome_that_is_not_repeated(calm: tuple[Home, Contents]) -> None:
    home, contents = calm
    ends = contents.ends
    assert len(ends) == TRIALS
    overflowed = [t for t in contents.trials.values() if t.hyperparameters.get("lr") == 1e30]
    assert {t.arm: t.stage for t in overflowed if t.arm == "brittle"} == {"brittle": "search"}
    assert sum(t.arm == "lost" for t in overflowed) == 3
    for trial in contents.trials.values():
        assert ends[trial.name].status == ("diverged" if trial in overflowed else "finished")
    assert ends["tiny/lost/confirm/0"].scores == {
        "validation_accuracy": 10.0,
        "test_accuracy": 10.0,
    }
    assert ends["tiny/lost/confirm/0"].reason == "diverged in epoch 1"
    assert not contents.notes


def test_a_study_stopped_at_any_moment_goes_on_to_the_same_results(
    calm: tuple[Home, Contents], tmp_path: Path
) -> None:
    spec, undisturbed = calm[0].begun()
    home = Home(tmp_path, spec.study)
    moments = [
        ("tiny/sgd/search/0", 0, Engine.stop),
        ("tiny/sam_on/search/1", 2, Engine.stop),
        ("tiny/sgd/confirm/1", 1, None),
    ]
    done: set[str] = set()
    for name, epoch, stop in moments:
        watch = Watch()
        pytest.fail("x")
    contents = execute(spec, home)
    assert numbers(contents) == numbers(undisturbed)
