"""What must hold on every node of a cluster before the first trial."""

from __future__ import annotations

import socket
import uuid
from collections.abc import Mapping
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from study import provenance
from study.checkpoints import open_storage
from study.home import Home
from study.yamlfile import SpecError

_PATIENCE = 120.0
"""Seconds that a node has to answer: its first process has to import Ray."""


def check(home: Home) -> None:
    """Raises SpecError where a node of the cluster does not see the study's storage, or has other
    versions than this process. Does nothing on a single node, whose process this is."""
    others = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
    here = ray.get_runtime_context().get_node_id()
    others = [node for node in others if node != here]
    if not others:
        return
    files, token = open_storage(home.storage_uri), str(uuid.uuid4())
    name = f"token-{token}"
    files.write(name, token.encode())
    try:
        looking = {
            node: ray.remote(look)
            .options(
                num_cpus=0,
                scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
            )
            .remote(home.storage_uri, name)
            for node in others
        }
        found = [_seen(node, result) for node, result in looking.items()]
    finally:
        files.delete(name)
    for seen in filter(None, found):
        if wrong := problem(seen, _versions(), token, home.storage_uri):
            raise SpecError(f"--address: node {seen['host']} {wrong}")


def _seen(node: str, result: Any) -> dict[str, Any] | None:
    """What a node sees; None where it went away meanwhile. Raises SpecError where it cannot."""
    try:
        seen: dict[str, Any] = ray.get(result, timeout=_PATIENCE)
    except (RayError, GetTimeoutError) as error:
        if node not in [each["NodeID"] for each in ray.nodes() if each["Alive"]]:
            return None
        text = " ".join(str(error).split())
        raise SpecError(f"--address: a node of the cluster cannot run this code: {text}") from None
    return seen


def look(storage: str, name: str) -> dict[str, Any]:
    """What a node sees: its host name, versions, and the token in the storage."""
    try:
        token = open_storage(storage).read(name).decode()
    except OSError as error:
        token = f"no: {error}"
    return {"host": socket.gethostname(), "versions": _versions(), "token": token}


def _versions() -> dict[str, str]:
    return {**provenance.versions(), "code": provenance.code()}


def problem(seen: Mapping[str, Any], here: Mapping[str, str], token: str, uri: str) -> str | None:
    """Why a node that saw this cannot run trials of this process, or None."""
    there = seen["versions"]
    other = [f"{key} {there[key]}, here {here[key]}" for key in here if there[key] != here[key]]
    if other:
        return f"has other versions, so its numbers would differ: {'; '.join(other)}"
    if seen["token"] != token:
        return (
            f"does not see {uri}, where trials keep checkpoints; name a place that "
            "all nodes share with --storage: a mounted folder, or s3://BUCKET/FOLDER"
        )
    return None
