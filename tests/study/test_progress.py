"""What a study shows while it runs."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from study.plan import show
from study.progress import Progress
from study.records import End, Epoch, Status
from study.simulate import Simulation
from tests.study.synthetic import confirm_trials, make_spec, search_trials
from tests.study.test_simulated_studies import truth


def console(*, terminal: bool) -> Console:
    return Console(
        file=io.StringIO(), width=100, force_terminal=terminal, highlight=False, markup=False
    )


def printed(of: Console) -> str:
    assert isinstance(of.file, io.StringIO)
    return of.file.getvalue()


@pytest.mark.parametrize("terminal", [True, False])
def test_it_counts_what_ended_and_shows_what_runs(terminal: bool) -> None:
    spec = make_spec("study=a_study")
    trial = next(t for t in search_trials(spec) if t.arm == "sam_on")
    shown = console(terminal=terminal)
    with Progress(spec, shown, at_once=2) as progress:
        progress.stage("search", Simulation(spec, truth).run(3))
        progress.start(trial, 100.0)
        progress.epoch(Epoch(trial.name, 2, {"validation_accuracy": 77.0}, 102.0))
        if terminal:
            with shown.capture() as capture:
                shown.print(progress._render())
            text = capture.get()
            assert "a_study" in text
            assert "search stage" in text
            assert "3/30 trials done, 1 running, about" in text
            assert "sam_on/search/0  epoch 2/3  validation 77.00 %" in text
        progress.note("[bold]mind[/bold] this")
        progress.end(End(trial.name, "finished", "", {"validation_accuracy": 80.0}, 3, 103.0))
        progress.start(trial, 103.0)
        progress.end(End(trial.name, "failed", "OSError", {}, 0, 104.0))
    assert "[bold]mind[/bold] this" in printed(shown)
    if not terminal:
        lines = printed(shown).splitlines()
        assert lines[0].startswith("search stage: 3/30 trials done, 0 running, about ")
        assert "validation 80.00 %  3.0 s" in lines[2]
        assert lines[2].startswith("[4/30] sam_on/search/0  rho ")
        assert "failed: OSError" in lines[3]


def test_time_left_shrinks_to_nothing() -> None:
    spec = make_spec()
    simulation = Simulation(spec, truth)
    progress = Progress(spec, console(terminal=False), at_once=2)
    assert progress._time_left() is None
    left = []
    for _ in range(5):
        progress.stage("search", simulation.run(6))
        left.append(progress._time_left())
    assert left == sorted(left, reverse=True)  # type: ignore[type-var]
    assert left[-1] == 0


def test_the_plan_counts_trials_epochs_and_gradient_evaluations(tmp_path: Path) -> None:
    shown = console(terminal=False)
    show(make_spec("arms.sam_on.trials=5"), shown, tmp_path, timed=False)
    text = printed(shown)
    # 640 images make 10 batches; 3 epochs; SAM costs 2 a step: 5 + 6 trials take 660.
    row = next(line.split() for line in text.splitlines() if line.strip().startswith("sam_on"))
    assert row[-5:] == ["5", "+", "6", "33", "660"]
    assert "13 search and 18 confirm trials" in text


def test_the_best_so_far_is_a_mean_where_only_seeds_differ_and_never_diverged() -> None:
    spec = make_spec("tune.trials_per_arm=2")
    shown = console(terminal=True)
    progress = Progress(spec, shown, at_once=2)
    accuracies = {"sgd": (80.0, 90.0), "sam_all": (99.0, 70.0), "sam_on": (60.0, 65.0)}
    for trial in search_trials(spec):
        accuracy = accuracies[trial.arm][trial.index]
        status: Status = "diverged" if accuracy == 99.0 else "finished"
        progress.start(trial, 0.0)
        scores = {"validation_accuracy": accuracy}
        progress.end(End(trial.name, status, "", scores, 3, 5.0))
    with shown.capture() as capture:
        shown.print(progress._render())
    rows = {line.split()[0]: line for line in capture.get().splitlines()}
    assert "85.00 %" in rows["sgd"]
    assert "mean of 2 seeds" in rows["sgd"]
    assert "70.00 %" in rows["sam_all"]
    assert "65.00 %" in rows["sam_on"]
    assert "rho" in rows["sam_on"]


def test_a_heartbeat_says_how_far_a_study_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("study.progress._HEARTBEAT", 0.01)
    shown = console(terminal=False)
    with Progress(make_spec(), shown, at_once=2) as progress:
        while "trials done" not in printed(shown):
            progress._over.wait(0.01)
    assert printed(shown).startswith("starting stage: 0/30 trials done, 0 running\n")


def test_time_left_is_never_below_nothing() -> None:
    spec = make_spec("tune.trials_per_arm=1", "confirm.seeds=2")
    shown = console(terminal=True)
    progress = Progress(spec, shown, at_once=2)
    progress.stage("confirm", Simulation(spec, truth).run(8))
    last = confirm_trials(spec, {"sam_on": {"rho": 1.0}})[1]
    progress.start(last, 0.0)
    progress.epoch(Epoch(last.name, 3, {"validation_accuracy": 77.0}, 102.0))
    left = progress._time_left()
    assert left is not None
    assert left >= -1e-9
    with shown.capture() as capture:
        shown.print(progress._render())
    assert "8/9 trials done, 1 running, about 1 s left" in capture.get()
