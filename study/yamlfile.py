"""Reads a YAML file strictly, remembers where each value stands, and applies --set."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from trainables.catalog import nearest, shown

Key = str | int
Place = tuple[Key, ...]

_MAX_BYTES = 100_000
_MAX_NODES = 10_000
_MAX_DEPTH = 20
_MAX_SHOWN = 200
_MAX_MESSAGE = 1000
_TOO_LARGE = "too large or too deeply nested once aliases are filled in"


class SpecError(Exception):
    """Wrong input, told to the user in one line; the command ends with exit code 2."""


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
        if len(message) > _MAX_MESSAGE:
            message = f"{message[:_MAX_MESSAGE]}…"
        return SpecError(f"{self.origins[known]}: {_named(place)}{message}")


def _named(place: Place) -> str:
    """'a.b.c: ' of a place below the top, on one line whatever its keys hold."""
    name = ".".join(_printable(str(key)) for key in place)
    return f"{name}: " if name else ""


def _printable(text: str) -> str:
    return text if text.isprintable() and len(text) <= _MAX_SHOWN else shown(text)


class _Loader(yaml.SafeLoader):
    """YAML 1.2 scalars: 'no' and 'on' are words, 010 is ten, 5e-4 is a number, dates are text."""

    yaml_implicit_resolvers = {}  # noqa: RUF012 (the base class declares it so)

    def __init__(self, text: str, where: Callable[[yaml.Mark], str]) -> None:
        super().__init__(text)
        self._where = where
        self._nodes = 0
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Gives up on what is too large without reading all of it."""
        self._nodes += 1
        self._depth += 1
        if self._nodes > _MAX_NODES or self._depth > _MAX_DEPTH:
            raise SpecError(f"{self._where(self.peek_event().start_mark)}: {_TOO_LARGE}")  # type: ignore[no-untyped-call]
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", "-+.0123456789"),
    ("null", r"~|null|Null|NULL|", "~nN"),
):
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), [*_first, ""]
    )


def _whole(text: str) -> int:
    if abs(value := int(text)) >= 2**63:
        raise ValueError
    return value


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError
    return value


def _unicode(text: str) -> str:
    text.encode()  # raises ValueError for half a surrogate pair
    return text


_SCALARS: Mapping[str, tuple[Callable[[str], Any], str]] = {
    "tag:yaml.org,2002:bool": (lambda t: {"true": True, "false": False}[t.lower()], "a bool"),
    "tag:yaml.org,2002:int": (_whole, "a whole number of 64 bits"),
    "tag:yaml.org,2002:float": (_finite, "a finite number"),
    "tag:yaml.org,2002:null": (lambda t: {"": None, "~": None, "null": None}[t.lower()], "null"),
    "tag:yaml.org,2002:str": (_unicode, "text in Unicode"),
}


class _Builder:
    """Builds plain values from nodes, counting them so that aliases cannot explode."""

    def __init__(self, source: str, whole: bool) -> None:
        self.source = source
        self.whole = whole  # a whole file, whose lines are worth naming
        self.origins: dict[Place, str] = {}
        self.nodes = 0

    def where(self, mark: yaml.Mark) -> str:
        return f"{self.source}:{mark.line + 1}" if self.whole else self.source

    def build(self, node: yaml.Node, place: Place) -> Any:
        where = self.where(node.start_mark)
        self.origins.setdefault(place, where)
        self.nodes += 1
        if self.nodes > _MAX_NODES or len(place) > _MAX_DEPTH:
            raise SpecError(f"{where}: {_TOO_LARGE}")
        if isinstance(node, yaml.ScalarNode) and node.tag in _SCALARS:
            convert, kind = _SCALARS[node.tag]
            try:
                return convert(node.value)
            except (KeyError, ValueError):
                text = f"{_named(place)}{shown(node.value)} is not {kind}"
                raise SpecError(f"{where}: {text}") from None
        if isinstance(node, yaml.SequenceNode) and node.tag == "tag:yaml.org,2002:seq":
            return [self.build(item, (*place, i)) for i, item in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode) and node.tag == "tag:yaml.org,2002:map":
            return self._mapping(node, place)
        raise SpecError(f"{where}: the tag {shown(node.tag)} is not allowed; write plain values")

    def _mapping(self, node: yaml.MappingNode, place: Place) -> dict[str, Any]:
        data: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = self.build(key_node, (*place, "<key>"))
            where = self.where(key_node.start_mark)
            if not isinstance(key, str):
                raise SpecError(f"{where}: the key {shown(key)} must be a word; quote it")
            if key in data:
                raise SpecError(f"{where}: the key {shown(key)} stands twice in one mapping")
            self.origins[(*place, key)] = where
            data[key] = self.build(value_node, (*place, key))
        return data


def _compose(text: str, source: str, whole: bool) -> tuple[Any, dict[Place, str]]:
    builder = _Builder(source, whole)
    try:
        node = _Loader(text, builder.where).get_single_node()
        data = None if node is None else builder.build(node, ())
    except yaml.reader.ReaderError as error:
        line = f":{text.count(chr(10), 0, error.position) + 1}" if whole else ""
        raise SpecError(f"{source}{line}: not YAML: {error.reason}") from None
    except yaml.MarkedYAMLError as error:
        where = builder.where(error.problem_mark) if error.problem_mark else source
        problem = " ".join(str(error.problem).split())
        raise SpecError(f"{where}: not YAML: {problem}") from None
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
    """The document with each KEY.KEY=VALUE set; VALUE is YAML. SpecError: no '=', too many keys, a
    key inside a value that is no mapping."""
    data, origins = document.data, dict(document.origins)
    for assignment in assignments:
        dotted, equals, text = assignment.partition("=")
        source = f"--set {_printable(assignment)}"
        if not equals or not all(dotted.split(".")):
            raise SpecError(f"{source}: write --set KEY=VALUE, for example --set confirm.seeds=3")
        place = tuple(dotted.split("."))
        if len(place) > _MAX_DEPTH:
            raise SpecError(f"{source}: {_TOO_LARGE}")
        value, below = _compose(text, source, whole=False)
        data = _assign(data, place, value, source)
        origins = {p: o for p, o in origins.items() if p[: len(place)] != place}
        origins |= {(*place, *p): o for p, o in below.items()}
    return Document(data, origins)


def _assign(data: Any, place: Place, value: Any, source: str) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise SpecError(f"{source}: {shown(place[0])} would be a key of a value that is no mapping")
    key, rest = str(place[0]), place[1:]
    return {**data, key: _assign(data.get(key, {}), rest, value, source) if rest else value}
