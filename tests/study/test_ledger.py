"""The ledger: hands out exactly what was planned, once, whatever a crash left behind."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, TrialState

from study import space, stages, verdict
from study.ledger import Ledger, open_file
from study.records import End, Result, Status, Trial
from study.simulate import Answer, Simulation
from study.spec import Spec
from study.yamlfile import SpecError
from tests.study.synthetic import make_spec, search_trials
from tests.study.test_simulated_studies import scores, truth


def end(trial: Trial, accuracy: float = 50.0) -> End:
    return End(trial.name, "finished", "", {"validation_accuracy": accuracy}, 3, 0.0)


def drain(ledger: Ledger, stage: Any = "search") -> list[Trial]:
    handed = []
    while (trial := ledger.ask(stage)) is not None:
        handed.append(trial)
    return handed


@pytest.mark.parametrize("sampler", ["qmc", "random", "grid"])
@pytest.mark.filterwarnings("error")
def test_what_is_handed_out_is_what_was_planned(tmp_path: Path, sampler: str) -> None:
    points = ", points: 3" if sampler == "grid" else ""
    step = "" if sampler == "grid" else ", step: 0.1"
    spec = make_spec(
        "tune={sampler: grid}" if sampler == "grid" else f"tune.sampler={sampler}",
        f"search.rho={{low: 0.1, high: 0.7{points}{step}}}",
        f"search.lr={{low: 0.003, high: 3, log: true{points}}}",
        "search.batch_size={choices: [8, 16]}",
        "search.bn_statistics={choices: [first, none]}",
    )
    ledger = Ledger(open_file(tmp_path / "ledger.log"), spec)
    planned = search_trials(spec)
    ledger.open_stage("search", stages.search_slots(spec), [])
    handed = drain(ledger)
    assert sorted(handed, key=lambda t: (t.arm, t.index)) == sorted(
        planned, key=lambda t: (t.arm, t.index)
    )
    # Arms take turns while they have trials left, each in the order of its points.
    first = [trial.arm for trial in handed[:6]]
    assert first == ["sam_all", "sam_on", "sgd"] * 2
    for arm in spec.arms:
        indices = [trial.index for trial in handed if trial.arm == arm]
        assert indices == list(range(len(space.points(spec, arm))))


class Counting(InMemoryStorage):
    """Counts how often all trials of a study are read."""

    reads = 0

    def get_all_trials(self, *args: Any, **kwargs: Any) -> list[FrozenTrial]:
        self.reads += 1
        return super().get_all_trials(*args, **kwargs)


@pytest.mark.parametrize("stage", ["search", "confirm"])
def test_no_trial_with_known_hyperparameters_makes_the_ledger_read_all_others(stage: Any) -> None:
    spec, storage = make_spec(), Counting()
    search = stages.search_slots(spec)
    confirm = stages.confirm_slots(spec, {arm: {"rho": 0.1} for arm in spec.arms})
    ledger = Ledger(storage, spec)
    ledger.open_stage(stage, search if stage == "search" else confirm, [])
    opening = storage.reads
    assert opening > 0
    for trial in (handed := drain(ledger, stage)):
        ledger.tell(end(trial))
    assert len(handed) == (12 if stage == "search" else 18)
    assert storage.reads == opening


def test_what_was_handed_out_comes_back_first_and_what_has_an_end_is_told(tmp_path: Path) -> None:
    spec, path = make_spec(), tmp_path / "ledger.log"
    planned = search_trials(spec)
    before = Ledger(open_file(path), spec)
    before.open_stage("search", stages.search_slots(spec), [])
    out = [before.ask("search") for _ in range(4)]
    assert all(trial is not None for trial in out)
    lost, done, told, again = (trial for trial in out if trial is not None)
    before.tell(end(told))
    # The journal has the end of `done`, which the ledger did not hear of.
    ends = [Result(trial, end(trial)) for trial in (told, done)]
    storage = open_file(path)
    after = Ledger(storage, spec)
    after.open_stage("search", stages.search_slots(spec), ends)
    handed = drain(after)
    assert all(trial in planned for trial in handed[:2])
    assert {trial.name for trial in handed[:2]} == {lost.name, again.name}
    assert [t for t in handed[:2] if t.name == lost.name] == [lost]
    assert len({t.name for t in handed}) == len(handed) == len(planned) - 2
    for trial in handed:
        after.tell(end(trial))
        after.tell(end(trial, 10.0))
    states = {
        trial.state for study in optuna.get_all_study_names(storage) for trial in
        optuna.load_study(study_name=study, storage=storage).get_trials()
    }  # fmt: skip
    assert states == {TrialState.COMPLETE}


def test_a_diverged_trial_is_pruned_and_a_failed_one_fails() -> None:
    spec, storage = make_spec(), InMemoryStorage()
    ledger = Ledger(storage, spec)
    ledger.open_stage("search", stages.search_slots(spec), [])
    first, second, third = (ledger.ask("search") for _ in range(3))
    assert first
    assert second
    assert third
    ledger.tell(End(first.name, "diverged", "NaN", {"validation_accuracy": 10.0}, 1, 0.0))
    ledger.tell(End(second.name, "failed", "OSError", {}, 0, 0.0))
    ledger.tell(end(third, 71.5))
    told = {}
    for study in storage.get_all_studies():
        frozen = storage.get_all_trials(study._study_id)[0]
        told[study.study_name] = (frozen.state, frozen.values)
    assert told == {
        "tiny/sam_all/search": (TrialState.PRUNED, None),
        "tiny/sam_on/search": (TrialState.FAIL, None),
        "tiny/sgd/search": (TrialState.COMPLETE, [71.5]),
    }


def test_threads_that_ask_and_tell_never_get_one_trial_twice() -> None:
    spec = make_spec("tune.trials_per_arm=20")
    ledger = Ledger(InMemoryStorage(), spec)
    ledger.open_stage("search", stages.search_slots(spec), [])
    handed: list[str] = []

    def work() -> None:
        while (trial := ledger.ask("search")) is not None:
            handed.append(trial.name)
            ledger.tell(end(trial))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(handed) == len(set(handed)) == 60


class CutError(Exception):
    """The process ends here."""


class Fragile(InMemoryStorage):
    """A storage whose process dies at one of its writes: just before it, or just after."""

    def __init__(self) -> None:
        super().__init__()
        self.left: int | None = None
        self.writes = 0
        self.done_first = False

    def _write(self, method: str, *arguments: Any, **keywords: Any) -> Any:
        self.writes += 1
        if self.left is None:
            return getattr(super(), method)(*arguments, **keywords)
        self.left -= 1
        if self.left < 0 and not self.done_first:
            raise CutError
        result = getattr(super(), method)(*arguments, **keywords)
        if self.left < 0:
            raise CutError
        return result

    def create_new_study(self, *arguments: Any, **keywords: Any) -> int:
        return int(self._write("create_new_study", *arguments, **keywords))

    def create_new_trial(self, *arguments: Any, **keywords: Any) -> int:
        return int(self._write("create_new_trial", *arguments, **keywords))

    def set_trial_param(self, *arguments: Any, **keywords: Any) -> None:
        self._write("set_trial_param", *arguments, **keywords)

    def set_trial_user_attr(self, *arguments: Any, **keywords: Any) -> None:
        self._write("set_trial_user_attr", *arguments, **keywords)

    def set_trial_state_values(self, *arguments: Any, **keywords: Any) -> bool:
        return bool(self._write("set_trial_state_values", *arguments, **keywords))


def writes_of(spec: Spec) -> int:
    storage = Fragile()
    Simulation(spec, truth, 3, storage).run()
    return storage.writes


SPEC = make_spec("search.lr={low: 0.01, high: 1, log: true}")
WHOLE: Sequence[Result] = Simulation(SPEC, truth, 3).run()
WRITES = writes_of(SPEC)


@settings(max_examples=60, deadline=None)
@given(
    cuts=st.lists(st.tuples(st.integers(0, WRITES), st.booleans()), min_size=1, max_size=3),
    workers=st.integers(1, 8),
)
def test_a_study_cut_off_at_any_write_of_its_ledger_ends_as_if_it_was_not(
    cuts: list[tuple[int, bool]], workers: int
) -> None:
    storage = Fragile()
    parts = Simulation(SPEC, truth, workers, storage)
    for left, done_first in cuts:
        storage.left, storage.done_first = left, done_first
        try:
            parts.run()
        except CutError:
            continue
    storage.left = None
    parts.run()
    ended = [result.trial.name for result in parts.results]
    assert len(ended) == len(set(ended))
    assert scores(parts.results) == scores(WHOLE)
    assert verdict.decide(SPEC, parts.results).plain() == verdict.decide(SPEC, WHOLE).plain()
    for study in storage.get_all_studies():
        states = {t.state for t in storage.get_all_trials(study._study_id)}
        assert states == {TrialState.COMPLETE}


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 1000), workers=st.integers(1, 8), sampler=st.sampled_from(["qmc", "random"])
)
def test_no_stage_begins_before_the_one_before_ended_and_budgets_are_exact(
    seed: int, workers: int, sampler: str
) -> None:
    spec = make_spec(f"tune.sampler={sampler}")

    def objective(trial: Trial) -> Answer:
        drawn = random.Random(f"{seed} {trial.name}")
        status: Status = drawn.choice(("finished", "diverged", "failed"))
        known = {"validation_accuracy": drawn.uniform(0, 100), "test_accuracy": 50.0}
        return Answer({} if status == "failed" else known, drawn.randint(1, 100), status)

    results = Simulation(spec, objective, workers).run()
    search = [r for r in results if r.trial.stage == "search"]
    confirm = [r for r in results if r.trial.stage == "confirm"]
    chosen = stages.chosen(spec, results)
    assert Counter(r.trial.arm for r in search) == dict.fromkeys(spec.arms, 4)
    assert Counter(r.trial.arm for r in confirm) == dict.fromkeys(chosen, 6)
    assert len({r.trial.name for r in results}) == len(results)
    last = max(r.end.time for r in search)
    assert all(r.started >= last for r in confirm)
    for name in ("sam_all", "sam_on"):
        of_arm = [r for r in search if r.trial.arm == name and r.end.status != "failed"]
        fine = [r for r in of_arm if r.end.status == "finished"] or of_arm
        fine.sort(key=lambda r: r.end.scores["validation_accuracy"])
        assert chosen.get(name) == (fine[-1].trial.hyperparameters if fine else None)


def test_a_ledger_that_is_lost_is_made_anew_from_the_results() -> None:
    before = Simulation(SPEC, truth)
    before.run(20)
    after = Simulation(SPEC, truth, results=before.results)
    assert scores(after.run()) == scores(WHOLE)
    assert len(after.started) == 30 - 20


def test_a_result_that_the_journal_lost_is_run_again_whatever_the_ledger_says() -> None:
    before = Simulation(SPEC, truth)
    before.run()
    kept = [r for r in before.results if r.trial.name != "tiny/sam_on/search/2"]
    after = Simulation(SPEC, truth, storage=before.storage, results=kept)
    assert scores(after.run()) == scores(WHOLE)
    assert [trial.name for trial in after.started] == ["tiny/sam_on/search/2"]


def test_a_trial_that_had_begun_keeps_its_hyperparameters_when_an_adaptive_ledger_is_lost() -> None:
    spec = make_spec("tune.sampler=tpe", "tune.trials_per_arm=6")
    before = Simulation(spec, truth)
    before.run(9)
    begun = {trial.name: trial.hyperparameters for trial in before.started}
    unfinished = begun.keys() - {result.trial.name for result in before.results}
    assert unfinished
    storage = InMemoryStorage()
    ledger = Ledger(storage, spec, begun)
    ledger.open_stage("search", stages.search_slots(spec), before.results)
    handed = {trial.name: trial for trial in drain(ledger)}
    assert len(handed) == 18 - 9
    for name in unfinished:
        assert handed[name].hyperparameters == begun[name]


def test_an_adaptive_sampler_learns_from_the_journal_what_a_lost_ledger_knew() -> None:
    spec = make_spec("tune.sampler=tpe", "tune.trials_per_arm=6", "tune.pruner=median")

    def told(storage: InMemoryStorage) -> dict[tuple[str, int], Any]:
        return {
            (study.study_name, frozen.user_attrs["index"]): (
                frozen.state,
                frozen.value,
                {key: pytest.approx(value) for key, value in frozen.params.items()},
                frozen.user_attrs["hyperparameters"],
                frozen.intermediate_values,
            )
            for study in storage.get_all_studies()
            for frozen in storage.get_all_trials(study._study_id)
            if study.study_name.endswith("search")
        }

    def curved(trial: Trial) -> Answer:
        answer = truth(trial)
        last = answer.scores["validation_accuracy"]
        return replace(answer, curve=(last - 9, last - 3))

    before = Simulation(spec, curved)
    before.run()
    after = Simulation(spec, curved, results=list(before.results))
    after.run()
    assert after.started == []
    assert told(after.storage) == told(before.storage)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (b'"op_code":4', b'"op_code"\x004', "line 2"),
        (b'{"op_code":4', b'[[[[{"op_code":4', "line 2"),
        (b'"op_code":4', b'"op_kode":4', "KeyError: 'op_code'"),
        (b'"op_code":4', b'"op_code":77', "AssertionError"),
        (b'"index"', b'"inder"', "KeyError: 'index'"),
        (b'"study_id":0', b'"study_id":"x"', ""),
    ],
)
def test_a_damaged_ledger_is_told_in_one_line_with_what_to_do(
    tmp_path: Path, old: bytes, new: bytes, told: str
) -> None:
    spec, path = make_spec(), tmp_path / "ledger.log"
    ledger = Ledger(open_file(path), spec)
    ledger.open_stage("search", stages.search_slots(spec), [])
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new, 1))
    if not told:  # of a study that is not there: Optuna passes over it
        Ledger(open_file(path), spec).open_stage("search", stages.search_slots(spec), [])
        return
    with pytest.raises(SpecError) as caught:
        open_file(path)
    line = str(caught.value)
    assert line.startswith(f"{path}: the ledger is damaged ({told}")
    assert "move this file away and give the same command: it is made anew from the journal" in line
    assert "\n" not in line


def test_a_file_that_is_no_ledger_is_told_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "ledger.log"
    for data in (b"\x89PNG\r\n\x1a\n\x00", b"hello\n", b"5\n", b"{}\n", b"[" * 100_000 + b"\n"):
        path.write_bytes(data)
        with pytest.raises(SpecError, match="the ledger is damaged"):
            open_file(path)
