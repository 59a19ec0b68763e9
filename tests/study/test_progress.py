"""What a study shows while it runs."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from study import stages
from study.plan import show
from study.progress import Progress
from study.records import End, Epoch
from study.simulate import Simulation
from tests.study.synthetic import make_spec
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
    trial = next(t for t in stages.search_trials(spec) if t.arm == "sam_on")
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


def test_the_plan_counts_trials_epochs_and_gradient_evaluations() -> None:
    shown = console(terminal=False)
    show(make_spec("arms.sam_on.trials=5"), shown, timed=False)
    text = printed(shown)
    # 640 images make 10 batches; 3 epochs; SAM costs 2 a step: 5 + 6 trials take 660.
    row = next(line.split() for line in text.splitlines() if line.strip().startswith("sam_on"))
    assert row[-5:] == ["5", "+", "6", "33", "660"]
    assert "13 search and 18 confirm trials" in text
