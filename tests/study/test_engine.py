"""Studies on a real Ray, with mishaps at exact moments; the command is tested in test_command."""

from __future__ import annotations

import itertools
import os
import re
import resource
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import ray
from PIL import Image

from study import journal, preflight, searcher, stages
from study.course import Course
from study.engine import Engine
from study.execution import spare
from study.failures import Failures
from study.home import Home
from study.journal import Contents, RecordError
from study.ledger import Ledger, open_file
from study.recorder import Recorder
from study.records import Correct, End, Epoch, Failure, Result, Trial
from study.spec import Spec
from study.stages import Plan
from study.tuning import Listener
from study.verdict import decide
from study.yamlfile import SpecError
from tests.study.command import kill, processes
from tests.study.synthetic import make_spec, search_trials
from trainables import data
from trainables.config import Config
from trainables.training import Training, deterministic

pytestmark = pytest.mark.ray

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
SEARCHED = 2 + 2 + 2 + 1
TRIALS = SEARCHED + 4 * 2
_TRAINING = re.compile(r"ray::\w*Trainable")

At = Callable[[Engine, str, int], None]
"""Does something at a moment, told as trial and epoch: 0 when the trial starts."""


class Watch:
    """A listener that tells `at` of moments. starts: each trial as often as it was started."""

    def __init__(self, engine: Engine, at: At | None) -> None:
        self._engine = engine
        self._at = at
        self.starts: list[str] = []
        self.failures: list[Failure] = []
        self.resumptions: dict[str, float] = {}

    def start(self, trial: Trial, at: float) -> None:
        self.starts.append(trial.name)
        self._tell(trial.name, 0)

    def epoch(self, epoch: Epoch) -> None:
        self._tell(epoch.trial, epoch.epoch)

    def failure(self, failure: Failure) -> None:
        self.failures.append(failure)

    def resumed(self, trial: str, progress: float) -> None:
        self.resumptions[trial] = progress

    def end(self, end: End) -> None:
        pass

    def note(self, text: str) -> None:
        pass

    def _tell(self, name: str, epoch: int) -> None:
        if self._at is not None:
            self._at(self._engine, name, epoch)


def execute(
    spec: Spec,
    home: Home,
    at: At | None = None,
    *,
    keep: bool = False,
    address: str | None = None,
    watches: list[Watch] | None = None,
) -> tuple[Contents, list[str]]:
    """Runs what is missing of a study, recorded as the command does it.

    at: told of each moment. keep: leave Ray running. address: of a cluster. watches: gets the
    listener that hears all. Returns what the journal holds then, and each trial as often as it was
    started.
    """
    with Engine(spec, address, home.storage_uri, keep=keep) as engine:
        facts = engine.load_pool()
        with home.claimed(), preflight.opened(home, spec, facts) as records:
            ledger = Ledger(open_file(home.ledger), spec)
            with Recorder(records, ledger, on_error=engine.stop) as recorder:

                def results() -> Sequence[Result]:
                    recorder.flush()
                    return home.begun()[1].results

                def begin(plan: Plan, so_far: Sequence[Result]) -> None:
                    failures.begin(stages.trial_names(spec, plan), so_far)
                    if plan.stage == "confirm":
                        preflight.note_undecodable(engine.load_test(), "test", recorder.note)

                watch = Watch(engine, at)
                if watches is not None:
                    watches.append(watch)
                listeners: list[Listener] = [recorder, watch]
                course = Course([spec], ledger, results, begin, partial(spare, listeners))
                failures = Failures(spec.retries, home.begun()[1].failed_attempts)
                engine.run(course, failures, listeners)
    return home.begun()[1], watch.starts


def kill_actors() -> int:
    """Ends the processes that train, as an out-of-memory killer does; how many there were."""
    ours = [pid for pid, line in processes() if _TRAINING.match(line) and is_ours(pid)]
    for pid in ours:
        kill(pid)
    return len(ours)


def is_ours(pid: int) -> bool:
    """Whether this process started it, directly or not."""
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


def assert_no_line_twice(home: Home) -> None:
    lines = [line for _, line in journal.lines(home.journal) if line["kind"] != "note"]
    keys = [tuple(map(line.get, ("kind", "trial", "epoch", "number"))) for line in lines]
    assert [key for key, count in Counter(keys).items() if count > 1] == []


@pytest.fixture(autouse=True)
def _result_by_result(monkeypatch: pytest.MonkeyPatch) -> None:
    """Epochs arrive one by one, so that a mishap strikes between two; in `calm` they do not."""
    monkeypatch.setenv("TUNE_RESULT_BUFFER_LENGTH", "1")


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> tuple[Home, Contents]:
    """A study without mishaps."""
    spec = make_spec(*QUICK)
    home = Home(tmp_path_factory.mktemp("calm"), spec.study)
    return home, execute(spec, home)[0]


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
            tested, correct = alone.test(test)
            scores |= tested
            assert result.end.correct == Correct(correct.images, correct.bits)
        assert result.end.scores == scores


def test_a_diverged_trial_is_an_outcome_that_is_not_repeated(calm: tuple[Home, Contents]) -> None:
    _, contents = calm
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


def test_a_study_that_ran_out_of_disk_in_mid_trial_goes_on_to_the_same_results(
    calm: tuple[Home, Contents], tmp_path: Path
) -> None:
    spec, home = make_spec(*QUICK), Home(tmp_path, "tiny")
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill_disk(engine: Engine, name: str, epoch: int) -> None:
        if (name, epoch) == ("tiny/sam_on/search/1", 2):
            room = home.journal.stat().st_size + 20  # the line that does not fit will be torn
            resource.setrlimit(resource.RLIMIT_FSIZE, (room, limit[1]))

    try:
        with pytest.raises(RecordError, match=r"^results cannot be written: .*File too large$"):
            execute(spec, home, fill_disk)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    before = home.begun()[1]
    assert 0 < len(before.ends) < len(before.trials) <= SEARCHED
    contents, starts = execute(spec, home)
    assert not set(before.ends) & set(starts)
    assert numbers(contents) == numbers(calm[1])
    assert_no_line_twice(home)


def test_a_trial_whose_process_is_killed_starts_again_and_fails_the_fourth_time(
    calm: tuple[Home, Contents], tmp_path: Path
) -> None:
    spec, home = make_spec(*QUICK, "resources.max_trials=1"), Home(tmp_path, "tiny")
    once, always = "tiny/sgd/search/1", "tiny/sam_on/confirm/1"
    killed: list[str] = []

    def strike(engine: Engine, name: str, epoch: int) -> None:
        if epoch == 2 and (name == always or (name == once and once not in killed)):
            killed.append(name)
            kill_actors()

    contents, starts = execute(spec, home, strike)
    assert Counter(killed) == {once: 1, always: 4}
    assert Counter(starts) == Counter(list(calm[1].trials)) + Counter([once, *[always] * 3])
    assert_no_line_twice(home)
    got, expected = numbers(contents), numbers(calm[1])
    assert {name for name in expected if got[name] != expected[name]} == {always}
    assert contents.ends[always].status == "failed"
    assert [e.epoch for e in contents.epochs[always]] == [1, 2]
    [note] = contents.notes
    assert note.startswith(f"{always} failed 4 times, the last time: ")
    verdict = decide(spec, contents.results)
    assert not verdict.complete
    in_time = sorted((contents.started[n], contents.ends[n].time) for n in contents.trials)
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(in_time))


def test_test_images_are_not_opened_before_the_search_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = tmp_path / "images"
    paint(root / "train", 20)
    for name in ("chat noir", "élan"):
        (root / "test" / name).mkdir(parents=True)
        (root / "test" / name / "0.png").write_bytes(b"none of these decodes")
    spec = make_spec(
        *QUICK,
        "workload.data={name: imagefolder, train_size: 30, validation_size: 10, image_size: 8}",
        f"workload.data.root={root}",
        "workload.batch_size=8",
        "arms={sgd: {variant: none}, sam_on: {variant: sam, perturb: norm}}",
    )
    home = Home(tmp_path / "studies", spec.study)
    with pytest.raises(SpecError, match=r"workload.data: class 'chat noir' of .* nothing decod"):
        execute(spec, home)
    searched = home.begun()[1]
    assert {end.status for end in searched.ends.values()} == {"finished"}
    assert set(searched.ends) == {t.name for t in search_trials(spec)}
    paint(root / "test", 4)
    contents, starts = execute(spec, home)
    assert len(contents.ends) == 8
    assert not set(starts) & set(searched.ends)
    [note] = contents.notes
    assert note.startswith("2 test files cannot be decoded and were left out: ")


def test_studies_one_after_another_on_one_ray_change_nothing(
    calm: tuple[Home, Contents], tmp_path: Path
) -> None:
    spec = make_spec(*QUICK)
    nodes = []
    for name, keep in (("first", True), ("second", False)):
        with_ray = Home(tmp_path / name, spec.study)
        contents, _ = execute(spec, with_ray, lambda *_: nodes.append(node()), keep=keep)
        assert numbers(contents) == numbers(calm[1])
        assert ray.is_initialized() == keep
    assert len(set(nodes)) == 1


def node() -> str:
    """The Ray that this process is connected to."""
    return str(ray.get_runtime_context().get_node_id())


def test_a_ray_to_be_kept_ends_with_an_interrupted_study(tmp_path: Path) -> None:
    spec = make_spec(*QUICK)

    def interrupt(engine: Engine, name: str, epoch: int) -> None:
        engine.stop()

    with pytest.raises(KeyboardInterrupt):
        execute(spec, Home(tmp_path, spec.study), interrupt, keep=True)
    assert not ray.is_initialized()


def paint(part: Path, count: int) -> None:
    """Class folders with `count` images each, dark or bright."""
    generator = np.random.default_rng(0)
    for shade, name in ((60, "chat noir"), (190, "élan")):
        (part / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            pixels = generator.integers(shade - 50, shade + 50, (9, 11, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(part / name / f"image {i}.png")


def test_what_a_cluster_cannot_do_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = make_spec(
        "workload.data={name: imagefolder, validation_size: 10}",
        f"workload.data.root={tmp_path / 'nowhere'}",
    )
    with Engine(missing, None, str(tmp_path)) as engine:
        cores = engine.at_once()

        def at_once(*settings: str) -> int:
            return Engine(make_spec(*settings), None, str(tmp_path)).at_once()

        assert cores == int(ray.cluster_resources()["CPU"])
        assert at_once(f"resources.cpu={cores}") == 1
        assert at_once("resources.max_trials=1") == 1
        assert at_once("resources.max_trials=9999") == cores
        with pytest.raises(SpecError, match=r"asks for 9999 CPU, the cluster has .* --address"):
            at_once("resources.cpu=9999")
        with pytest.raises(SpecError, match=r"for 64 workers with 1 GPU and 1 CPU each, the clu"):
            at_once("resources.gpu=64")
        with pytest.raises(SpecError, match=r"^workload.data: no folder .* is no folder; expected"):
            engine.load_pool()
    unknown = make_spec("workload.model={name: timm/resnet19}")
    # As when the data takes long: Tune has no trial left and asks for one without end.
    monkeypatch.setattr(searcher, "_PATIENCE", 0.0)
    with (
        Engine(unknown, None, str(tmp_path)) as engine,
        pytest.raises(SpecError, match=r"^arm sgd: .*resnet19") as error,
    ):
        engine.load_pool()
    assert "\n" not in str(error.value)
