"""The ground of a harness: places where the study under fire runs, and the one without faults."""

from __future__ import annotations

import json
import random
import shutil
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from tests.faults import checks
from tests.faults.checks import Line, Seen
from tests.study.command import Command, Ended, journal_lines, run, running

FILES = Path(__file__).with_name("fire")
SPEC = "fire.yaml"
STUDY = "fire"
EXACT = ("verdict.json", "trials.csv")
PATIENCE = 400.0
"""Seconds after which a command hangs; it takes a tenth of that on two idle cores."""
_SHORT = ("workload.epochs=2",)


@dataclass(frozen=True)
class Place:
    """A folder with the study under fire. out: where its records go. ledger: URL of a database,
    None for the file."""

    folder: Path
    out: Path
    settings: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()
    ledger: str | None = None
    tracking: str | None = None

    @property
    def home(self) -> Path:
        """The study's folder."""
        return self.out / STUDY

    @property
    def uri(self) -> str:
        """Of its tracking store."""
        return self.tracking or f"sqlite:///{self.folder}/mlflow.db"

    def lines(self) -> tuple[Line, ...]:
        """Lines of its journal."""
        return tuple(journal_lines(self.home))

    @property
    def words(self) -> list[str]:
        """Arguments of the command behind the spec."""
        words = ["--out", str(self.out), "--tracking-uri", self.uri, *self.arguments]
        return words if self.ledger is None else [*words, "--ledger", self.ledger]

    @contextmanager
    def command(self) -> Iterator[Command]:
        """The command under way."""
        with running(self.folder, self.settings, SPEC, self.words) as command:
            yield command

    def run(self) -> Ended:
        """The command to its end. Raises TimeoutExpired where it hangs."""
        with self.command() as command:
            return command.ended(PATIENCE)

    def ends(self) -> int:
        """How many trials have ended."""
        return len(journal_lines(self.home, kind="end"))

    def behave(self, *behaviours: Mapping[str, object]) -> None:
        """Tells the network what goes wrong; nothing without arguments."""
        (self.folder / "behaviour.json").write_text(json.dumps(behaviours))

    def begun(self) -> bool:
        """Whether a trial has started."""
        return bool(journal_lines(self.home, kind="start"))

    def sync(self) -> Ended:
        """Brings MLflow up to the journal."""
        words = ("--out", str(self.out), "--tracking-uri", self.uri)
        return run(self.folder, spec=STUDY, arguments=words, module="study.sync")

    def seen(self) -> Seen:
        """What the study left behind, once its command has ended."""
        exact = {name: self.home / name for name in EXACT}
        steps = self.folder / "steps"
        return Seen(
            self.lines(),
            self._ledger(),
            {name: path.read_bytes() for name, path in exact.items() if path.exists()},
            steps.stat().st_size if steps.exists() else 0,
        )

    def mirror_problems(self) -> list[str]:
        """Where MLflow differs from the journal: missing, twice, RUNNING, another number."""
        from study.tracking import open_store
        from tests.study.mirror_check import assert_equals_journal

        try:
            assert_equals_journal(open_store(self.uri), self.home / "journal.jsonl")
        except AssertionError as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            return [f"MLflow is not the journal: {where.line} {error}"]
        return []

    def _ledger(self) -> dict[str, dict[str, int]]:
        # read here without the program's own code, which would mend what it opens
        import optuna
        from optuna.storages import BaseStorage, JournalStorage, RDBStorage
        from optuna.storages.journal import JournalFileBackend

        storage: BaseStorage
        if self.ledger is not None:
            storage = RDBStorage(self.ledger)
        elif (self.home / "ledger.log").exists():
            storage = JournalStorage(JournalFileBackend(str(self.home / "ledger.log")))
        else:
            return {}
        return {
            study.study_name: dict(
                Counter(trial.state.name for trial in storage.get_all_trials(study._study_id))
            )
            for study in optuna.get_all_study_summaries(storage)
            if study.study_name.startswith(f"{STUDY}/")
        }


@dataclass(frozen=True)
class Calm:
    """The study without a fault. starting: seconds until its first trial started; seconds: all."""

    place: Place
    seen: Seen
    starting: float
    seconds: float


@dataclass(frozen=True)
class Ground:
    """Where faults are injected. short: few rounds. say: told how it goes."""

    folder: Path
    seed: int
    short: bool
    say: Callable[[str], None]
    _places: Counter[str] = field(default_factory=Counter)

    def randomness(self, fault: str) -> random.Random:
        """A generator of a fault's own, so that one alone draws what it draws among all."""
        return random.Random(f"{self.seed}/{fault}")

    def rounds(self, whole: int, short: int = 1) -> int:
        """How often to inject a fault."""
        return short if self.short else whole

    def count(self, what: str) -> int:
        """A number for a new folder of this name."""
        self._places[what] += 1
        return self._places[what]

    def place(
        self,
        fault: str,
        settings: tuple[str, ...] = (),
        arguments: tuple[str, ...] = (),
        ledger: str | None = None,
        tracking: str | None = None,
        out: Path | None = None,
    ) -> Place:
        """A new place with nothing but spec and network."""
        folder = self.folder / f"{fault.replace(' ', '_')}-{self.count(fault)}"
        shutil.copytree(FILES, folder, ignore=shutil.ignore_patterns("__pycache__"))
        settings = (*(_SHORT if self.short else ()), *settings)
        return Place(folder, out or folder / "studies", settings, arguments, ledger, tracking)

    def copy_of_calm(self, fault: str) -> Place:
        """A place where the study is done."""
        place = self.place(fault)
        shutil.copytree(self.calm.place.out, place.out)
        return place

    @cached_property
    def calm(self) -> Calm:
        """The study without a fault, run once."""
        place = self.place("calm")
        begun = time.monotonic()
        with place.command() as command:
            command.wait_for(place.begun)
            starting = time.monotonic() - begun
            ended = command.ended(PATIENCE)
        seconds, seen = time.monotonic() - begun, place.seen()
        problems = [*checks.ended_with(ended, 0), *checks.each_once(seen)]
        problems += place.mirror_problems()
        assert not problems, problems
        assert len(seen.of("end")) == checks.TRIALS
        self.say(f"without a fault: {seconds:.0f} s, the first trial after {starting:.0f} s")
        return Calm(place, seen, starting, seconds)
