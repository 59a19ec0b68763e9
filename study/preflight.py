"""What must hold before the first trial, found out before anything is created."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from study import provenance, tracking_uri
from study.home import Home, plain_yaml
from study.journal import VERSION, Journal, Line
from study.spec import Spec
from study.verdict import plan_hash
from study.yamlfile import SpecError


def tracking_store(uri: str | None) -> str:
    """The tracking URI to use, made absolute: the one given, that of the environment, or mlflow.db
    here. Raises SpecError for one that can never work."""
    here = Path.cwd()
    uri = uri or os.environ.get(tracking_uri.VARIABLE)
    uri = tracking_uri.default_uri(here) if uri is None else tracking_uri.absolute_uri(uri, here)
    if problem := tracking_uri.check_uri(uri):
        raise SpecError(f"--tracking-uri: {problem}")
    return uri


def how_to_look(uri: str) -> str:
    """What to type, or where to go, to see the tracking store; without its password."""
    shown = tracking_uri.masked(uri)
    return shown if uri.startswith("http") else f"mlflow ui --backend-store-uri {shown}"


def writable(home: Home) -> None:
    """Raises SpecError where the study's folder can be neither made nor written."""
    nearest = home.folder
    while not os.path.exists(nearest):  # Path.exists raises where a name is too long
        nearest = nearest.parent
    if not (nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)):
        raise SpecError(f"{home.folder}: cannot be written; choose another folder with --out")


@contextmanager
def opened(home: Home, spec: Spec, facts: Mapping[str, Any]) -> Iterator[Journal]:
    """The study's journal, begun with a header, or with a note where other versions go on with it.

    Raises SpecError where the folder holds another spec, or the data set is no longer the same.
    """
    contents = home.check_same(spec)
    if contents is not None and contents.header["data"]["hash"] != facts["hash"]:
        raise SpecError(
            f"workload.data: the images of {spec.workload.data.name} are no longer those that the "
            "study began with; restore them, or give the study a new name with --set study=NAME"
        )
    journal = Journal(home.journal)

    def note(text: str) -> None:
        journal.append({"kind": "note", "text": text, "time": time.time()})

    try:
        if contents is None:
            home.spec.write_text(plain_yaml(spec.model_dump()), encoding="utf-8")
            journal.append(_header(spec, facts), sync=True)
        elif changes := _changes(contents.header):
            note(f"the study went on with other versions: {', '.join(changes)}")
        note_undecodable(facts["undecodable"], "training", note)
        yield journal
    finally:
        journal.close()


def note_undecodable(files: Sequence[str], part: str, note: Callable[[str], None]) -> None:
    """Notes image files that were left out, if there are any."""
    if files:
        named = ", ".join(files[:10]) + (", ..." if len(files) > 10 else "")
        note(f"{len(files)} {part} files cannot be decoded and were left out: {named}")


def _header(spec: Spec, facts: Mapping[str, Any]) -> Line:
    return {
        "kind": "header",
        "version": VERSION,
        "time": time.time(),
        "spec": spec.model_dump(),
        "hash": spec.hash,
        "plan": plan_hash(spec),
        "commit": provenance.commit(),
        "versions": provenance.versions(),
        "data": dict(facts),
    }


def _changes(before: Line) -> list[str]:
    """What differs between the execution that wrote a header and this one."""
    then = {**before["versions"], "commit": before["commit"]}
    now = {**provenance.versions(), "commit": provenance.commit()}
    return [f"{key} {then.get(key)} -> {now[key]}" for key in now if now[key] != then.get(key)]
