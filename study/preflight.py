"""What must hold before the first trial, found out before anything is created."""

from __future__ import annotations

import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from study import provenance, tracking_probe, tracking_uri, tracking_views
from study.checkpoints import open_storage
from study.home import Home, plain_yaml
from study.journal import Contents, Journal
from study.journal_lines import Line
from study.journal_reader import VERSION
from study.spec import Resources, Spec
from study.tracking_state import read_state
from study.verdict import plan_hash
from study.yamlfile import SpecError

_ROOM = 100  # MB that a study needs: journal, report and the mirror's log, with some to spare


def tracking_store(uri: str | None, out: Path) -> str:
    """The tracking URI to use, made absolute: the one given, that of the environment, or mlflow.db
    here. Raises SpecError for one that can never work.

    out: of all studies, where 'here' is the folder of a job of a cluster, which goes away with it.
    """
    here = out if provenance.was_sent() else Path.cwd()
    uri = uri or os.environ.get(tracking_uri.VARIABLE)
    uri = tracking_uri.default_uri(here) if uri is None else tracking_uri.absolute_uri(uri, here)
    if problem := tracking_uri.check_uri(uri):
        raise SpecError(f"--tracking-uri: {problem}")
    return uri


def tracking_answers(study: str, uri: str, warn: Callable[[str], None]) -> str:
    """Warns where the tracking store does not answer: the study can do without it.

    Returns what is wrong with it, nothing where it answers. Raises SpecError where waiting will
    not help, as with a wrong password.
    """
    problem = tracking_probe.problem(uri)
    if problem is None:
        return ""
    told = f"MLflow at {tracking_uri.masked(uri)}: {problem.text}"
    if problem.lasting:
        raise SpecError(f"--tracking-uri: {told}")
    warn(
        f"{told}; the study runs all the same, MLflow catches up when it answers, or later with "
        f"python -m study.sync {study}"
    )
    return told


def how_to_look(uri: str, home: Home) -> Iterator[str]:
    """What to type, or where to go, to see the tracking store, without its password; and, where
    the study is known there, the link to it."""
    shown = tracking_uri.masked(uri)
    there = shown if uri.startswith("http") else f"mlflow ui --backend-store-uri {shown}"
    yield f"to compare studies: {there}"
    state = read_state(home.folder)
    if state is not None and state.uri == shown:
        yield f"this study there: {tracking_views.link(uri, state.experiment)}"


def writable(home: Home) -> None:
    """Raises SpecError where the study's folder can be neither made nor written."""
    nearest = _nearest(home)
    if not (nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)):
        raise SpecError(f"{home.folder}: cannot be written; choose another folder with --out")


def storage(home: Home, contents: Contents | None) -> None:
    """Raises SpecError where checkpoints cannot be kept where --storage says, or began elsewhere.

    contents: of the study's journal, None where it has not begun.
    """
    if contents is not None and (before := contents.header.get("storage")) != home.storage:
        again = "leave out --storage" if before is None else f"give --storage {before} again"
        raise SpecError(f"{home.folder}: its checkpoints are in another place; {again}")
    if home.storage is None:
        return
    try:
        files = open_storage(home.storage)
        probe = f"probe-{uuid.uuid4()}"
        files.write(probe, b"")
        files.delete(probe)
    except (ValueError, OSError) as error:
        text = " ".join(str(error).split())
        raise SpecError(f"--storage {home.storage}: {text}") from None


def room(home: Home) -> None:
    """Raises SpecError where the disk of the study's folder is all but full."""
    free = shutil.disk_usage(_nearest(home)).free // 1_000_000
    if free < _ROOM:
        raise SpecError(
            f"{home.folder}: only {free} MB are free there, a study needs {_ROOM} MB; make room, "
            "or choose another folder with --out"
        )


def note_idle_gpus(
    resources: Resources, cluster: Mapping[str, float], warn: Callable[[str], None]
) -> None:
    """Warns where the cluster has GPUs that no trial will use."""
    if (gpus := cluster.get("GPU", 0)) and not resources.gpu:
        warn(
            f"resources.gpu is 0: the {gpus:g} GPU of this cluster will not be used; to use it, "
            "set resources.gpu to what one trial needs, such as 1 or 0.25"
        )


@contextmanager
def opened(
    home: Home, spec: Spec, facts: Mapping[str, Any], ledger: str | None = None
) -> Iterator[Journal]:
    """The study's journal, begun with a header, or with a note where other versions go on with it.

    ledger: as ledger_store.Store.recorded. Raises SpecError where the folder holds another spec, or
    the data set is no longer the same.
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
            journal.append(_header(home, spec, facts, ledger), sync=True)
        else:
            if contents.damaged:
                note(contents.damage)
            if changes := provenance.changes(
                contents.header["versions"], contents.header["commit"]
            ):
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


def _nearest(home: Home) -> Path:
    """The study's folder, or the nearest one above it that is there."""
    nearest = home.folder
    while not os.path.exists(nearest):  # Path.exists raises where a name is too long
        nearest = nearest.parent
    return nearest


def _header(home: Home, spec: Spec, facts: Mapping[str, Any], ledger: str | None) -> Line:
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
        "ledger": ledger,
        "storage": home.storage,
    }
