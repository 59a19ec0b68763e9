"""Runs on Ray every trial of a study that has not ended, stage by stage, and judges it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial

from rich.console import Console

from study import measuring, nodes, preflight, report, stages, stopping
from study.checkpoints import Checkpoints
from study.course import Course
from study.engine import Engine
from study.failures import Failures
from study.home import Home
from study.journal import Contents, Journal
from study.ledger import Ledger
from study.ledger_store import Store
from study.patience import Driver
from study.progress import Progress
from study.recorder import Recorder
from study.records import End, Result, Trial
from study.rounds import Round
from study.spec import Spec
from study.stages import Plan
from study.tracking_watch import mirrored
from study.tuning import Listener


def finish(
    spec: Spec,
    extension: Spec | None,
    home: Home,
    store: Store,
    uri: str,
    engine: Engine,
    console: Console,
    warn: Callable[[str], None],
    outage: str = "",
) -> Sequence[Round]:
    """Runs what is missing, writes report and verdict, and returns what they tell.

    extension: the study with raised budgets, if that is what is to run. store: of the ledger. uri:
    of the tracking store. console: for the live display. warn: told what the user should know.
    outage: why MLflow did not answer a moment ago, which the user knows.
    """
    with engine:
        nodes.check(home)
        preflight.note_idle_gpus(spec.resources, engine.resources(), warn)
        side_by_side = engine.at_once() * spec.engine.batched_trials
        if engine.is_shared and spec.resources.max_trials is None:
            warn(
                f"{side_by_side} trials side by side: room for one is left to other studies of "
                "this cluster; resources.max_trials takes more, or less"
            )
        facts = engine.load_pool()
        with (
            home.claimed(),
            preflight.opened(home, spec, facts, store.recorded) as journal,
            mirrored(spec.study, home.out, uri, warn, outage, engine.grace) as mirror,
        ):
            rounds, before = _rounds(home, journal, extension)
            failures = Failures(spec.retries, before.failed_attempts)
            started = {name: trial.hyperparameters for name, trial in before.trials.items()}
            driver = Driver(engine.stopping, engine.stop, warn)
            storage = store.open(driver)
            ledger = Ledger(storage, spec, started)
            checkpoints = Checkpoints(home)
            with stopping.heard(storage, spec.study, engine.stop):
                with (
                    Progress(rounds[-1], console, side_by_side, lambda: mirror.state) as progress,
                    Recorder(journal, ledger, engine.stop, checkpoints.of_trial) as recorder,
                ):

                    def results() -> Sequence[Result]:
                        recorder.flush()
                        return home.begun()[1].results

                    def begin(plan: Plan, so_far: Sequence[Result]) -> None:
                        progress.stage(plan.stage, stages.of_round(rounds, len(rounds) - 1, so_far))
                        failures.begin(stages.trial_names(spec, plan), so_far)
                        if plan.stage == "confirm":
                            preflight.note_undecodable(engine.load_test(), "test", recorder.note)

                    listeners: list[Listener] = [recorder, progress]
                    course = Course(rounds, ledger, results, begin, partial(spare, listeners))
                    engine.run(course, failures, listeners)
                checkpoints.all(warn)
                judged = report.write(home.folder, rounds, home.begun()[1])
                for number, each in enumerate(judged):
                    line = {"kind": "verdict", "number": number, "verdict": each.verdict.plain()}
                    journal.append({**line, "time": time.time()}, sync=True)
                tell = partial(console.print, soft_wrap=True)
                if measuring.measure(spec, home, journal, engine, tell, warn):
                    judged = report.write(home.folder, rounds, home.begun()[1])
            mirror.finish()
            engine.close()  # while the mirror sends what is left
            return judged


def spare(listeners: Sequence[Listener], trial: Trial) -> None:
    """Tells of a trial that is not run, because its configuration did badly on other seeds."""
    now, reason = time.time(), "its configuration did badly on other seeds"
    for listener in listeners:
        listener.start(trial, now)
        listener.end(End(trial.name, "pruned", reason, {}, 0, now))


def _rounds(
    home: Home, journal: Journal, extension: Spec | None
) -> tuple[Sequence[Spec], Contents]:
    """The planned study and its extensions, and what the journal holds; a new extension is recorded
    before its first trial."""
    rounds, contents = home.rounds()
    if extension is not None and rounds[-1] != extension:
        line = {"kind": "extend", "number": len(rounds), "spec": extension.model_dump()}
        journal.append({**line, "time": time.time()}, sync=True)
        # Also those behind it, where its line was damaged and is written again.
        return home.rounds()
    return rounds, contents
