"""Whatever a journal has become: what is whole is used, or one line says what to do."""

from __future__ import annotations

import random
from contextlib import suppress
from pathlib import Path

import pytest
from optuna.storages import InMemoryStorage

from study import extension, journal, plots, report, stages, tables
from study.home import Home
from study.journal import Journal
from study.journal_reader import JournalError
from study.ledger import Ledger
from study.records import Failure, Measured, Measurement
from study.rounds import judge
from study.verdict import decide
from study.yamlfile import SpecError
from tests.study.mutated_journals import mutated
from tests.study.synthetic import make_contents, make_spec

SPEC = make_spec("confirm.seeds=2", "tune.trials_per_arm=2")
CASES = 56


def whole_journal(folder: Path) -> bytes:
    """Of a study with its verdict, a failed attempt, a note, a measurement and an extension."""
    contents = make_contents(SPEC, images=37)
    writer = Journal(folder / "whole.jsonl")
    writer.append(contents.header)
    for name, trial in contents.trials.items():
        writer.append(journal.start_line(trial, contents.started[name]))
        for epoch in contents.epochs[name]:
            writer.append(journal.epoch_line(epoch))
        if trial.arm == "sgd":
            writer.append(journal.failure_line(Failure(name, 1, "node lost", 3, 5.0)))
        writer.append(journal.end_line(contents.ends[name]))
    writer.append({"kind": "note", "text": "mind this", "time": 5.0})
    sharp = Measured("worst_l2_adaptive", "all", 0.5, 0.25)
    found = Measurement("tiny/sgd/confirm/0", "sharpness", None, (sharp,), 5.5)
    writer.append(journal.measurement_line(found))
    [judged] = judge([SPEC], contents)
    writer.append({"kind": "verdict", "number": 0, "verdict": judged.verdict.plain(), "time": 6.0})
    more = extension.extended(SPEC, None, 3).model_dump()
    writer.append({"kind": "extend", "number": 1, "spec": more, "time": 7.0})
    writer.close()
    return (folder / "whole.jsonl").read_bytes()


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, bytes]]:
    return list(mutated(7, CASES, whole_journal(tmp_path_factory.mktemp("whole"))))


@pytest.mark.parametrize("case", range(CASES))
def test_no_journal_is_too_broken(
    cases: list[tuple[str, bytes]],
    case: int,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, data = cases[case]
    home = Home(tmp_path, "tiny")
    home.folder.mkdir()
    home.journal.write_bytes(data)
    for other in (SPEC, make_spec()):
        with suppress(SpecError):
            home.check_same(other)
    assert home.journal.read_bytes() == data
    if case % 7:  # half a second for each
        monkeypatch.setattr(plots, "draw", lambda *arguments: {})
    code = report.main(["tiny", "--out", str(tmp_path)])
    told = capsys.readouterr().err
    try:
        contents = journal.read(home.journal)
    except JournalError:
        assert code == 2
        assert told.count("\n") == 1
        assert [path.name for path in home.folder.iterdir()] == ["journal.jsonl"]
        return
    assert code in (0, 1)
    assert told == ""
    writer = Journal(home.journal)
    writer.append({"kind": "note", "text": "it goes on", "time": 8.0})
    writer.close()
    after = journal.read(home.journal)
    assert after.notes == (*contents.notes, "it goes on")
    assert after.damaged == contents.damaged


@pytest.mark.parametrize("seed", range(20))
def test_whatever_lines_are_damaged_the_trials_that_lost_by_it_make_the_study_whole_again(
    seed: int, tmp_path: Path
) -> None:
    drawn = random.Random(seed)
    path = tmp_path / "journal.jsonl"
    header, *lines = whole_journal(tmp_path).splitlines(keepends=True)
    whole = make_contents(SPEC, images=37)
    for number in drawn.sample(range(len(lines)), drawn.choice((1, 3, 12))):
        lines[number] = drawn.choice((b"\x00" * 60, b"[]", lines[number][:40])) + b"\n"
    path.write_bytes(b"".join([header, *lines]))
    contents = journal.read(path)
    assert contents.damaged
    ledger = Ledger(InMemoryStorage(), SPEC)
    for _, plan in stages.begun([SPEC], whole.results):
        ledger.open_stage(plan.stage, plan.slots, whole.results)
    again = []
    for _, plan in stages.begun([SPEC], whole.results):
        # the ledger was told of all ends, the journal has lost some
        ledger.open_stage(plan.stage, plan.slots, contents.results)
        while (trial := ledger.ask(plan.stage)) is not None:
            again.append(trial)
    assert {trial.name for trial in again} == whole.ends.keys() - contents.ends.keys()
    writer = Journal(path)
    for trial in again:
        assert trial == whole.trials[trial.name]
        writer.append(journal.start_line(trial, 9.0))
        for epoch in whole.epochs[trial.name]:
            writer.append(journal.epoch_line(epoch))
        writer.append(journal.end_line(whole.ends[trial.name]))
    writer.close()
    after = journal.read(path)
    assert len(after.results) == len(whole.results)
    assert tables.trials_rows(SPEC, after.results) == tables.trials_rows(SPEC, whole.results)
    assert decide(SPEC, after.results).plain() == decide(SPEC, whole.results).plain()
