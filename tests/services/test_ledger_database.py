"""A ledger in PostgreSQL: the same study as with the file, and one line where it cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest
from optuna.storages import InMemoryStorage

from study import preflight, run
from study.home import Home
from study.journal import RecordError
from study.ledger import Ledger
from study.ledger_store import open_url, reserved
from study.patience import ALONE
from study.resolve import load
from study.simulate import Answer, Simulation
from study.spec import Spec
from study.tracking_uri import masked
from study.yamlfile import SpecError
from tests.services.postgres import Postgres, free_port
from tests.study.command import SPEC
from tests.study.synthetic import hill, make_spec
from tests.study.test_preflight import FACTS

FOLDER = "norm_vs_all"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("PGPASSWORD", raising=False)
    return tmp_path


def simulation(spec: Spec, storage: object) -> Simulation:
    def objective(trial: object) -> Answer:
        score = hill(trial)  # type: ignore[arg-type]
        return Answer({"validation_accuracy": score, "test_accuracy": score, "test_loss": 0.1})

    return Simulation(spec, objective, storage=storage)  # type: ignore[arg-type]


def refused(capsys: pytest.CaptureFixture[str], url: str) -> str:
    """What the command says when it refuses a ledger."""
    assert run.main([str(SPEC), "--ledger", url]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    [line] = told.err.splitlines()
    assert "sesame" not in line
    assert list(Path.cwd().iterdir()) == []
    return line


def test_a_study_on_it_is_the_same_after_a_crash_and_beside_another(url: str) -> None:
    quick = ("tune.trials_per_arm=2", "confirm.seeds=2")
    specs = [make_spec(*quick), make_spec(*quick, "study=tiny_2", "tune.seed=5")]
    halves = [simulation(spec, open_url(url)) for spec in specs]
    for half in halves:
        half.run(trials=3)
    for spec, half in zip(specs, halves, strict=True):
        half.storage = open_url(url)
        plain = simulation(spec, InMemoryStorage())
        scores = {r.trial.name: (r.trial, r.end.scores) for r in plain.run()}
        assert {r.trial.name: (r.trial, r.end.scores) for r in half.run()} == scores
        assert len(half.results) == len(scores) == 12


def test_a_password_may_hold_anything(server: Postgres, url: str) -> None:
    server.execute("CREATE ROLE odd LOGIN PASSWORD '{a}%b@c'")
    name = server.database()
    server.execute(f"ALTER DATABASE {name} OWNER TO odd")
    storage = open_url(server.url(name, "%7Ba%7D%25b%40c", "odd"))
    assert storage.get_all_studies() == []
    assert open_url(server.url(name, "{a}%25b%40c", "odd")).get_all_studies() == []


@pytest.mark.usefixtures("here")
def test_what_is_not_there_or_not_open_is_told_in_one_line(
    server: Postgres, url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = url.rpartition("/")[2]
    assert "password authentication failed" in refused(capsys, server.url(name, "open-sesame"))
    assert "no password supplied" in refused(capsys, url.replace(":open%2Fsesame%407", ""))
    monkeypatch.setenv("PGPASSWORD", "sesame")
    assert "authentication failed" in refused(capsys, url.replace(":open%2Fsesame%407", ""))
    assert f'database "{name}x" does not exist' in refused(capsys, f"{url}x")
    closed = refused(capsys, url.replace(str(server.port), str(free_port())))
    assert closed.startswith("--ledger postgresql://***@127.0.0.1:")
    assert "Connection refused" in closed


@pytest.mark.usefixtures("here")
def test_a_database_that_cannot_hold_it_is_refused_and_left_alone(
    server: Postgres, capsys: pytest.CaptureFixture[str]
) -> None:
    server.execute("CREATE ROLE reader LOGIN PASSWORD 'sesame'")
    told = refused(capsys, server.url(server.database(), "sesame", "reader"))
    assert told.endswith("its user may not make tables there; GRANT it CREATE")
    other = server.database()
    server.execute("CREATE TABLE alembic_version (version_num text)", other)
    assert "give the ledger one of its own" in refused(capsys, server.url(other))


@pytest.mark.usefixtures("here")
def test_a_name_that_is_taken_there_is_refused(
    url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    simulation(make_spec("study=norm_vs_al"), open_url(url)).run(1)
    simulation(make_spec("study=norm-vs-all"), open_url(url)).run(1)
    home = Home(Path.cwd() / "studies", FOLDER)
    with reserved(home, None, url):
        assert "another process runs a study 'norm_vs_all'" in refused(capsys, url)
    simulation(make_spec("study=norm_vs_all"), open_url(url)).run(1)
    assert f"holds a study 'norm_vs_all' already, which is not the one of {home.folder}" in refused(
        capsys, url
    )


@pytest.fixture
def begun(here: Path, url: str) -> Home:
    """A study that began with a ledger in the database."""
    home = Home(here / "studies", FOLDER)
    with (
        reserved(home, None, url) as store,
        home.claimed(),
        preflight.opened(home, load(SPEC), FACTS, store.recorded),
    ):
        Ledger(store.open(ALONE), load(SPEC)).open_stage("search", [], [])
    return home


def test_a_study_goes_on_with_the_ledger_that_it_began_with(
    begun: Home, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path.name: path.read_bytes() for path in begun.folder.iterdir()}
    for arguments in ([], ["--ledger", f"{url}x"]):
        assert run.main([str(SPEC), *arguments]) == 2
        [line] = capsys.readouterr().err.splitlines()
        assert f"began with the ledger {masked(url)}; name it again with --ledger" in line
    assert {path.name: path.read_bytes() for path in begun.folder.iterdir()} == before
    assert not any(b"sesame" in text for text in before.values())
    with reserved(begun, begun.contents(), url) as store:
        assert len(store.open(ALONE).get_all_studies()) == 4


def test_a_database_that_fails_in_the_middle_is_told_in_one_line(
    server: Postgres, url: str, tmp_path: Path
) -> None:
    name = url.rpartition("/")[2]

    def run_into_it() -> None:
        with reserved(Home(tmp_path, "tiny"), None, url) as store:
            storage = store.open(ALONE)
            server.execute(f"DROP DATABASE {name} WITH (FORCE)")
            simulation(make_spec(), storage).run()

    with pytest.raises(RecordError) as caught:
        run_into_it()
    said = str(caught.value)
    assert said.startswith(f"the ledger {masked(url)} cannot be written: ")
    assert said.endswith(f'database "{name}" does not exist')
    assert "\n" not in said


def test_other_errors_stay_what_they_are(url: str, tmp_path: Path) -> None:
    home = Home(tmp_path, "tiny")
    with pytest.raises(SpecError, match=r"^x$"), reserved(home, None, url):
        raise SpecError("x")
    with pytest.raises(RecordError, match=r"^disk full$"), reserved(home, None, url):
        raise RecordError("disk full") from OSError()
    with reserved(home, None, url):
        pass
