"""Trials that hold parts of a GPU, one, or several, on clusters whose GPUs only Ray believes in."""

from __future__ import annotations

import itertools
import re
import time
from pathlib import Path

import pytest
import torch

from study import stages
from study.engine import Engine
from study.failures import EveryTrialFails
from study.home import Home
from study.verdict import decide
from tests.services.fake_gpus import ON_CPU, clustered
from tests.study.command import kill, processes
from tests.study.synthetic import make_spec
from tests.study.test_engine import Watch, assert_no_line_twice, execute, is_ours, numbers
from trainables import data
from trainables.config import Config
from trainables.training import Training, deterministic

pytestmark = pytest.mark.ray

QUICK = (
    "workload.epochs=3",
    "workload.data.train_size=128",
    "workload.data.validation_size=64",
    "workload.batch_size=32",
    "workload.model={name: resnet8, width: 4, norm: gn}",
    "arms={sgd: {variant: none}, sam_on: {variant: sam, perturb: norm}}",
    "search.rho={choices: [0.3]}",
    "tune.trials_per_arm=2",
    "confirm.seeds=2",
    "verdict={baseline: sgd, equivalence_margin: 0.5}",
)
TRIALS = 8
_WORKER, _LEADER = re.compile(r"ray::SamWorker"), re.compile(r"ray::\w*Trainable")


@pytest.fixture(autouse=True)
def _on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNE_RESULT_BUFFER_LENGTH", "1")
    for name, value in ON_CPU.items():
        monkeypatch.setenv(name, value)


def running(what: re.Pattern[str]) -> list[int]:
    """Processes of such a name that this one started."""
    return [pid for pid, line in processes() if what.match(line) and is_ours(pid)]


def model(word: str, folder: Path, more: str = "") -> str:
    folder.mkdir()
    name = f"tests.services.fake_gpus:{word}"
    return f"workload.model={{name: '{name}', folder: '{folder}'{more}}}"


def test_as_many_trials_run_at_once_as_fit_a_gpu(tmp_path: Path) -> None:
    with clustered((4, 1)) as address:
        quarter = make_spec(
            *QUICK,
            "resources={cpu: 1, gpu: 0.25, max_trials: 4}",
            "workload.epochs=1",
            model("together", tmp_path / "four", ", trials: 4"),
        )
        home = Home(tmp_path, quarter.study)
        contents, _ = execute(quarter, home, address=address)
        assert {end.status for end in contents.ends.values()} == {"finished"}
        one = model("together", tmp_path / "one", ", trials: 1")
        whole = make_spec(*QUICK, "resources={cpu: 1, gpu: 1, max_trials: 2}", "study=whole", one)
        contents, _ = execute(whole, Home(tmp_path, whole.study), address=address)
    assert {end.status for end in contents.ends.values()} == {"finished"}
    in_time = sorted((contents.started[n], contents.ends[n].time) for n in contents.trials)
    assert len(in_time) == TRIALS
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(in_time))


@pytest.mark.skipif(torch.cuda.is_available(), reason="these GPUs exist")
def test_a_gpu_that_pytorch_cannot_use_fails_in_a_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR")
    for gpus in (1, 2):
        spec = make_spec(*QUICK, f"resources.gpu={gpus}", f"study=blind{gpus}", "retries=0")
        with clustered((2, 2)) as address, pytest.raises(EveryTrialFails) as error:
            execute(spec, Home(tmp_path, spec.study), address=address)
        assert "Ray gave this trial a GPU that PyTorch cannot use: install a Py" in str(error.value)


def test_a_trial_on_two_gpus_survives_what_a_trial_on_one_does(tmp_path: Path) -> None:
    spec = make_spec(*QUICK, "resources.gpu=2")
    worker, leader, stop = "tiny/sam_on/search/1", "tiny/sgd/search/1", "tiny/sgd/confirm/0"
    struck: dict[str, int] = {}
    watches: list[Watch] = []

    def strike(engine: Engine, name: str, epoch: int) -> None:
        if epoch != 2 or name in struck or name not in (worker, leader, stop):
            return
        found = running(_LEADER if name == leader else _WORKER)
        struck[name] = len(found)
        if name == stop:
            engine.stop()
        else:
            kill(found[-1])

    # A worker on each of two nodes.
    with clustered((2, 1), (1, 1)) as address:
        calm_home = Home(tmp_path / "calm", spec.study)
        calm, _ = execute(spec, calm_home, address=address)
        home = Home(tmp_path / "struck", spec.study)
        with pytest.raises(KeyboardInterrupt):
            execute(spec, home, strike, address=address, watches=watches)
        before = home.begun()[1]
        contents, starts = execute(spec, home, address=address, watches=watches)
        deadline = time.monotonic() + 60
        while running(_WORKER) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert running(_WORKER) == []
    # A leader that is killed takes its workers with it.
    assert struck == {worker: 2, leader: 1, stop: 2}
    failures = {failure.trial: failure.reason for failure in watches[0].failures}
    assert failures == dict.fromkeys((worker, leader), "process died")
    assert len(watches[0].failures) == 2
    # The second execution went on where the signal had made a checkpoint.
    assert watches[1].resumptions[stop] >= 2
    assert not set(before.ends) & set(starts)
    assert numbers(contents) == numbers(calm)
    assert_no_line_twice(home)
    assert decide(spec, contents.results).complete
    deterministic(1)
    pool, facts = data.load_pool("digits")
    test, _ = data.load_test("digits")
    chosen = [r for r in calm.results if r.trial.stage == "confirm" and r.trial.index == 0]
    assert len(chosen) == 2
    for result in chosen:
        alone = Training(Config(**stages.training_config(spec, result.trial)), pool, facts)
        for epoch in result.epochs:
            there, here = dict(epoch.metrics), alone.epoch()
            for unequal in ("perturbed_share", "seconds_per_epoch"):
                there.pop(unequal, None)
                here.pop(unequal, None)
            assert there == pytest.approx(here, rel=1e-3)
        tested, _ = alone.test(test)
        assert result.end.scores["test_loss"] == pytest.approx(tested["test_loss"], 1e-3)


def test_trials_on_two_gpus_are_pruned_and_a_hanging_worker_is_not_waited_for(
    tmp_path: Path,
) -> None:
    spec = make_spec(
        *QUICK,
        "resources.gpu=2",
        "stuck_after=20",
        "tune.pruner=successive_halving",
        "tune.trials_per_arm=4",
        "workload.epochs=4",
        "search.rho={low: 0.01, high: 50, log: true}",
        model("hanging", tmp_path / "hung"),
    )
    watches: list[Watch] = []
    with clustered((2, 2)) as address:
        home = Home(tmp_path, spec.study)
        contents, _ = execute(spec, home, address=address, watches=watches)
    assert [failure.reason for failure in watches[0].failures] == ["stuck"]
    assert {end.status for end in contents.ends.values()} == {"finished", "pruned"}
    assert len(contents.ends) == 2 * 4 + 2 * 2
