"""The durable record of what was handed out and how it ended: one Optuna study an arm and stage."""

from __future__ import annotations

import json
import math
import threading
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

import optuna
from optuna.pruners import BasePruner
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from study import algorithms, decide, space
from study.records import End, Epoch, Result, Stage, Trial, Value
from study.spec import Spec
from study.stages import Slot
from study.yamlfile import SpecError

optuna.logging.set_verbosity(optuna.logging.ERROR)


def open_file(path: Path) -> BaseStorage:
    """An Optuna storage in the file `path`, made when it is not there.

    A torn last line, left by a crash, is cut off: Optuna would glue its next entry to it. Raises
    SpecError where the file is damaged otherwise.
    """
    if path.exists():
        data = path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):
            path.write_bytes(whole)
        for number, line in enumerate(whole.splitlines(), 1):
            if not _is_entry(line):
                raise _damaged(path, f"line {number}")
    try:
        storage = JournalStorage(JournalFileBackend(str(path)))
        for study in storage.get_all_studies():
            for trial in storage.get_all_trials(study._study_id, deepcopy=False):
                trial.user_attrs["index"], trial.user_attrs["seeds"]
    except Exception as error:  # Optuna checks nothing that it reads: anything may come of it
        raise _damaged(path, f"{type(error).__name__}: {error}") from error
    return storage


def _is_entry(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _damaged(path: Path, what: str) -> SpecError:
    what = " ".join(what.split())
    return SpecError(
        f"{path}: the ledger is damaged ({what}); move this file away and give the same command: "
        "it is made anew from the journal, and only what the sampler cmaes learned is lost"
    )


@dataclass
class _Configuration:
    """A slot that was handed out. id, number: Optuna's, in the storage and in the study. pending:
    which of its runs are still to hand out; ends: of those that ended, by trial name."""

    stage: Stage
    slot: Slot
    study: optuna.Study
    id: int
    number: int
    hyperparameters: Mapping[str, Value]
    pending: deque[int]
    ends: dict[str, End] = field(default_factory=dict)


@dataclass
class _Queue:
    """An arm in a stage. waiting: slots in their order, each with the id of its Optuna trial;
    handed: runs handed out, whoever did it."""

    study: optuna.Study
    pruner: BasePruner | None
    waiting: deque[tuple[Slot, int]] = field(default_factory=deque)
    open: list[_Configuration] = field(default_factory=list)
    handed: int = 0


class Ledger:
    """Hands out the trials of a study and is told their ends. Threads may share it.

    started: what the journal says that trials ran with, by name. A storage that was lost is filled
    again from it and from the results, so that no trial gets other hyperparameters than it had.
    """

    def __init__(
        self,
        storage: BaseStorage,
        spec: Spec,
        started: Mapping[str, Mapping[str, Value]] = MappingProxyType({}),
    ) -> None:
        self._storage = storage
        self._spec = spec
        self._started = dict(started)
        self._lock = threading.Lock()
        self._queues: dict[tuple[Stage, str], _Queue] = {}
        self._trials: dict[str, _Configuration] = {}
        self._again: list[_Configuration] = []

    def open_stage(self, stage: Stage, slots: Iterable[Slot], results: Iterable[Result]) -> None:
        """Enqueues those of `slots` that are not there yet, and settles what a crash left open.

        results: what the journal holds. A configuration whose runs have all ended is told; the
        runs that were handed out and did not end are handed out again, first, with the same
        hyperparameters and seeds.
        """
        ended = {result.trial.name: result for result in results}
        self._started |= {name: result.trial.hyperparameters for name, result in ended.items()}
        by_arm: dict[str, dict[int, Slot]] = {name: {} for name in self._spec.arms}
        for slot in slots:
            by_arm[slot.arm][slot.index] = slot
        with self._lock:
            for arm, wanted in by_arm.items():
                study = optuna.create_study(
                    storage=self._storage,
                    sampler=algorithms.sampler(self._spec, arm, 0),
                    study_name=f"{self._spec.study}/{arm}/{stage}",
                    direction="maximize",
                    load_if_exists=True,
                )
                pruner = algorithms.pruner(self._spec, arm) if stage == "search" else None
                queue = self._queues[stage, arm] = _Queue(study, pruner)
                there = {t.user_attrs["index"] for t in study.get_trials(deepcopy=False)}
                for slot in wanted.values():
                    if slot.index not in there:
                        study.enqueue_trial(dict(slot.point or {}), user_attrs=_attributes(slot))
                seen: set[int] = set()
                for frozen in study.get_trials(deepcopy=False):
                    if (index := frozen.user_attrs["index"]) in seen:
                        self._discard(frozen)
                    # Not wanted: of an extension, while the stage before it is settled.
                    elif (open_slot := wanted.get(index)) is not None:
                        self._settle(stage, queue, frozen, open_slot, ended)
                    seen.add(index)

    def _discard(self, frozen: FrozenTrial) -> None:
        """Ends the second trial of a slot: made when an answer of the storage got lost."""
        if not frozen.state.is_finished():
            self._storage.set_trial_state_values(frozen._trial_id, TrialState.FAIL)

    def _settle(
        self,
        stage: Stage,
        queue: _Queue,
        frozen: FrozenTrial,
        slot: Slot,
        results: Mapping[str, Result],
    ) -> None:
        names = slot.names(self._spec, stage)
        ended = {name: results[name] for name in names if name in results}
        waiting = frozen.state == TrialState.WAITING
        known = next((self._started[name] for name in names if name in self._started), None)
        if waiting and stage == "search" and known is not None:
            slot = self._recall(frozen, slot, known)
        if waiting and not ended:
            queue.waiting.append((slot, frozen._trial_id))
            return
        if waiting:
            self._storage.set_trial_state_values(frozen._trial_id, TrialState.RUNNING)
        pending = deque(i for i, name in enumerate(names) if name not in ended)
        chosen = self._hyperparameters(slot, queue.study, frozen) if pending else {}
        configuration = _Configuration(
            stage, slot, queue.study, frozen._trial_id, frozen.number, chosen, pending
        )
        queue.handed += len(ended)
        self._trials |= dict.fromkeys(names, configuration)
        for result in ended.values():
            if waiting:
                for epoch in filter(self._is_judged, result.epochs):
                    self._judge(queue, configuration, epoch)
            self._tell(result.end)
        if pending:
            queue.open.append(configuration)
            self._again.append(configuration)

    def _recall(self, frozen: FrozenTrial, slot: Slot, known: Mapping[str, Value]) -> Slot:
        """Tells a storage that was lost what a configuration ran with."""
        arm = self._spec.arms[slot.arm]
        point = space.point(arm, known)
        for key, distribution in space.distributions(arm).items():
            if key in point:
                value = distribution.to_internal_repr(point[key])
                self._storage.set_trial_param(frozen._trial_id, key, value, distribution)
        self._storage.set_trial_user_attr(frozen._trial_id, "hyperparameters", dict(known))
        return replace(slot, hyperparameters=known)

    def _hyperparameters(
        self, slot: Slot, study: optuna.Study, frozen: FrozenTrial
    ) -> Mapping[str, Value]:
        """Those of a configuration that an earlier execution handed out, or was about to."""
        known: Mapping[str, Value] | None = frozen.user_attrs.get("hyperparameters")
        if known is not None:
            return known
        study.sampler = algorithms.sampler(self._spec, slot.arm, slot.index)
        return self._choose(slot, optuna.Trial(study, frozen._trial_id))

    def _choose(self, slot: Slot, trial: optuna.Trial) -> Mapping[str, Value]:
        arm = self._spec.arms[slot.arm]
        suggested = space.suggest(trial, arm)
        chosen = slot.hyperparameters
        if chosen is None:
            chosen = space.hyperparameters(arm, suggested)
        trial.set_user_attr("hyperparameters", dict(chosen))
        return chosen

    def ask(self, stage: Stage) -> Trial | None:
        """Hands out the next trial of an opened stage; None when none can be handed out now."""
        with self._lock:
            for configuration in self._again:
                queue = self._queues[stage, configuration.slot.arm]
                if configuration in queue.open and self._free(queue, configuration):
                    return self._hand(stage, queue, configuration)
            queues = {arm: queue for (of, arm), queue in self._queues.items() if of == stage}
            arm = decide.ask(
                {arm: self._left(queue) for arm, queue in queues.items()},
                {arm: queue.handed for arm, queue in queues.items()},
                {arm: self._spec.arms[arm].cost for arm in queues},
            )
            if arm is None:
                return None
            queue = queues[arm]
            started = (each for each in queue.open if self._free(queue, each))
            return self._hand(stage, queue, next(started, None) or self._start(stage, queue))

    def beside(self, trial: Trial) -> list[Trial]:
        """Hands out what can be handed out now of the other trials that train as one with `trial`,
        which was just handed out."""
        queue, engine = self._queues[trial.stage, trial.arm], self._spec.engine
        group, _ = engine.slot(trial.index)

        def belongs(slot: Slot) -> bool:
            return engine.batched_trials > 1 and engine.slot(slot.index)[0] == group

        with self._lock:
            started = [each for each in queue.open if belongs(each.slot)]
            # In their order, as those that wait for their hyperparameters have to be started.
            while queue.waiting and belongs(queue.waiting[0][0]):
                started.append(self._start(trial.stage, queue))
            return [self._hand(trial.stage, queue, each) for each in started]

    def needless(self, stage: Stage) -> list[Trial]:
        """Trials that need no longer be run, because the others of their configuration did badly;
        each once. Whoever asks has to tell their ends: pruned."""
        trials: list[Trial] = []
        with self._lock:
            for (of, _), queue in self._queues.items():
                if of != stage or queue.pruner is None or algorithms.by_epoch(self._spec):
                    continue
                for configuration in list(queue.open):
                    if configuration.ends and self._free(queue, configuration):
                        frozen = self._frozen(configuration)
                        if queue.pruner.prune(queue.study, frozen):
                            while configuration.pending:
                                trials.append(self._hand(stage, queue, configuration))
        return trials

    def report(self, epoch: Epoch) -> bool:
        """Takes an epoch of a running trial; whether the trial should stop."""
        if not self._is_judged(epoch):
            return False
        with self._lock:
            configuration = self._trials[epoch.trial]
            queue = self._queues[configuration.stage, configuration.slot.arm]
            return self._judge(queue, configuration, epoch)

    def _is_judged(self, epoch: Epoch) -> bool:
        return algorithms.by_epoch(self._spec) and math.isfinite(
            epoch.metrics.get("validation_accuracy", math.nan)
        )

    def _judge(self, queue: _Queue, configuration: _Configuration, epoch: Epoch) -> bool:
        if queue.pruner is None:
            return False
        self._note(configuration, epoch.epoch, epoch.metrics["validation_accuracy"])
        return queue.pruner.prune(configuration.study, self._frozen(configuration))

    def tell(self, end: End) -> None:
        """Records how a handed-out trial ended; a second time changes nothing."""
        with self._lock:
            self._tell(end)

    def _tell(self, end: End) -> None:
        configuration = self._trials[end.trial]
        configuration.ends[end.trial] = end
        seeds = len(configuration.slot.seeds)
        if len(configuration.ends) == seeds:
            state, value = decide.tell([*configuration.ends.values()], self._spec.tune.sampler)
            configuration.study.tell(
                configuration.number, value, state=TrialState[state], skip_if_finished=True
            )
        elif "validation_accuracy" in end.scores:
            which = int(end.trial.rpartition(".")[2])
            self._note(configuration, which, end.scores["validation_accuracy"])

    def _note(self, configuration: _Configuration, step: int, value: float) -> None:
        if not self._frozen(configuration).state.is_finished():
            self._storage.set_trial_intermediate_value(configuration.id, step, value)

    def _frozen(self, configuration: _Configuration) -> FrozenTrial:
        return self._storage.get_trial(configuration.id)

    def _start(self, stage: Stage, queue: _Queue) -> _Configuration:
        slot, id_ = queue.waiting.popleft()
        if slot.point is None:
            queue.study.sampler = algorithms.sampler(self._spec, slot.arm, slot.index)
            trial = queue.study.ask()
        else:
            # `ask` reads all trials that wait to find the first: with each, a database needs as
            # long as there are trials. A sampler that learns from them reads them all the same.
            self._storage.set_trial_state_values(id_, TrialState.RUNNING)
            trial = optuna.Trial(queue.study, id_)
        chosen = self._choose(slot, trial) if stage == "search" else slot.hyperparameters or {}
        runs = deque(range(len(slot.seeds)))
        configuration = _Configuration(
            stage, slot, queue.study, trial._trial_id, trial.number, chosen, runs
        )
        queue.open.append(configuration)
        self._trials |= dict.fromkeys(slot.names(self._spec, stage), configuration)
        return configuration

    def _hand(self, stage: Stage, queue: _Queue, configuration: _Configuration) -> Trial:
        which = configuration.pending.popleft()
        queue.handed += 1
        if not configuration.pending:
            queue.open.remove(configuration)
        slot = configuration.slot
        return slot.trial(self._spec, stage, which, configuration.hyperparameters)

    def _left(self, queue: _Queue) -> int:
        """Runs that can be handed out now."""
        started = sum(len(each.pending) for each in queue.open if self._free(queue, each))
        return started + len(queue.waiting)

    def _free(self, queue: _Queue, configuration: _Configuration) -> bool:
        """Whether a run of the configuration can be handed out: one that is judged seed by seed
        waits for those before."""
        if queue.pruner is None or algorithms.by_epoch(self._spec):
            return True
        return len(configuration.ends) + len(configuration.pending) == len(configuration.slot.seeds)


def _attributes(slot: Slot) -> dict[str, object]:
    attributes: dict[str, object] = {"index": slot.index, "seeds": list(slot.seeds)}
    if slot.hyperparameters is not None:
        attributes["hyperparameters"] = dict(slot.hyperparameters)
    return attributes
