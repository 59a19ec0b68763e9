"""Study files and --set arguments that are wrong in every way that came to mind.

They are made from the studies of search_spaces/, so that most of each file is right.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.hostile.names import NAMES

LONGEST_ANSWER = 1600
"""Characters of what a user is told of a wrong spec, the path of the file among them."""

_ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class HostileSpec:
    """title: what was done. content: of the file. settings: arguments of --set."""

    title: str
    content: bytes
    settings: tuple[str, ...] = ()


def specs(seed: int, count: int) -> Iterator[HostileSpec]:
    """`count` hostile specs, the same for the same seed: the known traps first, then mutations."""
    draw = random.Random(seed)
    texts = [path.read_text() for path in sorted((_ROOT / "search_spaces").rglob("*.yaml"))]
    made = 0
    for spec in _traps((_ROOT / "search_spaces" / "norm_vs_all.yaml").read_text()):
        if made < count:
            yield spec
        made += 1
    ways: list[Callable[[random.Random, str], HostileSpec]] = [
        *[_value] * 5,
        *[_setting] * 3,
        _deleted,
        _renamed,
        _bytes,
        _layout,
        _several,
    ]
    for number in range(made, count):
        yield ways[number % len(ways)](draw, draw.choice(texts))


def _long(number: int) -> list[int]:
    return list(range(number))


VALUES: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 1, 0.5, -0.0, 1e308, -1e308, 5e-324, 10**9, 10**18, 2**63 - 1),
    *(2**63, 10**400, float("nan"), float("inf"), -float("inf")),
    *("", " ", "1", "1.0", ".nan", "nan", "inf", "1e999", "0x7f", "1_000", "2020-01-01", "12:30"),
    *([], {}, [[]], [None], {"a": {}}, [{}], {"low": {}}, {"choices": [[]]}, {"choices": {}}),
    *({"low": 1, "high": 1}, {"low": "a", "high": []}, {"choices": [1, 1]}, {"choices": [{}, 1]}),
    *({"low": 1e-320, "high": 1e308, "log": True}, {"low": -1e308, "high": 1e308, "step": 1e-300}),
    *({"low": 1, "high": 10**18, "log": True}, {"choices": [True, 1, 1.0]}, {"choices": ["a", 1]}),
    *({"choices": ["sam", "sam"]}, {"choices": [None]}, {"choices": _long(3000)}, _long(3000)),
    *({"low": 1, "high": 2, "points": 10_000}, {"low": 1, "high": 10**9, "points": 10**9}),
    *("regex:(", "regex:", "regex:(a+)+$", "regex:[", "regex:(?P<a>", "regex:a{99999999999}"),
    *("norm_last:nan", "norm_last:-1", "norm_last:1e-400", "random:2", "random:0", "top_fisher:"),
    *("all+all", "+", "norm+", "all+regex:x+norm", "timm/", "timm/../x", "os:system", "a.b:c"),
    *("x:y:z", "__import__('os'):system", "density:1", "every"),
    *NAMES,
)


def _traps(text: str) -> Iterator[HostileSpec]:
    """What would hang, fill the memory or run code in a reader that is not careful."""
    bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n"
        for a, b in zip("abcdefghij", "bcdefghijk", strict=True)
    )
    merge = "a: &a {x: 1}\n" + "".join(
        f"{b}: &{b} {{<<: [{', '.join([f'*{a}'] * 9)}]}}\n"
        for a, b in zip("abcdefghij", "bcdefghijk", strict=True)
    )
    digits = "1" * 90_000
    files: dict[str, str | bytes] = {
        "alias bomb": bomb + text,
        "merge key bomb": merge + text,
        "merge key": "base: &b {a: 1}\n" + text.replace("workload:\n", "workload:\n  <<: *b\n"),
        "alias of itself": "a: &a [*a]\n",
        "mapping within itself": "a: &a {b: *a}\n",
        "unknown alias": "a: *nothing\n",
        "python object": "study: !!python/object/apply:os.system [id]\n",
        "python name": "study: !!python/name:os.system\n",
        "binary tag": "study: !!binary aGVsbG8=\n",
        "set tag": "arms: !!set {a, b}\n",
        "omap tag": "arms: !!omap [a: 1]\n",
        "timestamp tag": "study: !!timestamp 2001-01-01\n",
        "float tag": "study: !!float abc\n",
        "int tag": "study: !!int 0b2\n",
        "bool tag": "study: !!bool perhaps\n",
        "null tag": "study: !!null x\n",
        "own tag": "%TAG ! tag:evil,2000:\n---\nstudy: !x y\n",
        "deep lists": "a: " + "[" * 40_000,
        "deep mappings": "a: " + "{a: " * 20_000,
        "deep blocks": "\n".join(" " * i + "a:" for i in range(400)),
        "deep sequences": "- " * 40_000,
        "explicit keys": "? " * 40_000,
        "many keys": "\n".join(f"k{i}: 1" for i in range(9_000)),
        "many keys in a flow": "{" + ", ".join(f"k{i}" for i in range(9_000)) + "}",
        "many documents": "---\n" * 20_000,
        "many anchors": "\n".join(f"k{i}: &a{i} x" for i in range(6_000)),
        "many aliases": "a: &a x\nb: [" + "*a, " * 9_000 + "]\n",
        "number of 90,000 digits": f"study: {digits}\n",
        "fraction of 90,000 digits": f"study: 0.{digits}\n",
        "key of 90,000 letters": f"{'k' * 90_000}: 1\n",
        "key of 900 letters": f"{'k' * 900}: 1\n" + text,
        "comment of 90,000 letters": "#" * 90_000 + "\n" + text,
        "quotes": "a: " + "'" * 90_000,
        "double quotes": "a: " + '"\\' * 40_000,
        "block text": "a: |\n" + " x\n" * 30_000,
        "folded text": "a: >\n" + " x\n" * 30_000,
        "percent": "%" * 90_000,
        "null bytes": b"\0" * 90_000,
        "control characters": bytes(range(32)),
        "utf-16": text.encode("utf-16"),
        "utf-32": text.encode("utf-32"),
        "latin-1": ("# é\n" + text).encode("latin-1"),
        "byte order mark": b"\xef\xbb\xbf" + text.encode(),
        "two byte order marks": b"\xef\xbb\xbf" * 2 + text.encode(),
        "half a surrogate": 'study: "\\ud800"\n',
        "a surrogate in bytes": b"study: \xed\xa0\x80\n",
        "more than a file": "x" * 200_000,
        "nothing": "",
        "only a comment": "# x\n",
        "two documents": text + "---\n" + text,
        "a list": "- a\n",
        "a word": "study\n",
        "complex key": "? {a: b}\n: c\n",
        "number as key": text.replace("arms:\n", "arms:\n  1: {variant: none}\n"),
        "null as key": text.replace("arms:\n", "arms:\n  ~: {variant: none}\n"),
        "words of YAML 1.1 as keys": text.replace(
            "arms:\n", "arms:\n  on: {variant: none}\n  no: {variant: none}\n"
        ),
    }
    for title, content in files.items():
        yield HostileSpec(title, content if isinstance(content, bytes) else content.encode())
    settings = {
        "a fraction that backtracks": f"arms.sam_on.perturb=norm_last:{'1' * 90_000}x",
        "a share that backtracks": f"arms.sam_on.bn_statistics=x:{'1' * 90_000}x",
        "a long union": f"arms.sam_on.perturb={'norm+' * 20_000}norm",
        "a deep regex": f"arms.sam_on.perturb='regex:{'(' * 40_000}'",
        "a long regex": f"arms.sam_on.perturb='regex:{'a|' * 40_000}'",
        "a long word": f"workload.model.name={'r' * 90_000}",
        "a long path": f"workload.data.root={'r/' * 40_000}",
        "a long question": f"question={'?' * 90_000}",
        "deep key": ".".join(["a"] * 40_000) + "=1",
        "deep value": "arms=" + "[" * 40_000,
        "value bomb": "arms={a: &a [1,1,1,1,1,1], b: &b [*a,*a,*a,*a,*a,*a], c: [*b,*b,*b,*b]}",
        "no value": "study",
        "nothing": "",
        "only dots": "....=1",
        "newline": "study=a\nb: c",
        "key with a newline": "a\nb=1",
        "key with markup": "<script>.[red]=1",
        "a grid without end": "tune={sampler: grid}",
    }
    for title, setting in settings.items():
        yield HostileSpec(f"--set: {title}", text.encode(), (setting,))
    axis = "{low: 0.1, high: 1, points: 10000}"
    grid = [
        *("tune={sampler: grid}", f"search.rho={axis}"),
        *(f"search.lr={axis}", f"search.weight_decay={axis}"),
    ]
    yield HostileSpec("a grid of 1e12 points", text.encode(), tuple(grid))
    whole = ["tune={sampler: grid}", f"search.rho={axis}", "search.batch_size={low: 1, high: 800}"]
    yield HostileSpec("a grid of whole numbers", text.encode(), tuple(whole))
    budget = ["tune.trials_per_arm=1000000000", "tune.search_seeds=1000", "confirm.seeds=10000"]
    yield HostileSpec("a budget of 1e12 trials", text.encode(), tuple(budget))


def _places(value: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    return [place, *(p for key, item in items for p in _places(item, (*place, key)))]


def _changed(data: Any, place: tuple[Any, ...], change: Callable[[Any, Any], None]) -> Any:
    """`data`, in which `change(container, key)` was done at `place`."""
    container = data
    for key in place[:-1]:
        container = container[key]
    change(container, place[-1])
    return data


def _dumped(data: Any) -> bytes:
    text = yaml.safe_dump(data, sort_keys=False, allow_unicode=True)
    return text.encode("utf-8", "surrogatepass")


def _value(draw: random.Random, text: str) -> HostileSpec:
    data = yaml.safe_load(text)
    place = draw.choice(_places(data)[1:])
    value = draw.choice(VALUES)

    def put(container: Any, key: Any) -> None:
        container[key] = value

    return HostileSpec(f"{place} = {value!r:.40}", _dumped(_changed(data, place, put)))


def _deleted(draw: random.Random, text: str) -> HostileSpec:
    data = yaml.safe_load(text)
    place = draw.choice(_places(data)[1:])

    def drop(container: Any, key: Any) -> None:
        del container[key]

    return HostileSpec(f"without {place}", _dumped(_changed(data, place, drop)))


def _renamed(draw: random.Random, text: str) -> HostileSpec:
    data = yaml.safe_load(text)
    place = draw.choice([p for p in _places(data)[1:] if isinstance(p[-1], str)])
    name = draw.choice([*NAMES, 1, 1.5, None, True, "variant", "perturb", "rho", "study"])

    def rename(container: Any, key: Any) -> None:
        container[name] = container.pop(key)

    return HostileSpec(f"{place} named {name!r:.40}", _dumped(_changed(data, place, rename)))


def _setting(draw: random.Random, text: str) -> HostileSpec:
    place = draw.choice(_places(yaml.safe_load(text))[1:])
    value = draw.choice(VALUES)
    written = draw.choice(
        [str(value), yaml.safe_dump(value, default_flow_style=True).removesuffix("\n...\n").strip()]
    )
    key = ".".join(str(part) for part in place)
    if draw.random() < 0.2:
        key += "." + str(draw.choice(NAMES))
    return HostileSpec(f"--set {key:.40}={written:.40}", text.encode(), (f"{key}={written}",))


def _bytes(draw: random.Random, text: str) -> HostileSpec:
    raw = bytearray(text.encode())
    for _ in range(draw.randint(1, 20)):
        at = draw.randrange(len(raw))
        match draw.randrange(3):
            case 0:
                raw[at] = draw.randrange(256)
            case 1:
                raw[at:at] = draw.randbytes(draw.randint(1, 8))
            case _:
                del raw[at : at + draw.randint(1, 40)]
    return HostileSpec("bytes changed", bytes(raw))


def _layout(draw: random.Random, text: str) -> HostileSpec:
    lines = text.splitlines()
    at = draw.randrange(len(lines))
    match draw.randrange(6):
        case 0:
            lines[at] = lines[at].replace("  ", "\t")
        case 1:
            lines.insert(at, lines[draw.randrange(len(lines))])
        case 2:
            lines[at] = " " * draw.randint(1, 7) + lines[at]
        case 3:
            lines = lines[:at]
        case 4:
            draw.shuffle(lines)
        case _:
            lines[at] += draw.choice(["&a", "*a", "!!x", "|", ">", "%", "@", "`", "{", "]", ":"])
    end = draw.choice(["\n", "\r\n", "\r", "\x85", "\u2028"])
    return HostileSpec("lines changed", end.join(lines).encode())


def _several(draw: random.Random, text: str) -> HostileSpec:
    content = text
    for _ in range(3):
        content = _value(draw, content).content.decode("utf-8", "surrogatepass")
        if not isinstance(yaml.safe_load(content), dict):
            break
    return HostileSpec("several values changed", content.encode("utf-8", "surrogatepass"))
