"""What must hold before the first trial."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from study import preflight, provenance
from study.home import Home
from study.tracking_state import State, write_state
from study.tracking_uri import masked
from study.yamlfile import SpecError
from tests.study.synthetic import make_spec

FACTS = {"hash": "feed", "classes": ["a", "b"], "undecodable": []}


def test_a_tracking_store_is_that_of_the_flag_the_environment_or_this_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert preflight.tracking_store(None, tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://localhost:5000")
    assert preflight.tracking_store(None, tmp_path) == "http://localhost:5000"
    assert preflight.tracking_store("sqlite:///a.db", tmp_path) == f"sqlite:///{tmp_path}/a.db"
    with pytest.raises(SpecError, match=r"--tracking-uri: .*unknown kind of store"):
        preflight.tracking_store("htp://localhost", tmp_path)


def test_the_way_to_mlflow_leads_to_the_study_and_shows_no_password(tmp_path: Path) -> None:
    home = Home(tmp_path, "s")
    home.folder.mkdir()
    view = "workflowType=machine_learning&viewStateShareKey=confirm&compareRunsMode=CHART"
    for uri, shown, place in (
        ("http://host:5000", "http://host:5000", "http://host:5000"),
        ("https://me:secret@host/base/", "https://***@host/base/", "https://host/base"),
        (
            "postgresql://me:secret@host/db",
            "mlflow ui --backend-store-uri postgresql://***@host/db",
            "http://127.0.0.1:5000",
        ),
    ):
        there = f"to compare studies: {shown}"
        assert list(preflight.how_to_look(uri, home)) == [there]
        write_state(home.folder, State(masked(uri), "7", 0))
        link = f"this study there: {place}/#/experiments/7/runs?{view}"
        assert list(preflight.how_to_look(uri, home)) == [there, link]
        assert list(preflight.how_to_look("http://other", home)) == [
            "to compare studies: http://other"
        ]


def test_a_folder_below_a_file_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SpecError, match="choose another folder with --out"):
        preflight.writable(Home(tmp_path / "file", "tiny"))
    preflight.writable(Home(tmp_path / "new" / "deep", "tiny"))
    assert not (tmp_path / "new").exists()


def test_a_full_disk_is_told_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Home(tmp_path / "new" / "deep", "tiny")
    preflight.room(home)
    asked: list[Path] = []

    def usage(path: Path) -> SimpleNamespace:
        asked.append(path)
        return SimpleNamespace(free=99_999_999)

    monkeypatch.setattr("shutil.disk_usage", usage)
    with pytest.raises(SpecError, match="only 99 MB are free there, a study needs 100 MB"):
        preflight.room(home)
    assert asked == [tmp_path]
    assert list(tmp_path.iterdir()) == []


def test_gpus_that_nobody_will_use_are_one_line() -> None:
    told: list[str] = []
    idle, used = make_spec().resources, make_spec("resources.gpu=0.5").resources
    preflight.note_idle_gpus(idle, {"CPU": 8.0}, told.append)
    preflight.note_idle_gpus(used, {"CPU": 8.0, "GPU": 2.0}, told.append)
    assert told == []
    preflight.note_idle_gpus(idle, {"CPU": 8.0, "GPU": 2.0}, told.append)
    [line] = told
    assert line.startswith("resources.gpu is 0: the 2 GPU of this cluster will not be used")


def test_a_study_does_not_go_on_with_other_images(tmp_path: Path) -> None:
    spec, home = make_spec(), Home(tmp_path, "tiny")
    with home.claimed(), preflight.opened(home, spec, FACTS):
        pass
    with home.claimed(), preflight.opened(home, spec, FACTS):
        pass
    assert home.begun()[1].notes == ()
    with (
        pytest.raises(SpecError, match="no longer those that the study began with"),
        home.claimed(),
        preflight.opened(home, spec, {**FACTS, "hash": "dead"}),
    ):
        pass


def test_other_versions_and_files_left_out_are_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, home = make_spec(), Home(tmp_path, "tiny")
    facts = {**FACTS, "undecodable": [f"train/a/{i}.jpg" for i in range(12)]}
    with home.claimed(), preflight.opened(home, spec, facts):
        pass
    monkeypatch.setattr(provenance, "versions", lambda: {"torch": "99"})
    with home.claimed(), preflight.opened(home, spec, facts):
        pass
    left_out, other = home.begun()[1].notes
    assert left_out.startswith("12 training files cannot be decoded and were left out: train/a/0.")
    assert left_out.endswith(", ...")
    assert "-> 99" in other


def test_a_study_is_one_process_at_a_time(tmp_path: Path) -> None:
    home = Home(tmp_path, "tiny")
    home.check_free()
    with home.claimed(), pytest.raises(SpecError, match="runs this study; wait for it"):
        home.check_free()
    home.check_free()


def test_a_study_that_has_not_begun_is_not_found(tmp_path: Path) -> None:
    with (
        Home(tmp_path, "tiny").claimed(),
        preflight.opened(Home(tmp_path, "tiny"), make_spec(), FACTS),
    ):
        pass
    with pytest.raises(SpecError, match=r"holds no study 'tini'; .* did you mean 'tiny'?"):
        Home(tmp_path, "tini").begun()
