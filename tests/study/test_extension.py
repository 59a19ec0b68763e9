"""Raising budgets after the verdict: what is run, on which seeds, and what it is called."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pytest

from study import extension, journal, report, stages, verdict
from study.home import Home
from study.journal import Journal
from study.records import Trial
from study.report import sentences
from study.rounds import Round, judge
from study.simulate import Answer, Simulation
from study.yamlfile import SpecError
from tests.study.synthetic import HEADER, confirm_trials, hill, make_contents, make_spec

SPEC = make_spec()


def steady(trial: Trial) -> Answer:
    value = hill(trial) + trial.seed % 7 / 10
    return Answer({"validation_accuracy": value, "test_accuracy": value, "test_loss": 1.0})


def late_bloomer(trial: Trial) -> Answer:
    """The best point of sam_on is one that only the extension tries."""
    better = trial.arm == "sam_on" and trial.stage == "search" and trial.index == 5
    value = 99.0 if better else 80.0 + trial.seed % 7 / 10
    return Answer({"validation_accuracy": value, "test_accuracy": value, "test_loss": 1.0})


def test_more_seeds_go_on_counting() -> None:
    more = extension.extended(SPEC, None, 9)
    study = Simulation(SPEC, steady)
    planned = list(study.run())
    study.extensions = [more]
    results = study.run()
    added = [r.trial for r in results[len(planned) :]]
    assert {(t.stage, t.index, t.seed) for t in added} == {
        ("confirm", i, 100_000 + i) for i in (6, 7, 8)
    }
    assert Counter(t.arm for t in added) == dict.fromkeys(SPEC.arms, 3)
    assert stages.of_round([SPEC, more], 0, results) == planned
    assert len(stages.of_round([SPEC, more], 1, results)) == len(results)


def test_more_trials_that_change_nothing_confirm_nothing_again() -> None:
    more = extension.extended(SPEC, 6, None)
    study = Simulation(SPEC, lambda t: steady(t) if t.index < 4 else Answer(
        {"validation_accuracy": 1.0, "test_accuracy": 1.0, "test_loss": 1.0}))  # fmt: skip
    study.spec = make_spec("confirm.seeds=4")
    more = extension.extended(study.spec, 6, None)
    before = len(study.run())
    study.extensions = [more]
    added = [r.trial for r in study.run()[before:]]
    assert {(t.arm, t.stage, t.index) for t in added if t.arm != "sgd"} == {
        (arm, "search", i) for arm in ("sam_all", "sam_on") for i in (4, 5)
    }
    assert not [t for t in added if t.stage == "confirm"]


def test_another_configuration_is_judged_on_seeds_never_used_by_all_arms() -> None:
    more = extension.extended(SPEC, 6, 7)
    study = Simulation(SPEC, late_bloomer)
    planned = list(study.run())
    before = verdict.decide(SPEC, planned)
    study.extensions = [more]
    results = study.run()
    confirm = [r.trial for r in results[len(planned) :] if r.trial.stage == "confirm"]
    assert {t.seed for t in confirm} == set(range(100_006, 100_013))
    assert Counter(t.arm for t in confirm) == dict.fromkeys(SPEC.arms, 7)
    assert verdict.decide(SPEC, stages.of_round([SPEC, more], 0, results)) == before
    after = stages.of_round([SPEC, more], 1, results)
    assert {r.trial.seed for r in after if r.trial.stage == "confirm"} == {t.seed for t in confirm}
    assert verdict.decide(more, after).complete


@pytest.mark.parametrize("cut", [1, 5, 12])
def test_an_extension_that_was_cut_off_goes_on(cut: int) -> None:
    more = extension.extended(SPEC, 6, 7)
    whole = Simulation(SPEC, late_bloomer, extensions=[more])
    parts = Simulation(SPEC, late_bloomer)
    parts.run()
    parts.extensions = [more]
    parts.run(cut)
    parts.run()
    assert {r.trial.name for r in parts.results} == {r.trial.name for r in whole.run()}
    assert len({r.trial.name for r in parts.results}) == len(parts.results)


def test_the_planned_verdict_stays_first_and_the_other_is_after_looking() -> None:
    more = extension.extended(SPEC, None, 9)
    study = Simulation(SPEC, steady, extensions=[more])
    results = study.run()
    rounds = [SPEC, more]
    judged = [
        Round(spec, found, verdict.decide(spec, found))
        for i, spec in enumerate(rounds)
        for found in [stages.of_round(rounds, i, results)]
    ]
    first, second = sentences(judged)
    assert first == f"As planned: {judged[0].verdict.sentence}"
    assert second.startswith("After looking, with 4 search trials an arm and 9 confirm seeds: ")
    assert judged[0].verdict.comparisons[0].n == 6
    assert judged[1].verdict.comparisons[0].n == 9


@pytest.mark.parametrize(
    ("trials", "seeds", "told"),
    [
        (None, None, "--trials or --seeds is missing"),
        (3, None, "--trials: 3 is below the 4 that every arm has"),
        (None, 5, "--seeds: 5 is below the 6 there are"),
        (4, 6, "already; give more"),
    ],
)
def test_what_raises_nothing_is_refused(trials: int | None, seeds: int | None, told: str) -> None:
    with pytest.raises(SpecError, match=told):
        extension.extended(SPEC, trials, seeds)


def test_a_grid_has_all_its_points_already() -> None:
    spec = make_spec("tune={sampler: grid}", "search={rho: {choices: [0.1, 1.0]}}")
    with pytest.raises(SpecError, match="a grid has all its points"):
        extension.extended(spec, 9, None)
    assert extension.extended(spec, None, 9).confirm.seeds == 9


def test_an_arm_with_a_budget_of_its_own_keeps_it() -> None:
    spec = make_spec("arms.sam_on.trials=7")
    more = extension.extended(spec, 6, None)
    assert {name: arm.trials for name, arm in more.arms.items()} == {
        "sgd": 6,
        "sam_all": 6,
        "sam_on": 7,
    }


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        (["tune.trials_per_arm=6"], "python -m study.extend tiny --trials 6 raises them"),
        (["confirm.seeds=9"], "python -m study.extend tiny --seeds 9 raises them"),
        (["confirm.seeds=9", "tune.trials_per_arm=5"], "--trials 5 --seeds 9 raises them"),
        (["confirm.seeds=3"], None),
        (["confirm.seeds=9", "workload.epochs=4"], None),
    ],
)
def test_a_spec_that_only_raises_budgets_is_told_the_command(
    tmp_path: Path, changes: list[str], named: str | None
) -> None:
    home = Home(tmp_path, SPEC.study)
    home.folder.mkdir()
    writer = Journal(home.journal)
    writer.append({**HEADER, "spec": SPEC.model_dump(), "hash": SPEC.hash})
    writer.close()
    with pytest.raises(SpecError) as error:
        home.check_same(make_spec(*changes))
    assert ("study.extend" in str(error.value)) == (named is not None)
    assert (named or "of another spec") in str(error.value)


def begun(tmp_path: Path, *more: Mapping[str, object]) -> Home:
    """A study with its verdict and an extension to 9 seeds under way, then these lines."""
    contents = make_contents(SPEC)
    home = Home(tmp_path, SPEC.study)
    home.folder.mkdir()
    writer = Journal(home.journal)
    writer.append(contents.header)
    for name, trial in contents.trials.items():
        writer.append(journal.start_line(trial, contents.started[name]))
        for epoch in contents.epochs[name]:
            writer.append(journal.epoch_line(epoch))
        writer.append(journal.end_line(contents.ends[name]))
    [judged] = judge([SPEC], contents)
    verdict = judged.verdict.plain()
    writer.append({"kind": "verdict", "number": 0, "verdict": verdict, "time": 1.0})
    for line in more:
        writer.append(line)
    writer.close()
    return home


MORE = extension.extended(SPEC, None, 9)
EXTEND = {"kind": "extend", "number": 1, "spec": MORE.model_dump(), "time": 2.0}
LATER = confirm_trials(MORE, stages.chosen(SPEC, make_contents(SPEC).results))


def damage(home: Home, what: str) -> None:
    """Damages the first line that holds `what`."""
    home.journal.write_text(home.journal.read_text().replace(what, what[:-1] + "\x00", 1))


def test_a_study_whose_trial_lost_its_end_has_not_ended(tmp_path: Path) -> None:
    home = begun(tmp_path)
    assert home.ended(home.contents())
    damage(home, '{"kind": "end"')
    assert home.rounds()[1].complete
    assert not home.ended(home.contents())


def test_a_verdict_that_is_damaged_is_asked_for_again(tmp_path: Path) -> None:
    home = begun(tmp_path)
    damage(home, '{"kind": "verdict"')
    assert not home.ended(home.contents())


def test_an_extension_that_is_under_way_is_not_forgotten_with_its_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = journal.start_line(next(t for t in LATER if t.index == 8), 3.0)
    home = begun(tmp_path, EXTEND, start)
    assert not home.ended(home.contents())
    damage(home, '{"kind": "extend"')
    with pytest.raises(SpecError) as caught:
        home.ended(home.contents())
    assert "python -m study.extend tiny with the --trials and --seeds" in str(caught.value)
    assert report.main([SPEC.study, "--out", str(tmp_path)]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "An extension is missing here: its own line of the journal is damaged." in told


def test_only_the_extension_that_was_lost_can_be_restored(tmp_path: Path) -> None:
    verdict = {
        **{"sentence": "x", "arms": {}, "comparisons": []},
        "spec_hash": MORE.hash,
    }
    home = begun(
        tmp_path, EXTEND, {"kind": "verdict", "number": 1, "verdict": verdict, "time": 4.0}
    )
    damage(home, '{"kind": "extend"')
    rounds, contents = home.rounds()
    assert extension.is_lost(rounds, contents)
    assert extension.restored(rounds, contents, MORE) == MORE
    with pytest.raises(SpecError, match="had other budgets"):
        extension.restored(rounds, contents, extension.extended(SPEC, None, 8))
    writer = Journal(home.journal)
    writer.append(EXTEND)
    writer.close()
    rounds, contents = home.rounds()
    assert rounds == [SPEC, MORE]
    assert not extension.is_lost(rounds, contents)


def test_an_extend_line_that_changes_more_than_budgets_is_damaged(tmp_path: Path) -> None:
    other = make_spec("confirm.seeds=9", "workload.epochs=4").model_dump()
    home = begun(tmp_path, {**EXTEND, "spec": other})
    contents = home.rounds()[1]
    assert contents.extensions == ()
    assert len(contents.damaged) == 1
