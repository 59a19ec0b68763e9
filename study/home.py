"""The folder of a study: what lies where, and that only one process works in it."""

from __future__ import annotations

import difflib
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from study import extension, journal
from study.journal import Contents
from study.spec import Spec
from study.yamlfile import SpecError
from trainables.catalog import nearest


class Home:
    """Paths of one study below `out`."""

    def __init__(self, out: Path, name: str) -> None:
        self.out = out.absolute()
        self.name = name
        self.folder = self.out / name
        self.journal = self.folder / "journal.jsonl"
        self.ledger = self.folder / "ledger.log"
        self.spec = self.folder / "spec.yaml"
        self.report = self.folder / "report.html"

    def contents(self) -> Contents | None:
        """What the journal holds, None where the study has not begun."""
        try:
            return journal.read(self.journal)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except journal.JournalError as error:
            raise SpecError(f"{error}; move the folder {self.folder} away") from None

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
        return self._spec_of(contents), contents

    def rounds(self) -> tuple[list[Spec], Contents]:
        """The planned study and its extensions, and the contents. Raises SpecError as begun."""
        spec, contents = self.begun()
        return [spec, *map(Spec.model_validate, contents.extensions)], contents

    def check_same(self, spec: Spec) -> Contents | None:
        """The contents so far. Raises SpecError where they are those of another spec."""
        contents = self.contents() if self._begun() else None
        if contents is None:
            if self.ledger.exists():
                raise SpecError(f"{self.folder}: holds a ledger without its journal; move it away")
            return None
        if contents.header["hash"] != spec.hash:
            before = self._spec_of(contents)
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
        """Whether the journal has a whole line: a crash in the first moments may leave less."""
        try:
            with self.journal.open("rb") as file:
                return file.readline().endswith(b"\n")
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            raise SpecError(f"{self.journal}: cannot be read: {error.strerror}") from None

    def _spec_of(self, contents: Contents) -> Spec:
        try:
            return Spec.model_validate(contents.header["spec"])
        except ValidationError:
            raise SpecError(
                f"{self.journal}: written by another version of this program, which named its "
                f"settings otherwise; go on with that version, or move {self.folder} away"
            ) from None

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
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SpecError(
                f"{self.folder}: another process runs this study; wait for it, or stop it first"
            ) from None
        else:
            yield
        finally:
            os.close(lock)


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
