"""The folder of a study: what lies where, and that only one process works in it."""

from __future__ import annotations

import difflib
import fcntl
import json
import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

from study import extension, journal, journal_reader, measures, stages
from study.holder import Holder, has_ended, is_here, this_process
from study.journal import Contents
from study.journal_reader import JournalError
from study.part import NAME
from study.spec import Spec
from study.yamlfile import SpecError
from trainables.catalog import nearest


class Home:
    """Paths of one study below `out`. storage: where checkpoints and weights are kept, a folder or
    a URI, None for the study's folder."""

    def __init__(self, out: Path, name: str, storage: str | None = None) -> None:
        self.out = out.expanduser().absolute()  # ~ of a head is not known where --out is typed
        self.name = name
        self.storage = storage
        self.folder = self.out / name
        self.journal = self.folder / "journal.jsonl"
        self.ledger = self.folder / "ledger.log"
        self.spec = self.folder / "spec.yaml"
        self.report = self.folder / "report.html"

    @classmethod
    def named(cls, out: Path, name: str) -> Home:
        """That of a study whose name somebody typed. Raises SpecError for what can be none."""
        if not re.fullmatch(NAME, name):
            raise SpecError(f"{name!r} is not the name of a study")
        return cls(out, name)

    @property
    def storage_uri(self) -> str:
        """Where checkpoints and weights are kept, as trainables.storage.open_storage takes it."""
        return self.storage or str(self.out)

    def contents(self) -> Contents | None:
        """What the journal holds, None where the study has not begun."""
        try:
            return journal.read(self.journal)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except JournalError as error:
            raise SpecError(f"{error}, or move the folder {self.folder} away") from None
        except OSError as error:
            raise SpecError(f"{self.journal}: cannot be read: {error.strerror}") from None

    def begun(self) -> tuple[Spec, Contents]:
        """Spec and contents of a study that has begun. Raises SpecError where it has not."""
        contents = self.contents()
        if contents is None:
            there = sorted(path.parent.name for path in self.out.glob("*/journal.jsonl"))
            names = ", ".join(there) or "none"
            raise SpecError(
                f"{self.out}: holds no study '{self.name}'; studies there: {names}"
                f"{nearest(self.name, there)}"
            )
        return Spec.model_validate(contents.header["spec"]), contents

    def rounds(self) -> tuple[list[Spec], Contents]:
        """The planned study and its extensions, and the contents. Raises SpecError as begun."""
        _, contents = self.begun()
        return _rounds(contents), contents

    def ended(self, contents: Contents | None, measure: Sequence[str] = ()) -> bool:
        """Whether all that was planned, and every extension, has ended and has its verdict, and
        what `measure` names is measured.

        contents: as of check_same. Raises SpecError where an extension is lost: what has to end is
        not known then.
        """
        if contents is None:
            return False
        rounds = _rounds(contents)
        if extension.is_lost(rounds, contents):
            raise SpecError(
                f"{self.journal}: tells of an extension whose own line is damaged; python -m "
                f"study.extend {self.name} with the --trials and --seeds that it had writes it anew"
            )
        if not (contents.complete and stages.done(rounds, contents.results)):
            return False
        return not measures.missing(measure, rounds, contents)

    def check_same(self, spec: Spec) -> Contents | None:
        """The contents so far. Raises SpecError where they are those of another spec."""
        contents = self.contents() if self._begun() else None
        if contents is None:
            if self.ledger.exists():
                raise SpecError(f"{self.folder}: holds a ledger without its journal; move it away")
            return None
        # Not by the hash in the header: a key that is new since then is filled in.
        before = Spec.model_validate(contents.header["spec"])
        if before.hashed() != spec.hashed():
            difference = "\n".join(_difference(before.hashed(), spec.hashed()))
            grown = extension.options(before, spec)
            if grown is not None:
                raise SpecError(
                    f"{self.folder}: holds a study '{spec.study}' with smaller budgets:\n"
                    f"{difference}\nOnce it has its verdict, python -m study.extend {spec.study} "
                    f"{grown} raises them; or give the new one its own name "
                    f"(--set study={spec.study}_2)."
                )
            raise SpecError(
                f"{self.folder}: holds a study '{spec.study}' of another spec:\n{difference}\n"
                f"Give the new one its own name (--set study={spec.study}_2), undo the change to "
                f"go on with the old one, or move {self.folder} away."
            )
        return contents

    def _begun(self) -> bool:
        """Whether the journal has its header."""
        try:
            return journal_reader.begun(self.journal)
        except JournalError as error:
            raise SpecError(f"{error}, or move the folder {self.folder} away") from None
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            raise SpecError(f"{self.journal}: cannot be read: {error.strerror}") from None

    def is_driven(self) -> bool:
        """Whether a process runs the study. Where its name tells, the lock is not tried: that would
        turn a process away that starts just then."""
        path = self.folder / "lock"
        try:
            fields = json.loads(path.read_bytes())
            holder = Holder(**{name: fields[name] for name in Holder.__dataclass_fields__})
        except (OSError, ValueError, TypeError, KeyError):
            return False
        if is_here(holder):
            return not has_ended(holder)
        with path.open("rb") as file:  # of another machine, or of this one before it was restarted
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return True
        return False

    def check_free(self) -> None:
        """Raises SpecError where another process works in the folder; makes nothing."""
        if (self.folder / "lock").exists():
            with self.claimed():
                pass

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Makes the folder and keeps other processes out of it.

        Raises SpecError where it cannot be written or another process works in it.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = os.open(self.folder / "lock", os.O_CREAT | os.O_RDWR, 0o644)
        except OSError as error:
            raise SpecError(f"{self.folder}: cannot be written: {error.strerror}") from None
        try:
            self._lock(lock)
            with suppress(OSError):  # a full disk is told elsewhere, and the lock holds without
                os.ftruncate(lock, 0)
                os.pwrite(lock, _signature().encode(), 0)
            try:
                yield
            finally:
                os.ftruncate(lock, 0)
        finally:
            os.close(lock)

    def _lock(self, lock: int) -> None:
        try:
            # The kernel lets go of it when the process ends, however that ends.
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SpecError(
                f"{self.folder}: another process{_told(_read(lock))} runs this study; wait for it, "
                "or stop it first"
            ) from None
        except OSError as error:
            raise SpecError(
                f"{self.folder}: its file system has no locks ({error.strerror}), so nothing would "
                "keep two processes apart; choose another folder with --out"
            ) from None


def _rounds(contents: Contents) -> list[Spec]:
    return [Spec.model_validate(each) for each in (contents.header["spec"], *contents.extensions)]


def _signature() -> str:
    """Who holds the lock, for people to read."""
    return json.dumps({**vars(this_process()), "since": time.strftime("%Y-%m-%d %H:%M")})


def _read(lock: int) -> Any:
    """What the lock file says of its holder; None where that has not written it yet."""
    try:
        return json.loads(os.pread(lock, 10_000, 0))
    except ValueError:
        return None


def _told(holder: Any) -> str:
    match holder:
        case {"pid": int(pid), "host": str(host), "since": str(since)}:
            return f" (pid {pid} on {host}, since {since})"
    return ""


def plain_yaml(values: Any) -> str:
    """Plain values as YAML, in the order given."""
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=100)


def _difference(before: Any, after: Any) -> list[str]:
    lines = difflib.unified_diff(
        plain_yaml(before).splitlines(),
        plain_yaml(after).splitlines(),
        "in the folder",
        "now asked for",
        lineterm="",
        n=1,
    )
    return list(lines)
