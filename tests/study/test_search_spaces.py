"""The studies that come along: each can be planned, and its head says how it is run."""

from __future__ import annotations

from pathlib import Path

import pytest

from study import smoke
from study.resolve import load
from study.yamlfile import read
from tests.study.command import ROOT
from trainables import catalog

FOLDER = ROOT / "search_spaces"
FILES = sorted(FOLDER.rglob("*.yaml"))


def needs_root(path: Path) -> bool:
    name = str(read(path).data["workload"]["data"]["name"])
    return catalog.data_set(name).needs_root


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(FOLDER)))
def test_a_study_resolves_also_as_a_smoke_run_and_tells_its_command(path: Path) -> None:
    root = ["workload.data.root=here"] if needs_root(path) else []
    spec = load(path, root)
    small = smoke.smoke(spec)
    assert small.hash != spec.hash
    head = path.read_text().partition("\nstudy:")[0]
    assert all(line.startswith("#") for line in head.splitlines())
    assert f"python -m study.run {path.relative_to(ROOT)}" in head


def test_studies_have_names_of_their_own() -> None:
    names = [read(path).data["study"] for path in FILES]
    assert len(FILES) > 15
    assert len(set(names)) == len(names)


def test_published_values_are_told_with_their_source_and_stand_in_the_grid() -> None:
    figure = load(FOLDER / "paper" / "rho_figure.yaml")
    assert figure.reference is not None
    assert "teaser.png" in figure.reference.source
    for arm, points in figure.reference.curve.items():
        choices = figure.arms[arm].search["rho"].choices
        assert choices is not None
        assert {rho for rho, _ in points} <= set(choices)
