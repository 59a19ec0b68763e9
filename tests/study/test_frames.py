"""Studies as pandas frames."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

import study
from study import journal, preflight
from study.frames import frames
from study.home import Home
from study.journal import Contents, Journal
from study.verdict import decide
from study.yamlfile import SpecError
from tests.study.synthetic import hill, make_contents, make_spec
from tests.study.test_preflight import FACTS

SPEC = make_spec(
    "arms.sam_on.search={lr: {low: 0.01, high: 1.0, log: true}, batch_size: {choices: [32, 64]}}"
)
CONTENTS = make_contents(SPEC, lambda t: math.nan if t.index == 1 else hill(t), images=37)
UNFINISHED = make_contents(SPEC, upto=7)


def running(contents: Contents, name: str, epochs: int) -> Contents:
    """As it was when this trial had reported so many epochs."""
    ends = {trial: end for trial, end in contents.ends.items() if trial != name}
    return replace(
        contents,
        ends=ends,
        epochs={**contents.epochs, name: contents.epochs[name][:epochs]},
    )


def row(frame: pd.DataFrame, trial: str) -> pd.Series:
    [found] = [r for _, r in frame[frame["trial"] == trial].iterrows()]
    return found


def test_a_row_a_trial_holds_what_the_journal_says_of_it() -> None:
    trials = frames([SPEC], CONTENTS).trials
    assert list(trials.columns) == [
        "study", "trial", "arm", "variant", "perturb", "stage", "index", "seed",
        "rho", "batch_size", "lr", "status", "reason", "epochs", "validation_accuracy",
        "test_accuracy", "test_loss", "gradient_evaluations", "perturbed_share", "started",
        "ended", "seconds",
    ]  # fmt: skip
    assert set(trials["trial"]) == set(CONTENTS.trials)
    for name, trial in CONTENTS.trials.items():
        got, end = row(trials, name), CONTENTS.ends[name]
        assert (got["arm"], got["stage"], got["seed"]) == (trial.arm, trial.stage, trial.seed)
        assert (got["status"], got["reason"], got["epochs"]) == (end.status, end.reason, end.epochs)
        for key in ("rho", "lr", "batch_size"):
            value = trial.hyperparameters.get(key)
            assert pd.isna(got[key]) if value is None else got[key] == value
        for key in ("validation_accuracy", "test_accuracy", "test_loss"):
            assert got[key] == pytest.approx(end.scores.get(key, math.nan), nan_ok=True)
        assert got["started"].timestamp() == CONTENTS.started[name]
        assert got["seconds"] == 50
    assert row(trials, "tiny/sam_on/search/0")["perturbed_share"] == 0.6


def test_a_column_a_confirm_trial_holds_the_images_that_it_got_right() -> None:
    images = frames([SPEC], CONTENTS).images
    finished = [n for n, end in CONTENTS.ends.items() if end.correct is not None]
    assert list(images.columns) == finished
    assert len(finished) == 3 * 5  # of 6 seeds one diverges
    assert images.shape[0] == 37
    for name in finished:
        accuracy = CONTENTS.ends[name].scores["test_accuracy"]
        assert 100 * images[name].mean() == pytest.approx(accuracy)
    assert frames([SPEC], make_contents(SPEC)).images.empty


def test_columns_have_the_types_that_people_calculate_with() -> None:
    trials = frames([SPEC], CONTENTS).trials
    types = {key: str(dtype) for key, dtype in trials.dtypes.items()}
    for key in ("arm", "variant", "perturb", "stage", "status"):
        assert types[key] == "category"
    for key in ("index", "seed", "epochs", "batch_size"):
        assert types[key] == "Int64"
    for key in ("rho", "lr", "test_accuracy", "perturbed_share", "seconds"):
        assert types[key] == "float64"
    for key in ("started", "ended"):
        assert types[key] == "datetime64[us, UTC]"
    means = trials.groupby("arm", observed=True)["validation_accuracy"].mean()
    assert list(means.index) == list(SPEC.arms)


def test_choices_that_are_words_or_truths_keep_what_they_are() -> None:
    search = "{rho: {choices: [1, 2]}, normalize_bias: {choices: [true, false]}"
    search += ", bn_statistics: {choices: [first, both]}}"
    spec = make_spec(f"arms.sam_on={{variant: asam, perturb: norm, search: {search}}}")
    trials = frames([spec], make_contents(spec)).trials
    assert pd.api.types.is_bool_dtype(trials["normalize_bias"])
    assert set(trials["bn_statistics"].dropna()) == {"first", "both"}
    assert trials["rho"].dtype == "float64"  # sam_all's are no whole numbers


def test_a_trial_that_runs_is_there_with_what_it_did_so_far() -> None:
    name = "tiny/sam_all/search/1"
    contents = running(UNFINISHED, name, epochs=2)
    got = frames([SPEC], contents)
    one = row(got.trials, name)
    assert (one["status"], one["epochs"], one["gradient_evaluations"]) == ("running", 2, 40)
    assert one["rho"] == contents.trials[name].hyperparameters["rho"]
    for key in ("validation_accuracy", "test_accuracy", "ended", "seconds"):
        assert pd.isna(one[key])
    assert (got.trials["status"] == "running").sum() == 1
    assert list(got.epochs[got.epochs["trial"] == name]["epoch"]) == [1, 2]


def test_a_row_an_epoch_holds_every_metric() -> None:
    epochs = frames([SPEC], CONTENTS).epochs
    assert len(epochs) == sum(map(len, CONTENTS.epochs.values()))
    first = epochs[epochs["trial"] == "tiny/sam_on/confirm/2"].iloc[0]
    [reported, *_] = CONTENTS.epochs["tiny/sam_on/confirm/2"]
    assert {key: first[key] for key in reported.metrics} == dict(reported.metrics)
    assert (first["arm"], first["stage"], first["epoch"]) == ("sam_on", "confirm", 1)
    assert str(epochs["time"].dtype) == "datetime64[us, UTC]"
    diverged = epochs[epochs["trial"] == "tiny/sgd/search/1"]
    assert diverged["train_loss"].isna().all()


@pytest.mark.parametrize("contents", [CONTENTS, UNFINISHED])
def test_the_verdict_has_the_numbers_of_verdict_json(contents: Contents) -> None:
    verdict = frames([SPEC], contents).verdict
    comparisons = decide(SPEC, contents.results).plain()["comparisons"]
    assert len(verdict) == len(comparisons) == 3
    for (_, got), expected in zip(verdict.iterrows(), comparisons, strict=True):
        assert [got["low"], got["high"]] == pytest.approx(expected["interval"], nan_ok=True) or (
            expected["interval"] == [None, None] and pd.isna(got["low"]) and pd.isna(got["high"])
        )
        for key in ("arm", "against", "test", "word", "n"):
            assert got[key] == expected[key]
        for key in ("difference", "p_holm", "p_equivalence_holm", "p_sign_flip"):
            assert pd.isna(got[key]) if expected[key] is None else got[key] == expected[key]
        assert got["diverged"] == len(expected["diverged"])
    assert (verdict["word"] == "incomplete").all() == (contents is UNFINISHED)


def test_a_study_before_its_first_trial_has_empty_frames_of_the_same_columns() -> None:
    empty, full = frames([SPEC], make_contents(SPEC, upto=0)), frames([SPEC], CONTENTS)
    assert len(empty.trials) == len(empty.epochs) == 0
    assert set(full.trials.columns) - set(empty.trials.columns) == {"rho", "lr", "batch_size"}
    for key, dtype in empty.trials.dtypes.items():
        assert dtype == full.trials[key].dtype or key in ("variant", "perturb", "status")
    assert list(empty.verdict["word"]) == ["incomplete"] * 3


def test_load_reads_the_journal_of_a_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = Home(tmp_path / "studies", SPEC.study)
    with home.claimed(), preflight.opened(home, SPEC, FACTS):
        pass
    records = Journal(home.journal)
    for trial in list(UNFINISHED.trials.values())[:3]:
        records.append(journal.start_line(trial, 5.0))
        for epoch in UNFINISHED.epochs[trial.name]:
            records.append(journal.epoch_line(epoch))
        records.append(journal.end_line(UNFINISHED.ends[trial.name]))
    records.close()
    monkeypatch.chdir(tmp_path)
    loaded = study.load("tiny")
    assert list(loaded.trials["trial"]) == [f"tiny/sgd/search/{i}" for i in range(3)]
    assert loaded.epochs.equals(study.load("tiny", out=tmp_path / "studies").epochs)
    with pytest.raises(SpecError, match=r"no study 'tinny'; studies there: tiny; did you mean"):
        study.load("tinny")


def test_importing_study_imports_no_pandas() -> None:
    code = "import sys, study; sys.exit(bool({'pandas', 'numpy', 'pydantic'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
