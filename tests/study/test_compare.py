"""The comparison of studies, from real SQLite stores of MLflow to its files and its exit codes."""

from __future__ import annotations

import csv
import os
import shutil
import socket
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import t

from study import across, compare, forest, studies, tracking
from study.across import Compared
from study.plots import style
from study.studies import Run, Study
from study.tracking_uri import default_uri
from study.yamlfile import SpecError
from tests.study.command import run
from tests.study.finished import CHANCE, Scores, mirrored
from tests.study.test_report import HOSTILE, Page

ON = [95.0, 96.5, 94.0, 95.5]
ALL = [92.0, 93.0, 93.5, 92.5]
SGD = [91.0, 90.0, 92.0, 91.5]
USUAL: Scores = {"sam_all": ALL, "sam_on": ON}
DIFFERENCES = [3.0, 3.5, 0.5, 3.0]


def moved(by: float, n: int = 4) -> Scores:
    """The usual results of n seeds with sam_on `by` points better."""
    return {"sam_all": ALL[:n], "sam_on": [x + by for x in ON[:n]]}


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the command sets for its own process goes again."""
    monkeypatch.setattr(os, "environ", dict(os.environ))


@pytest.fixture(scope="module")
def store(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store with the studies that most tests compare."""
    folder = tmp_path_factory.mktemp("team")
    shutil.copy(empty_store, folder / "mlflow.db")
    uri = default_uri(folder)
    noisy = ("workload.data.label_noise=0.4", "workload.model.norm=gn")
    other_names = (
        "arms={everything: {variant: sam, perturb: all}, norms: {variant: sam, perturb: norm}}",
        "verdict.baseline=everything",
        "verdict.also=[]",
    )
    out = folder / "studies"
    mirrored(out, uri, "plain", {"sgd": SGD, **USUAL}, data_hash="a")
    mirrored(out, uri, "twin", moved(1), *noisy, data_hash="a", rho=0.3)
    mirrored(out, uri, "other-data", moved(-1, 3), data_hash="b")
    mirrored(out, uri, "third-data", moved(0.5), data_hash="c")
    mirrored(out, uri, "other_seeds", moved(0.2), "tune.seed=40", data_hash="a")
    mirrored(out, uri, "renamed", {"everything": ALL, "norms": ON}, *other_names, data_hash="d")
    crossed: Scores = {**USUAL, "sam_on": [*ON[:3], "diverged"]}
    mirrored(out, uri, "diverged", crossed, data_hash="e")
    mirrored(out, uri, "broken", {**USUAL, "sam_on": [*ON[:3], "failed"]}, data_hash="f")
    mirrored(out, uri, "open", USUAL, data_hash="g", judged=False)
    unpaired = "arms.sam_on={variant: sam, perturb: norm, seed_offset: 7}"
    mirrored(out, uri, "unpaired", USUAL, unpaired, data_hash="h")
    alike = unpaired.replace("arms.sam_on", "arms.sam_all").replace("perturb: norm", "perturb: all")
    mirrored(out, uri, "alike", USUAL, unpaired, alike, data_hash="m")
    evaluations = "workload.budget={match: gradient_evaluations, of: sam_all}"
    mirrored(out, uri, "evaluations", USUAL, evaluations, data_hash="i")
    mirrored(out, uri, "constant", {**USUAL, "sam_on": [x + 1 for x in ALL]}, data_hash="j")
    mirrored(out, uri, "longer", USUAL, data_hash="k", later=(0.1, moved(1, 2)))
    mirrored(out, uri, "changed", USUAL, data_hash="l", later=(0.7, moved(2)))
    return uri


@pytest.fixture(scope="module")
def compared(store: str) -> Any:
    client = tracking.open_store(store)
    known: dict[str, Study] = {}

    def over(*names: str, effect: str = "sam_on-sam_all") -> Compared:
        for name in names:
            if name not in known:
                known[name] = studies.read(client, name)
        return across.compare([known[name] for name in names], effect)

    return over


def command(store: str, out: Path, *words: str) -> int:
    return compare.main([*words, "--tracking-uri", store, "--out", str(out)])


def test_a_study_is_read_as_it_was_run(store: str) -> None:
    study = studies.read(tracking.open_store(store), "diverged")
    assert (study.data_hash, study.judged, study.extended, study.earlier) == ("e", True, False, 0)
    runs = study.of_arm("sam_on")
    assert [run.accuracy for run in runs] == [*ON[:3], CHANCE]
    assert [run.diverged for run in runs] == [False, False, False, True]
    assert [(run.index, run.seed) for run in runs] == [(i, 100_000 + i) for i in range(4)]
    assert {run.method for run in runs} == {"sam/norm"}
    assert runs[0].params["perturbed_share"] == "0.5"


def test_an_effect_is_the_mean_of_paired_differences_with_its_t_interval(compared: Any) -> None:
    [plain] = compared("plain").measured
    half = float(t.ppf(0.975, 3)) * statistics.stdev(DIFFERENCES) / 2
    assert plain.estimate.mean == pytest.approx(2.5)
    assert (plain.low, plain.high) == pytest.approx((2.5 - half, 2.5 + half))
    assert (plain.n, plain.paired, plain.diverged, plain.barrier) == (4, True, 0, "")


def test_the_effect_is_that_of_the_verdict(store: str, compared: Any) -> None:
    """What the mirror wrote to the parent run, from the study's own arithmetic."""
    client = tracking.open_store(store)
    for name in ("plain", "diverged", "unpaired", "other-data"):
        experiment = client.get_experiment_by_name(name)
        [parent] = client.search_runs([experiment.experiment_id], "tags.stage = 'study'")
        [each] = compared(name).measured
        told = parent.data.metrics["difference.sam_on_vs_sam_all"]
        assert each.estimate.mean == pytest.approx(told)


def test_large_studies_are_read_page_by_page(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = studies.read(tracking.open_store(store), "longer")
    monkeypatch.setattr(studies, "_PAGE", 5)
    paged = studies.read(tracking.open_store(store), "longer")
    assert len(paged.runs) == 12
    assert set(map(repr, paged.runs)) == set(map(repr, whole.runs))


def test_studies_on_the_same_data_and_seeds_are_one_group(compared: Any) -> None:
    over = compared("plain", "other-data", "other_seeds", "third-data", "twin")
    groups = [[each.study for each in group] for group in over.groups]
    assert groups == [["plain", "twin"], ["other-data"], ["other_seeds"], ["third-data"]]
    assert over.pooled.k == 4
    assert any(note.startswith("plain, twin: share data set and seeds") for note in over.notes)


def test_a_study_between_two_others_makes_them_one_group(compared: Any) -> None:
    a, b = compared("plain", "other_seeds").measured
    between = replace(a, study="between", seeds=frozenset({*a.seeds, *b.seeds}))
    names = [[e.study for e in group] for group in across.grouped([a, b, between])]
    assert names == [["plain", "other_seeds", "between"]]
    elsewhere = replace(between, data_hash="b")
    assert len(across.grouped([a, b, elsewhere])) == 3


def test_a_group_counts_once_with_its_largest_error(compared: Any) -> None:
    alone = compared("plain", "other-data", "third-data").pooled
    doubled = compared("plain", "other-data", "third-data", "twin").pooled
    assert (alone.k, doubled.k) == (3, 3)
    assert alone.mean < doubled.mean < alone.mean + 0.5


def test_two_groups_are_not_pooled(compared: Any) -> None:
    over = compared("plain", "twin", "other-data")
    assert over.pooled is None
    assert over.refusal == "2 independent groups of studies can be used, 3 are needed"


@pytest.mark.parametrize(
    ("name", "n", "barrier"),
    [
        ("broken", 3, "it is incomplete: runs of one of the arms are missing"),
        ("open", 4, "it has no verdict yet"),
        ("constant", 4, "its differences are all equal, so it has no standard error to be "
         "weighed by"),
    ],
)  # fmt: skip
def test_what_cannot_be_pooled_is_drawn_and_says_why(
    compared: Any, name: str, n: int, barrier: str
) -> None:
    over = compared("plain", "other-data", "third-data", name)
    each = over.measured[-1]
    assert (each.n, each.barrier) == (n, barrier)
    assert each.estimate is not None
    assert over.pooled.k == 3
    assert f"{name}: not pooled, {barrier}." in over.notes


def test_budgets_matched_differently_are_not_pooled(compared: Any) -> None:
    over = compared("plain", "other-data", "third-data", "evaluations")
    assert over.pooled is None
    assert over.refusal == (
        "budgets are matched differently, which asks different questions: plain, other-data, "
        "third-data in epochs; evaluations in gradient evaluations"
    )


def test_a_run_that_diverged_counts_with_chance_accuracy_and_is_told(compared: Any) -> None:
    over = compared("diverged")
    [each] = over.measured
    assert each.estimate.mean == pytest.approx((3 + 3.5 + 0.5 + CHANCE - ALL[3]) / 4)
    half = float(t.ppf(0.975, 2)) * statistics.stdev(DIFFERENCES[:3]) / 3**0.5
    without = f"+2.33 [−{half - 7 / 3:.2f}, +{half + 7 / 3:.2f}], n = 3"
    assert over.notes == (
        "diverged: a run diverged; chance accuracy counts for it. Without: the difference is "
        f"{without}.",
    )


@pytest.mark.parametrize("name", ["unpaired", "alike"])  # one arm with a seed_offset, or both
def test_arms_with_seeds_of_their_own_are_unpaired(compared: Any, name: str) -> None:
    over = compared(name)
    [each] = over.measured
    variance = (statistics.variance(ON) + statistics.variance(ALL)) / 4
    assert not each.paired
    assert each.estimate.error == pytest.approx(variance**0.5)
    assert f"{name}: unpaired, an arm has seeds of its own (Welch's t)." in over.notes


def test_seeds_of_an_extension_are_read_and_told(compared: Any) -> None:
    over = compared("longer")
    assert over.measured[0].n == 6
    assert any("was extended after looking" in note for note in over.notes)


def test_a_configuration_chosen_after_looking_is_left_out(compared: Any) -> None:
    over = compared("changed")
    assert over.measured[0].n == 4
    assert over.measured[0].estimate.mean == pytest.approx(2.5)
    assert any("only the planned confirm runs" in note for note in over.notes)


def test_an_arm_is_found_by_name_or_by_method(compared: Any) -> None:
    over = compared("plain", "renamed", effect="sam/norm-sam/all")
    assert [(e.arm, e.against) for e in over.measured] == [
        ("sam_on", "sam_all"), ("norms", "everything"),
    ]  # fmt: skip
    mixed = compared("plain", effect="sam_on-none/none").measured[0]
    assert (mixed.arm, mixed.against) == ("sam_on", "sgd")


def test_noise_seeds_and_conditions_are_told(compared: Any) -> None:
    over = compared("plain", "twin", "other-data")
    assert "The number of seeds differs: plain 4, twin 4, other-data 3." in " ".join(over.notes)
    assert "Label noise differs: plain 0, twin 0.4, other-data 0." in over.notes
    twin = over.measured[1].conditions
    assert (twin["norm"], twin["label_noise"], twin["method"]) == (
        "gn",
        "0.4",
        "sam/norm − sam/all",
    )


def wrong(compared: Any, effect: str, name: str = "plain") -> str:
    with pytest.raises(SpecError) as caught:
        compared(name, effect=effect)
    return str(caught.value)


def test_wrong_effects_are_told_in_a_line(compared: Any) -> None:
    have = "it has sam_all (sam/all), sam_on (sam/norm), sgd (none/none)"
    assert wrong(compared, "sam_no-sam_all") == (
        f"--effect sam_no-sam_all: plain has no arm 'sam_no'; {have}; did you mean 'sam_on'?"
    )
    assert wrong(compared, "sam/norm-sam/al") == (
        f"--effect sam/norm-sam/al: plain has no arm 'sam/al'; {have}; did you mean 'sam/all'?"
    )
    assert wrong(compared, "sam_on-sam/norm") == (
        "--effect sam_on-sam/norm: plain has one arm for both, sam_on"
    )
    assert wrong(compared, "sam_on").startswith("--effect 'sam_on': must be ARM-ARM")
    assert wrong(compared, "sam_on-").startswith("--effect 'sam_on-': must be ARM-ARM")


def test_a_study_with_too_few_pairs_has_a_row_without_an_interval(
    compared: Any, tmp_path: Path
) -> None:
    runs = tuple(
        Run(arm, "sam", arm, 50, 0, 90.0, diverged=False, params={}) for arm in ("all", "norm")
    )
    short = Study("short", "z", judged=True, extended=False, earlier=0, runs=runs)
    over = across.compare([short], "norm-all")
    [each] = over.measured
    assert (each.n, each.estimate) == (1, None)
    assert each.barrier == "fewer than two pairs of runs have test accuracies"
    compare.write(tmp_path, over)
    [row] = csv.DictReader((tmp_path / "forest.csv").open())
    assert (row["difference"], row["low"], row["n"]) == ("", "", "1")
    assert ">n = 1<" in (tmp_path / "forest.svg").read_text()


def test_a_diverged_run_does_not_stretch_the_axis_but_its_interval_is_told(compared: Any) -> None:
    over = compared("plain", "diverged", "other-data")
    [low] = [each.low for each in over.measured if each.study == "diverged"]
    assert low < -80
    with style.styled("forest"):
        left, right = forest.plot(over).figure.axes[0].get_xlim()
    others = [each for each in over.measured if each.study != "diverged"]
    assert left < min(each.low for each in others)
    assert max(each.high for each in others) < right < left + 20
    drawn = forest.draw(over)
    assert f"[{low:+.2f}".replace("-", "\N{MINUS SIGN}") in drawn.svg
    assert "beyond the axis" in drawn.caption
    assert "beyond the axis" not in forest.draw(compared("plain", "twin")).caption


def test_two_arms_of_one_method_have_to_be_named() -> None:
    study = Study("s", "a", judged=True, extended=False, earlier=0, runs=())
    runs = tuple(
        Run(arm, "sam", "norm", 50 + i, i, 90.0 + i, diverged=False, params={})
        for arm in ("a-b", "b", "c")
        for i in range(2)
    )
    with pytest.raises(SpecError, match=r"has several arms that are sam/norm: a-b, b, c; name one"):
        across.compare([replace(study, runs=runs)], "a-b-sam/norm")
    # a '-' in a name is no obstacle
    assert across.compare([replace(study, runs=runs)], "a-b-c").measured[0].arm == "a-b"


def test_the_command_writes_its_three_files(
    store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("plain", "twin", "other-data", "third-data")
    assert command(store, tmp_path / "out", *names) == 0
    out = capsys.readouterr().out
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "compare.html", "forest.svg", "forest.csv",
    }  # fmt: skip
    rows = list(csv.DictReader((tmp_path / "out/forest.csv").open()))
    assert [row["study"] for row in rows] == [*names, "mean over groups"]
    assert float(rows[0]["difference"]) == pytest.approx(2.5)
    assert [row["group"] for row in rows] == ["1", "1", "2", "3", ""]
    assert rows[-1]["n"] == "3"
    page = Page((tmp_path / "out/compare.html").read_text(encoding="utf-8"))
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    assert all(link.startswith("#") for link in page.links)
    told = "Over 3 independent groups of studies the mean of sam_on − sam_all is +"
    assert told in page.words
    assert told in out
    assert "described, not tested" in page.words
    svg = (tmp_path / "out/forest.svg").read_text()
    for text in (*names, "n = 4", "k = 3", "+2.50 [", "percentage points"):
        assert text in svg


def test_the_same_studies_give_the_same_bytes(store: str, tmp_path: Path) -> None:
    for out in ("a", "b"):
        assert command(store, tmp_path / out, "plain", "unpaired", "broken") == 0
    for name in ("compare.html", "forest.svg", "forest.csv"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def told(store: str, out: Path, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert command(store, out, *words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert not out.exists()
    return captured.err.strip()


def test_wrong_input_is_one_line_and_writes_nothing(
    store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert told(store, out, capsys, "plain", "plian") == (
        "MLflow has no study 'plian'; did you mean 'plain'?"
    )
    assert told(store, out, capsys, "../x") == "'../x' is not the name of a study"
    assert told(store, out, capsys, "plain", "plain") == "plain is named twice"
    assert told(store, out, capsys, "Default") == (
        "Default: the experiment of that name in MLflow holds no study"
    )
    assert "did you mean 'sam_on'?" in told(store, out, capsys, "plain", "--effect", "sam_n-sgd")


def test_a_store_that_is_not_there_is_not_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "none.db"
    assert told(f"sqlite:///{path}", tmp_path / "out", capsys, "plain") == (
        f"--tracking-uri: {path} is not there, so it holds no studies"
    )
    assert not path.exists()


def test_a_server_that_does_not_answer_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, but nobody listens
        server = f"http://127.0.0.1:{taken.getsockname()[1]}"
        line = told(server, tmp_path / "out", capsys, "plain")
    assert line.startswith(f"--tracking-uri: MLflow at {server}: ")
    assert "Connection refused" in line


def test_a_damaged_store_is_told(
    store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mlflow.db"
    shutil.copy(store.removeprefix("sqlite:///"), path)
    whole = path.read_bytes()
    path.write_bytes(whole[:100] + bytes(len(whole) - 100))
    line = told(f"sqlite:///{path}", tmp_path / "out", capsys, "plain")
    assert line == f"--tracking-uri: MLflow at sqlite:///{path}: database disk image is malformed"


def test_the_command_as_it_is_typed(store: str, tmp_path: Path) -> None:
    ended = run(tmp_path, spec="plain", arguments=["unpaired"], module="study.compare")
    assert (ended.code, ended.out) == (2, "")
    assert (
        ended.err
        == f"--tracking-uri: {tmp_path / 'mlflow.db'} is not there, so it holds no studies\n"
    )
    words = ["unpaired", "--tracking-uri", store]
    ended = run(tmp_path, spec="plain", arguments=words, module="study.compare")
    assert (ended.code, ended.err) == (0, "")
    assert ended.lines[-2:] == [
        "Not pooled: 2 independent groups of studies can be used, 3 are needed.",
        "comparison: comparison/compare.html",
    ]
    assert (tmp_path / "comparison/compare.html").is_file()


def test_a_folder_that_cannot_be_written_is_told(
    store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert command(store, tmp_path / "file", "plain") == 2
    assert capsys.readouterr().err.startswith(f"--out {tmp_path / 'file'}: ")


def test_the_latest_of_several_studies_of_a_name_is_read(uri: str, tmp_path: Path) -> None:
    mirrored(tmp_path / "old", uri, "again", USUAL)
    mirrored(tmp_path / "new", uri, "again", moved(1), time=1_700_100_000.0)
    study = studies.read(tracking.open_store(uri), "again")
    assert study.earlier == 1
    assert [run.accuracy for run in study.of_arm("sam_on")] == [x + 1 for x in ON]
    over = across.compare([study], "sam_on-sam_all")
    assert "again: the latest of 2 studies of that name is read." in over.notes


def test_names_that_somebody_else_chose_are_inert(
    uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    client = tracking.open_store(uri)
    experiment = client.create_experiment("evil")
    parent = client.create_run(experiment, tags={"stage": "study", "data_hash": HOSTILE})
    client.set_tag(parent.info.run_id, "verdict", HOSTILE)
    for arm, perturb in ((HOSTILE, "norm"), (f"\x1b[31m$x$ {HOSTILE}", "all")):
        for i in range(3):
            tags = {
                "stage": "confirm", "arm": arm, "variant": "sam", "perturb": perturb,
                "seed": str(i), "trial": f"evil/x/confirm/{i}",
                "mlflow.parentRunId": parent.info.run_id,
            }  # fmt: skip
            made = client.create_run(experiment, tags=tags)
            client.log_param(made.info.run_id, "norm", HOSTILE)
            client.log_metric(made.info.run_id, "test_accuracy", 90 + i * (1 + len(perturb)))
    stray = {"stage": "confirm", "mlflow.parentRunId": parent.info.run_id, "seed": "x"}
    client.create_run(experiment, tags=stray)
    assert command(uri, tmp_path / "out", "evil", "--effect", "sam/norm-sam/all") == 0
    assert "\x1b" not in capsys.readouterr().out
    page = Page((tmp_path / "out/compare.html").read_text(encoding="utf-8"))
    assert not {"script", "link", "img"} & set(page.tags)
    assert HOSTILE[:20] in page.words
    picture = Page((tmp_path / "out/forest.svg").read_text(encoding="utf-8"))
    assert not {"script", "img"} & set(picture.tags)
