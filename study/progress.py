"""What a study shows while it runs: one live display, or lines where output is no terminal."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any

from rich.console import Console, ConsoleRenderable, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from study import stages, standing
from study.records import End, Epoch, Failure, Result, Trial, Value
from study.spec import Spec
from study.standing import Best

_HEARTBEAT = 60.0
"""Seconds between two lines that say how far a study is, where output is no terminal."""


class Progress:
    """Listens to trials and shows them. As a context manager; told by the thread that runs Tune.

    at_once: trials side by side, for the estimate of the time left. state: a few words on what
    else goes on, such as an outage of MLflow, none where all is well.
    """

    def __init__(
        self, spec: Spec, console: Console, at_once: int, state: Callable[[], str] = str
    ) -> None:
        self._spec = spec
        self._console = console
        self._at_once = at_once
        self._state = state
        self._stage = "starting"
        self._planned = {name: standing.planned(spec, name) for name in spec.arms}
        self._done = {name: {"search": 0, "confirm": 0} for name in spec.arms}
        self._seconds: dict[str, list[float]] = {name: [] for name in spec.arms}
        self._found: dict[str, list[tuple[float, Mapping[str, Value]]]] = {}
        self._running: dict[str, tuple[Trial, float, Epoch | None]] = {}
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._live = Live(console=console, get_renderable=self._render, refresh_per_second=4)
        self._beat = threading.Thread(target=self._heartbeat, name="progress", daemon=True)

    def __enter__(self) -> Progress:
        if self._console.is_terminal:
            self._live.start()
        else:
            self._beat.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        if self._console.is_terminal:
            self._live.stop()

    def stage(self, stage: str, results: Iterable[Result]) -> None:
        """A stage begins. results: all that ended so far, by this execution or an earlier one."""
        with self._lock:
            self._stage = stage
            self._running.clear()
            self._done = {name: {"search": 0, "confirm": 0} for name in self._spec.arms}
            self._seconds = {name: [] for name in self._spec.arms}
            self._found = {}
            for result in results:
                self._count(result.trial, result.end, result.end.time - result.started)
        if not self._console.is_terminal:
            self._print(f"{self._stage} stage: {self._summary()}")

    def start(self, trial: Trial, at: float) -> None:
        """A trial starts, or starts again."""
        with self._lock:
            self._running[trial.name] = (trial, at, None)

    def epoch(self, epoch: Epoch) -> None:
        """A trial reported an epoch."""
        with self._lock:
            trial, started, _ = self._running[epoch.trial]
            self._running[epoch.trial] = (trial, started, epoch)

    def failure(self, failure: Failure) -> None:
        """An attempt at a trial failed."""
        short = failure.trial.removeprefix(f"{self._spec.study}/")
        self._print(f"{short} failed in epoch {failure.epochs + 1}: {failure.reason}")

    def resumed(self, trial: str, progress: float) -> None:
        """A trial goes on from a checkpoint."""
        short = trial.removeprefix(f"{self._spec.study}/")
        self._print(f"{short} goes on from a checkpoint, {progress:.4g} epochs done")

    def end(self, end: End) -> None:
        """A trial ended."""
        with self._lock:
            trial, started, _ = self._running.pop(end.trial)
            self._count(trial, end, end.time - started)
            line = f"[{self._totals()}] {_told(trial, end)}  {end.time - started:.1f} s"
        if not self._console.is_terminal:
            self._print(line)

    def note(self, text: str) -> None:
        """Something that a reader of the result should know."""
        self._print(text)

    def _count(self, trial: Trial, end: End, seconds: float) -> None:
        self._done[trial.arm][trial.stage] += 1
        if end.status != "finished":
            return
        self._seconds[trial.arm].append(seconds)
        if trial.stage == "search":
            found = end.scores["validation_accuracy"], trial.hyperparameters
            self._found.setdefault(trial.arm, []).append(found)

    def _totals(self) -> str:
        done = sum(sum(stage.values()) for stage in self._done.values())
        planned = sum(sum(stage.values()) for stage in self._planned.values())
        return f"{done}/{planned}"

    def _summary(self) -> str:
        left = self._time_left()
        time_left = f", about {duration(left)} left" if left is not None else ""
        state = f", {text}" if (text := self._state()) else ""
        return f"{self._totals()} trials done, {len(self._running)} running{time_left}{state}"

    def _time_left(self) -> float | None:
        done = {name: sum(stages.values()) for name, stages in self._done.items()}
        running = [(t, [epoch] if epoch else []) for t, _, epoch in self._running.values()]
        return standing.seconds_left(self._spec, done, self._seconds, running, self._at_once)

    def _render(self) -> ConsoleRenderable:
        with self._lock:
            head = Text.assemble(
                (self._spec.study, "bold"), f"  {self._stage} stage  ", self._summary()
            )
            arms = Table(box=None, pad_edge=False, header_style="dim")
            for title in ("arm", "search", "confirm", "best so far", "with"):
                numeric = title in ("search", "confirm", "best so far")
                arms.add_column(title, justify="right" if numeric else "left")
            for name, planned in self._planned.items():
                done = self._done[name]
                arms.add_row(
                    name,
                    *(f"{done[s]}/{planned[s]}" for s in ("search", "confirm")),
                    *best_told(standing.best(self._spec, name, self._found.get(name, ()))),
                )
            rows = [self._running_line(*running) for running in self._running.values()]
            return Group(head, arms, *rows)

    def _running_line(self, trial: Trial, started: float, epoch: Epoch | None) -> Text:
        short = trial.name.removeprefix(f"{trial.study}/")
        if epoch is None:
            return Text(f"  {short}  starting", style="dim")
        done = f"epoch {epoch.epoch}/{stages.trial_epochs(self._spec, trial)}"
        validation = f"validation {epoch.metrics['validation_accuracy']:.2f} %"
        return Text(f"  {short}  {done}  {validation}", style="dim")

    def _heartbeat(self) -> None:
        while not self._over.wait(_HEARTBEAT):
            with self._lock:
                line = f"{self._stage} stage: {self._summary()}"
            self._print(line)

    def _print(self, line: str) -> None:
        self._console.print(line, soft_wrap=True)


def _told(trial: Trial, end: End) -> str:
    parts = [trial.name.removeprefix(f"{trial.study}/"), _point(trial.hyperparameters)]
    if end.status == "finished":
        parts += [
            f"{_TITLES[key]} {value:.2f} %" for key, value in end.scores.items() if key in _TITLES
        ]
    else:
        parts.append(end.reason if end.status == "diverged" else f"failed: {end.reason}")
    return "  ".join(part for part in parts if part)


def best_told(best: Best | None) -> tuple[str, str]:
    """The best validation accuracy of an arm, and where."""
    if best is None:
        return "", ""
    where = _point(best.hyperparameters) if best.seeds is None else f"mean of {best.seeds} seeds"
    return f"{best.validation_accuracy:.2f} %", where


_TITLES = {"validation_accuracy": "validation", "test_accuracy": "test"}


def _point(point: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in point.items()
    )


def duration(seconds: float) -> str:
    """Seconds as a reader would say them."""
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
