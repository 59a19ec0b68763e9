"""Reads a YAML file strictly, remembers where each value stands, and applies --set."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

Key = str | int
Place = tuple[Key, ...]

_MAX_BYTES = 1_000_000
_MAX_NODES = 10_000
_MAX_DEPTH = 20


class SpecError(Exception):
    """Wrong input, told to the user in one line; the command ends with exit code 2."""


def nearest(word: object, allowed: Iterable[str]) -> str:
    """'; did you mean X?' for the allowed word closest to `word`, or nothing."""
    close = difflib.get_close_matches(str(word), list(allowed), n=1)
    return f"; did you mean '{close[0]}'?" if close else ""


@dataclass(frozen=True)
class Document:
    """Plain values of a YAML file. origins: where each place stands, as the user would say it."""

    data: Any
    origins: Mapping[Place, str]

    def error(self, place: Place, message: str) -> SpecError:
        """A SpecError at `place`, or at the nearest place above it that the file has."""
        known = place
        while known not in self.origins:
            known = known[:-1]
        name = ".".join(str(key) for key in place)
        return SpecError(f"{self.origins[known]}: {name + ': ' if name else ''}{message}")


class _Loader(yaml.SafeLoader):
    """YAML 1.2 scalars: 'no' and 'on' are words, 010 is ten, 5e-4 is a number, dates are text."""

    yaml_implicit_resolvers = {}  # noqa: RUF012 (the base class declares it so)


for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", "-+.0123456789"),
    ("null", r"~|null|Null|NULL|", "~nN"),
):
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), [*_first, ""]
    )

_SCALARS: Mapping[str, Callable[[str], Any]] = {
    "tag:yaml.org,2002:bool": lambda text: text.lower() == "true",
    "tag:yaml.org,2002:int": int,
    "tag:yaml.org,2002:float": float,
    "tag:yaml.org,2002:null": lambda text: None,
    "tag:yaml.org,2002:str": str,
}


class _Builder:
    """Builds plain values from nodes, counting them so that aliases cannot explode."""

    def __init__(self, source: str, whole: bool) -> None:
        self.source = source
        self.whole = whole  # a whole file, whose lines are worth naming
        self.origins: dict[Place, str] = {}
        self.nodes = 0

    def where(self, node: yaml.Node) -> str:
        return f"{self.source}:{node.start_mark.line + 1}" if self.whole else self.source

    def build(self, node: yaml.Node, place: Place) -> Any:
        where = self.where(node)
        self.origins.setdefault(place, where)
        self.nodes += 1
        if self.nodes > _MAX_NODES or len(place) > _MAX_DEPTH:
            raise SpecError(f"{where}: too large or too deeply nested once aliases are filled in")
        if isinstance(node, yaml.ScalarNode) and node.tag in _SCALARS:
            return _SCALARS[node.tag](node.value)
        if isinstance(node, yaml.SequenceNode) and node.tag == "tag:yaml.org,2002:seq":
            return [self.build(item, (*place, i)) for i, item in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode) and node.tag == "tag:yaml.org,2002:map":
            return self._mapping(node, place)
        raise SpecError(f"{where}: the tag {node.tag!r} is not allowed; write plain values")

    def _mapping(self, node: yaml.MappingNode, place: Place) -> dict[str, Any]:
        data: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = self.build(key_node, (*place, "<key>"))
            where = self.where(key_node)
            if not isinstance(key, str):
                raise SpecError(f"{where}: the key {key!r} must be a word; quote it")
            if key in data:
                raise SpecError(f"{where}: the key '{key}' stands twice in one mapping")
            self.origins[(*place, key)] = where
            data[key] = self.build(value_node, (*place, key))
        return data


def _compose(text: str, source: str, whole: bool) -> tuple[Any, dict[Place, str]]:
    builder = _Builder(source, whole)
    try:
        node = yaml.compose(text, Loader=_Loader)
        data = None if node is None else builder.build(node, ())
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark is not None and whole else ""
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        raise SpecError(f"{source}{line}: not YAML: {problem}") from None
    except RecursionError:
        raise SpecError(f"{source}: too deeply nested") from None
    except ValueError as error:
        raise SpecError(f"{source}: {error}") from None
    builder.origins.setdefault((), source)
    return data, builder.origins


def read(path: Path) -> Document:
    """The values of the YAML file `path`. SpecError: no such file, no text, no YAML, too large,
    tags, duplicate keys, aliases that explode."""
    try:
        with path.open("rb") as file:
            raw = file.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        folder = path.parent
        names = [str(p) for p in folder.glob("*.y*ml")] if folder.is_dir() else []
        raise SpecError(f"{path}: no such file{nearest(path, names)}") from None
    except OSError as error:
        raise SpecError(f"{path}: cannot be read: {error.strerror}") from None
    if len(raw) > _MAX_BYTES:
        raise SpecError(f"{path}: larger than {_MAX_BYTES} bytes; a study is a short YAML file")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise SpecError(f"{path}: not YAML: the file is not text in UTF-8") from None
    data, origins = _compose(text, str(path), whole=True)
    if not isinstance(data, dict):
        raise SpecError(f"{path}: must hold a mapping that starts like 'study: NAME'")
    return Document(data, origins)


def override(document: Document, assignments: Iterable[str]) -> Document:
    """The document with each KEY.KEY=VALUE set; VALUE is YAML. SpecError: no '=', a key inside a
    value that is no mapping."""
    data, origins = document.data, dict(document.origins)
    for assignment in assignments:
        dotted, equals, text = assignment.partition("=")
        source = f"--set {assignment}"
        if not equals or not all(dotted.split(".")):
            raise SpecError(f"{source}: write --set KEY=VALUE, for example --set confirm.seeds=3")
        place = tuple(dotted.split("."))
        value, below = _compose(text, source, whole=False)
        data = _assign(data, place, value, source)
        origins = {p: o for p, o in origins.items() if p[: len(place)] != place}
        origins |= {(*place, *p): o for p, o in below.items()}
    return Document(data, origins)


def _assign(data: Any, place: Place, value: Any, source: str) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise SpecError(f"{source}: '{place[0]}' would be a key of a value that is no mapping")
    key, rest = str(place[0]), place[1:]
    return {**data, key: _assign(data.get(key, {}), rest, value, source) if rest else value}
