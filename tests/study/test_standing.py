"""How far a study is, what is left and what it cost, from contents whose truth is known."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from study import plan, status
from study.costs import known
from study.home import Home
from study.journal import Journal, end_line, epoch_line, start_line
from study.spec import Spec
from study.standing import Best, standing
from study.verdict import decide
from tests.study.synthetic import HEADER, make_contents, make_spec

PRICE = ("resources.gpu=0.5", "resources.price_per_hour=3")


def write(home: Home, spec: Spec, upto: int | None, *, running: int = 0) -> None:
    """The journal of a study of which `upto` trials ended and `running` more are under way, one
    epoch done; whole, it has its verdict."""
    whole, contents = make_contents(spec), make_contents(spec, upto=upto)
    under_way = [each for each in whole.results if each.trial.name not in contents.ends][:running]
    home.folder.mkdir(parents=True)
    records = Journal(home.journal)
    records.append({**HEADER, "spec": spec.model_dump(), "hash": spec.hash, "plan": "p"})
    for result in (*contents.results, *under_way):
        records.append(start_line(result.trial, result.started))
        for epoch in result.epochs[: None if result.trial.name in contents.ends else 1]:
            timed = {**epoch.metrics, "seconds_per_epoch": 36.0}
            records.append(epoch_line(replace(epoch, metrics=timed)))
        if result.trial.name in contents.ends:
            records.append(end_line(result.end))
    if upto is None:
        verdict = decide(spec, contents.results).plain()
        records.append({"kind": "verdict", "number": 0, "verdict": verdict, "time": 9.0})
    records.close()


def test_trials_are_counted_by_arm_and_state(tmp_path: Path) -> None:
    spec, home = make_spec(*PRICE), Home(tmp_path, "tiny")
    write(home, spec, 7, running=2)
    rounds, contents = home.rounds()
    seen = standing(rounds, contents, alive=True)
    assert (seen.state, seen.stage, seen.sentence) == ("running", "search", "")
    assert {name: dict(arm.done) for name, arm in seen.arms.items()} == {
        "sgd": {"search": 4, "confirm": 0},
        "sam_all": {"search": 3, "confirm": 0},
        "sam_on": {"search": 0, "confirm": 0},
    }
    assert [arm.running for arm in seen.arms.values()] == [0, 1, 1]
    assert dict(seen.arms["sgd"].planned) == {"search": 4, "confirm": 6}
    assert seen.arms["sam_on"].best is None
    best = seen.arms["sam_all"].best
    searched = [r for r in contents.results if r.trial.arm == "sam_all"]
    top = max(searched, key=lambda r: r.end.scores["validation_accuracy"])
    accuracy = top.end.scores["validation_accuracy"]
    assert best == Best(accuracy, top.trial.hyperparameters, None)
    # 23 epochs of 36 s, half a GPU each, 3 an hour.
    assert seen.training_hours == pytest.approx(23 / 100)
    assert seen.gpu_hours == pytest.approx(23 / 200)
    assert seen.cost == pytest.approx(3 * 23 / 200)


def test_nothing_runs_and_no_time_is_left_where_no_process_drives_it(tmp_path: Path) -> None:
    home = Home(tmp_path, "tiny")
    write(home, make_spec(), 7, running=2)
    seen = standing(*home.rounds(), alive=False)
    assert (seen.state, seen.seconds_left, seen.cost) == ("stopped", None, None)
    assert sum(arm.running for arm in seen.arms.values()) == 0


def test_a_study_with_its_verdict_is_done(tmp_path: Path) -> None:
    home = Home(tmp_path, "tiny")
    write(home, make_spec(), None)
    seen = standing(*home.rounds(), alive=False)
    assert (seen.state, seen.stage) == ("done", "confirm")
    assert seen.sentence == home.begun()[1].verdicts[0]["sentence"]


def test_status_tells_one_study_or_all_and_knows_no_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(Home(tmp_path, "tiny"), make_spec(*PRICE), 7)
    write(Home(tmp_path, "whole"), make_spec("study=whole"), None)
    assert status.main(["--out", str(tmp_path)]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith("tiny: stopped, search stage, 7/30 trials done, 0.10 GPU hours")
    assert told[0].endswith("cost 0.32")
    assert told[1].startswith("whole: done, 30/30 trials done")
    assert status.main(["tiny", "--out", str(tmp_path)]) == 0
    assert "sam_all" in capsys.readouterr().out
    assert status.main(["--json", "--out", str(tmp_path)]) == 0
    one, other = json.loads(capsys.readouterr().out)
    assert (one["study"], other["state"]) == ("tiny", "done")
    assert status.main(["tinny", "--out", str(tmp_path)]) == 2
    assert "did you mean 'tiny'" in capsys.readouterr().err
    assert status.main(["../tiny", "--out", str(tmp_path)]) == 2
    assert "is not the name of a study" in capsys.readouterr().err


def test_the_epochs_of_earlier_studies_tell_what_a_study_will_cost(tmp_path: Path) -> None:
    write(Home(tmp_path, "tiny"), make_spec(*PRICE), None)
    found = known(make_spec(*PRICE, "study=next", "workload.epochs=50"), tmp_path)
    assert found is not None
    assert dict(found.of_epoch) == {"sgd": 36.0, "sam_all": 36.0, "sam_on": 36.0}
    assert "epochs of tiny" in found.source
    assert known(make_spec(*PRICE, "workload.batch_size=32"), tmp_path) is None
    assert known(make_spec("resources.cpu=2"), tmp_path) is None


def test_an_arm_that_never_ran_costs_by_its_gradient_evaluations(tmp_path: Path) -> None:
    write(Home(tmp_path, "tiny"), make_spec(), None)
    new = make_spec("arms.asam_on={variant: asam, perturb: norm}")
    found = known(new, tmp_path)
    assert found is not None
    # 36 s is 36 an evaluation of sgd and 18 of sam: 24 on the mean over the three.
    assert found.of_epoch["asam_on"] == pytest.approx(2 * 24)


def test_seconds_of_the_spec_count_where_no_study_tells(tmp_path: Path) -> None:
    shown = Console(file=io.StringIO(), width=200)
    spec = make_spec("resources.seconds_per_epoch=60", *PRICE)
    plan.show(spec, shown, tmp_path, timed=False)
    assert isinstance(shown.file, io.StringIO)
    text = " ".join(shown.file.getvalue().split())
    # 10 trials an arm of 3 epochs: 60 s of sgd, 120 of the others.
    assert "2.50 hours of training steps by resources.seconds_per_epoch" in text
    assert "1.25 GPU hours; cost 3.75 by resources.price_per_hour" in text


def test_neither_price_nor_seconds_nor_cap_change_the_study() -> None:
    changed = make_spec(
        "resources.price_per_hour=2", "resources.seconds_per_epoch=9", "resources.max_trials=3"
    )
    assert changed.hash == make_spec().hash
