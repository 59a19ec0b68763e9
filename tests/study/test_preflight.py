"""What must hold before the first trial."""

from __future__ import annotations

from pathlib import Path

import pytest

from study import preflight, provenance
from study.home import Home
from study.yamlfile import SpecError
from tests.study.synthetic import make_spec

FACTS = {"hash": "feed", "classes": ["a", "b"], "undecodable": []}


def test_a_tracking_store_is_that_of_the_flag_the_environment_or_this_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert preflight.tracking_store(None) == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://localhost:5000")
    assert preflight.tracking_store(None) == "http://localhost:5000"
    assert preflight.tracking_store("sqlite:///a.db") == f"sqlite:///{tmp_path}/a.db"
    with pytest.raises(SpecError, match=r"--tracking-uri: .*unknown kind of store"):
        preflight.tracking_store("htp://localhost")


def test_a_password_is_not_shown() -> None:
    assert "secret" not in preflight.how_to_look("postgresql://me:secret@host/db")
    assert preflight.how_to_look("http://host:5000") == "http://host:5000"


def test_a_folder_below_a_file_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SpecError, match="choose another folder with --out"):
        preflight.writable(Home(tmp_path / "file", "tiny"))
    preflight.writable(Home(tmp_path / "new" / "deep", "tiny"))
    assert not (tmp_path / "new").exists()


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
    with home.claimed(), pytest.raises(SpecError, match="another process runs this study"):
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
