from __future__ import annotations

import csv
import io
import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from study import journal, plots, report, tables
from study.journal import Contents, Journal
from study.records import Failure, Trial
from study.rounds import judge
from study.spec import Spec
from study.verdict import decide, plan_hash
from tests.study.synthetic import hill, make_contents, make_spec

SPEC = make_spec()
JOURNAL = "journal.jsonl"
HOSTILE = "</svg></style><script>alert('x')</script><img src=http://evil.example/x onerror=y>"
VOID = {"meta", "link", "img", "br", "hr", "input"}


class Page(HTMLParser):
    """Tags, attributes and text of a page; fails where tags do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.links: list[str] = []
        self.words = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [v or "" for k, v in attrs if k.endswith(("href", "src")) and v]
        assert not [k for k, _ in attrs if k.startswith("on")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_data(self, data: str) -> None:
        self.words += data


def files(folder: Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def page(folder: Path) -> Page:
    return Page((folder / "report.html").read_text(encoding="utf-8"))


def write_journal(folder: Path, contents: Contents) -> None:
    folder.mkdir(parents=True)
    target = Journal(folder / JOURNAL)
    target.append(contents.header)
    for name, trial in contents.trials.items():
        target.append(journal.start_line(trial, contents.started[name]))
        for epoch in contents.epochs[name]:
            target.append(journal.epoch_line(epoch))
        target.append(journal.end_line(contents.ends[name]))
    for text in contents.notes:
        target.append({"kind": "note", "text": text, "time": 0.0})
    target.close()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    report.write(folder, [SPEC], make_contents(SPEC, notes=["a node was lost"]))
    return folder


def test_the_folder_holds_report_verdict_tables_and_plots(written: Path) -> None:
    assert set(files(written)) == {
        "report.html", "verdict.json", "trials.csv", "timings.csv",
        *(
            f"plots/{name}.{kind}"
            for name in set(plots.FIGURES) - {"sharpness"}  # nothing was measured
            for kind in ("svg", "csv")
        ),
    }  # fmt: skip


def test_the_page_holds_its_parts_in_order(written: Path) -> None:
    words = page(written).words
    verdict = json.loads((written / "verdict.json").read_text())
    places = [
        words.index(part, words.index("Study tiny"))
        for part in (
            SPEC.question, verdict["sentence"], "Arms", "Comparisons", "How sure is this?", "Plots",
            "Every trial",
            "a node was lost", "The spec as it was resolved", "How to read", verdict["plan_hash"],
        )
    ]  # fmt: skip
    assert places == sorted(places)


def test_the_page_needs_no_network_and_no_script(written: Path) -> None:
    found = page(written)
    assert not {"script", "link", "img", "iframe", "object"} & set(found.tags)
    assert all(link.startswith("#") for link in found.links)
    assert not re.search(r"url\((?!#)|@import", (written / "report.html").read_text())


def test_references_inside_the_plots_are_whole_and_ids_unique(written: Path) -> None:
    text = (written / "report.html").read_text()
    ids = re.findall(r' id="([^"]+)"', text)
    references = re.findall(r'(?:href="|url\()#([^")]+)', text)
    assert len(ids) == len(set(ids))
    assert references
    assert set(references) <= set(ids)


def test_the_spec_in_the_page_is_the_one_that_ran(written: Path) -> None:
    words = page(written).words
    start = words.index("study: tiny\n")
    text = words[start : words.index("How to read")]
    assert Spec.model_validate(yaml.safe_load(text)) == SPEC


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    spec = SPEC.model_copy(update={"question": HOSTILE})
    contents = make_contents(spec, notes=[HOSTILE])
    name = "tiny/sgd/search/0"
    end = replace(contents.ends[name], status="failed", reason=HOSTILE)
    arms = {HOSTILE if key == "sgd" else key: arm for key, arm in spec.arms.items()}
    hostile = spec.model_copy(update={"arms": arms})
    hostile = hostile.model_copy(update={"verdict": spec.verdict.model_copy(update={"also": []})})
    trials = {
        key: replace(trial, arm=HOSTILE) if trial.arm == "sgd" else trial
        for key, trial in contents.trials.items()
    }
    report.write(
        tmp_path, [hostile], replace(contents, ends={**contents.ends, name: end}, trials=trials)
    )
    found = page(tmp_path)
    assert not {"script", "img"} & set(found.tags)
    assert found.words.count("alert('x')") >= 5


def test_the_same_results_give_the_same_bytes(written: Path, tmp_path: Path) -> None:
    contents = make_contents(SPEC, notes=["a node was lost"])
    later = {name: time + 1e6 for name, time in contents.started.items()}
    shuffled = dict(reversed(list(contents.trials.items())))
    report.write(tmp_path, [SPEC], replace(contents, started=later, trials=shuffled))
    first, second = files(written), files(tmp_path)
    assert {name for name in first if first[name] != second[name]} == {"timings.csv"}


def test_writing_again_replaces_and_leaves_nothing_else(tmp_path: Path) -> None:
    report.write(tmp_path, [SPEC], make_contents(SPEC, upto=14))
    assert json.loads((tmp_path / "verdict.json").read_text())["complete"] is False
    before = set(files(tmp_path))
    report.write(tmp_path, [SPEC], make_contents(SPEC))
    assert json.loads((tmp_path / "verdict.json").read_text())["complete"] is True
    assert before <= set(files(tmp_path))
    assert not list(tmp_path.rglob("*.tmp")) + list(tmp_path.rglob(".*"))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("upto", [0, 6, 13])
def test_a_half_finished_study_has_a_report(upto: int, tmp_path: Path) -> None:
    [judged] = report.write(tmp_path, [SPEC], make_contents(SPEC, upto=upto))
    assert not judged.verdict.complete
    assert "Nothing can be concluded" in page(tmp_path).words


@pytest.mark.filterwarnings("error")
def test_a_study_where_everything_diverged_has_a_report(tmp_path: Path) -> None:
    [judged] = report.write(tmp_path, [SPEC], make_contents(SPEC, lambda trial: math.nan))
    assert judged.verdict.complete
    assert "sgd: 6 confirm trials diverged" in page(tmp_path).words


@pytest.mark.filterwarnings("error")
def test_choices_of_rho_with_zero_among_them_are_plotted(tmp_path: Path) -> None:
    spec = make_spec("search.rho={choices: [0.0, 0.5, 1.0]}")
    report.write(tmp_path, [spec], make_contents(spec, lambda trial: 90.0))
    assert (tmp_path / "plots" / "rho.svg").exists()


def test_what_is_printed_reads_at_80_columns_and_ends_with_the_sentence() -> None:
    def truth(trial: Trial) -> float:
        return math.nan if trial.name == "tiny/sam_on/confirm/2" else hill(trial)

    contents = make_contents(SPEC, truth)
    verdict = decide(SPEC, contents.results)
    console = Console(width=80, file=io.StringIO())
    report.print_result(console, judge([SPEC], contents), contents)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert max(map(len, text.splitlines())) <= 80
    joined = " ".join(text.split())
    assert joined.endswith(verdict.sentence)
    assert "warning: sam_on: 1 confirm trial diverged" in joined
    assert "without them: sam_on against sam_all better" in joined


def test_another_analysis_than_the_planned_one_is_told(tmp_path: Path) -> None:
    contents = make_contents(SPEC)
    planned = replace(contents, header={**contents.header, "plan": plan_hash(SPEC)})
    other = replace(contents, header={**contents.header, "plan": "0" * 64})
    fine = report.warnings(judge([SPEC], planned), planned)
    assert "not the one planned" not in " ".join(fine)
    assert "not the one planned" in report.warnings(judge([SPEC], other), other)[0]


def test_the_command_rebuilds_the_same_report_from_the_journal(
    written: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    contents = make_contents(SPEC, notes=["a node was lost"])
    write_journal(tmp_path / "tiny", contents)
    assert report.main(["tiny", "--out", str(tmp_path)]) == 0
    rebuilt = files(tmp_path / "tiny")
    del rebuilt[JOURNAL]
    assert rebuilt == files(written)
    assert "sam_on tests better than sam_all" in " ".join(capsys.readouterr().out.split())


def test_the_command_ends_with_1_without_a_verdict(tmp_path: Path) -> None:
    write_journal(tmp_path / "tiny", make_contents(SPEC, upto=15))
    assert report.main(["tiny", "--out", str(tmp_path)]) == 1


@pytest.mark.parametrize("name", ["tiyn", "../tiny", "/etc"])
def test_the_command_ends_with_2_for_a_study_that_is_not_there(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_journal(tmp_path / "tiny", make_contents(SPEC, upto=0))
    assert report.main([name, "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert name in error


@pytest.mark.parametrize("text", ["not json\n", '{"kind": "start"}\n', ""])
def test_the_command_ends_with_2_for_a_file_that_is_no_journal(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / JOURNAL).write_text(text)
    assert report.main(["tiny", "--out", str(tmp_path)]) == 2
    assert "not a journal" in capsys.readouterr().err


def test_failed_attempts_are_counted_per_arm_with_their_reasons(tmp_path: Path) -> None:
    plain = make_contents(SPEC, failed=["tiny/sgd/search/1"])
    lost, broken = "tiny/sam_on/search/0", "tiny/sgd/search/1"
    failures = {
        lost: (Failure(lost, 1, "node lost", 1, 0.0), Failure(lost, 2, HOSTILE, 1, 0.0)),
        broken: (Failure(broken, 1, "node lost", 0, 0.0),),
    }
    contents = replace(plain, failures=failures)
    table = tables.failures_table(SPEC, contents)
    assert table is not None
    assert table.rows == (
        ("sgd", "1", "1", "node lost: 1", "1", "out of memory: 1"),
        ("sam_on", "2", "1", f"{HOSTILE}: 1\nnode lost: 1", "0", "\N{EN DASH}"),
    )
    for each, folder in ((plain, tmp_path / "plain"), (contents, tmp_path / "failed")):
        report.write(folder, [SPEC], each)
    before, after = files(tmp_path / "plain"), files(tmp_path / "failed")
    assert {name for name in after if after[name] != before[name]} == {"timings.csv", "report.html"}
    rows = list(csv.DictReader(io.StringIO(after["timings.csv"].decode())))
    assert {row["trial"]: row["failures"] for row in rows if row["failures"] != "0"} == {
        lost: "2",
        broken: "1",
    }
    assert b"failures" not in before["timings.csv"]
    words = page(tmp_path / "failed").words
    assert "Failures" in words
    assert HOSTILE in words


def test_an_arm_without_failures_has_no_table(written: Path) -> None:
    assert tables.failures_table(SPEC, make_contents(SPEC)) is None
    assert "Failures" not in page(written).words


def test_damaged_lines_are_a_warning_until_they_are_noted() -> None:
    contents = replace(make_contents(SPEC), damaged=(7,))
    judged = judge([SPEC], contents)
    [warning] = [text for text in report.warnings(judged, contents) if "damaged" in text]
    assert warning.startswith("line 7 of the journal is damaged and left out")
    noted = replace(contents, notes=(contents.damage,))
    assert not [text for text in report.warnings(judged, noted) if "damaged" in text]
