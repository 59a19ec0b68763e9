"""The durable record of what was handed out and how it ended: one Optuna study an arm and stage."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import optuna
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from study import decide, space
from study.records import End, Result, Stage, Trial
from study.spec import Spec
from trainables import catalog

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

optuna.logging.set_verbosity(optuna.logging.ERROR)


def open_file(path: Path) -> BaseStorage:
    """An Optuna storage in the file `path`, made when it is not there.

    A torn last line, left by a crash, is cut off: Optuna would glue its next entry to it.
    """
    if path.exists():
        data = path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):
            path.write_bytes(whole)
    return JournalStorage(JournalFileBackend(str(path)))


class Ledger:
    """Hands out the trials of a study and is told their ends. Threads may share it."""

    def __init__(self, storage: BaseStorage, spec: Spec) -> None:
        self._storage = storage
        self._spec = spec
        self._lock = threading.Lock()
        self._studies: dict[tuple[str, Stage], optuna.Study] = {}
        self._distributions: Mapping[str, dict[str, BaseDistribution]] = {
            name: space.distributions(arm) for name, arm in spec.arms.items()
        }
        self._numbers: dict[str, tuple[optuna.Study, int]] = {}
        self._again: list[Trial] = []

    def open_stage(self, stage: Stage, trials: Iterable[Trial], results: Iterable[Result]) -> None:
        """Enqueues those of `trials` that are not there yet, and settles what a crash left open.

        results: what the journal holds. A trial with a result is told it; one that was handed out
        and has none is handed out again, first, with the same parameters and seed.
        """
        ends = {result.trial.name: result.end for result in results}
        with self._lock:
            planned: dict[str, dict[int, Trial]] = {name: {} for name in self._spec.arms}
            for trial in trials:
                planned[trial.arm][trial.index] = trial
            for arm, wanted in planned.items():
                study = self._studies[arm, stage] = optuna.create_study(
                    storage=self._storage,
                    study_name=f"{self._spec.study}/{arm}/{stage}",
                    direction="maximize",
                    load_if_exists=True,
                )
                there = {trial.user_attrs["index"] for trial in study.get_trials(deepcopy=False)}
                for trial in wanted.values():
                    if trial.index not in there:
                        attributes = {"index": trial.index, "seed": trial.seed}
                        study.enqueue_trial(dict(trial.hyperparameters), user_attrs=attributes)
                for frozen in study.get_trials(deepcopy=False):
                    self._settle(study, frozen, wanted[frozen.user_attrs["index"]], ends)

    def _settle(
        self, study: optuna.Study, frozen: FrozenTrial, trial: Trial, ends: Mapping[str, End]
    ) -> None:
        self._numbers[trial.name] = (study, frozen.number)
        if trial.name in ends:
            if not frozen.state.is_finished():
                self._storage.set_trial_state_values(frozen._trial_id, TrialState.RUNNING)
                self._tell(ends[trial.name])
        elif frozen.state != TrialState.WAITING:
            # As planned: a crash may have come before the ledger knew all of its parameters.
            self._again.append(trial)

    def ask(self, stage: Stage) -> Trial | None:
        """Hands out the next trial of an opened stage; None when all are handed out."""
        with self._lock:
            if self._again:
                return self._again.pop(0)
            counts = {
                arm: self._count(study) for (arm, of), study in self._studies.items() if of == stage
            }
            arm = decide.ask(
                {arm: waiting for arm, (waiting, _) in counts.items()},
                {arm: handed for arm, (_, handed) in counts.items()},
                {arm: catalog.VARIANTS[self._spec.arms[arm].variant].cost for arm in counts},
            )
            if arm is None:
                return None
            trial = self._studies[arm, stage].ask(self._distributions[arm])
            index, seed = trial.user_attrs["index"], trial.user_attrs["seed"]
            return Trial(self._spec.study, arm, stage, index, seed, trial.params)

    def tell(self, end: End) -> None:
        """Records how a handed-out trial ended; a second time changes nothing."""
        with self._lock:
            self._tell(end)

    def _tell(self, end: End) -> None:
        study, number = self._numbers[end.trial]
        state, value = decide.tell(end)
        study.tell(number, value, state=TrialState[state], skip_if_finished=True)

    @staticmethod
    def _count(study: optuna.Study) -> tuple[int, int]:
        """Trials waiting, and handed out."""
        states = [trial.state for trial in study.get_trials(deepcopy=False)]
        waiting = states.count(TrialState.WAITING)
        return waiting, len(states) - waiting
