"""Journals as broken disks, editors and copies leave them: mutations of a whole one, by a seed."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Iterator
from typing import Any

Mutation = Callable[[random.Random, bytes], bytes]

_ODD: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    10**40,
    1e300,
    -1e300,
    math.nan,
    math.inf,
    "",
    "x" * 300,
    [],
    {},
    [[1]],
)


def mutated(seed: int, count: int, journal: bytes) -> Iterator[tuple[str, bytes]]:
    """`count` mutations of a journal, each with the name of what was done; every kind in turn."""
    drawn = random.Random(seed)
    for number in range(count):
        mutation = _MUTATIONS[number % len(_MUTATIONS)]
        yield mutation.__name__.strip("_"), mutation(drawn, journal)


def _bits_flipped(drawn: random.Random, journal: bytes) -> bytes:
    data = bytearray(journal)
    for _ in range(drawn.choice((1, 1, 5, 50))):
        data[drawn.randrange(len(data))] ^= 1 << drawn.randrange(8)
    return bytes(data)


def _bit_flipped_behind_the_header(drawn: random.Random, journal: bytes) -> bytes:
    header, rest = journal.split(b"\n", 1)
    return header + b"\n" + _bits_flipped(drawn, rest)


def _cut_in_a_line(drawn: random.Random, journal: bytes) -> bytes:
    at = drawn.randrange(len(journal))
    return journal[:at] + journal[at + drawn.randrange(1, 400) :]


def _cut_off(drawn: random.Random, journal: bytes) -> bytes:
    return journal[: drawn.randrange(len(journal))]


def _lines_swapped(drawn: random.Random, journal: bytes) -> bytes:
    lines = _lines(journal)
    for _ in range(drawn.choice((1, 5))):
        i, j = drawn.randrange(len(lines)), drawn.randrange(len(lines))
        lines[i], lines[j] = lines[j], lines[i]
    return b"".join(lines)


def _lines_repeated(drawn: random.Random, journal: bytes) -> bytes:
    lines = _lines(journal)
    for _ in range(5):
        lines.insert(drawn.randrange(len(lines)), drawn.choice(lines))
    return b"".join(lines)


def _lines_lost(drawn: random.Random, journal: bytes) -> bytes:
    lines = _lines(journal)
    for _ in range(drawn.choice((1, 10))):
        del lines[drawn.randrange(1, len(lines))]
    return b"".join(lines)


def _keys_deleted(drawn: random.Random, journal: bytes) -> bytes:
    def delete(holder: Any, key: Any) -> None:
        del holder[key]

    return _changed(drawn, journal, delete)


def _keys_renamed(drawn: random.Random, journal: bytes) -> bytes:
    def rename(holder: Any, key: Any) -> None:
        if isinstance(holder, dict):
            holder[f"{key}_"] = holder.pop(key)

    return _changed(drawn, journal, rename)


def _values_changed(drawn: random.Random, journal: bytes) -> bytes:
    def change(holder: Any, key: Any) -> None:
        holder[key] = drawn.choice(_ODD)

    return _changed(drawn, journal, change)


def _numbers_changed(drawn: random.Random, journal: bytes) -> bytes:
    def change(holder: Any, key: Any) -> None:
        if isinstance(holder[key], (int, float)):
            holder[key] *= drawn.choice((-1, 1e3, 1e30, 1e200, 10, 0))

    return _changed(drawn, journal, change)


def _words_changed(drawn: random.Random, journal: bytes) -> bytes:
    def change(holder: Any, key: Any) -> None:
        if isinstance(holder[key], str):
            holder[key] = drawn.choice(("<script>", "../..", "\0", "\ud800", holder[key] + " "))

    return _changed(drawn, journal, change)


def _empty(drawn: random.Random, journal: bytes) -> bytes:
    return b""


def _binary(drawn: random.Random, journal: bytes) -> bytes:
    return drawn.randbytes(drawn.randrange(1, 20_000))


def _binary_in_the_middle(drawn: random.Random, journal: bytes) -> bytes:
    return _put(drawn, journal, drawn.randbytes(3000) + b"\n")


def _of_another_study(drawn: random.Random, journal: bytes) -> bytes:
    return journal.replace(b"tiny", b"other")


def _header_of_another_study(drawn: random.Random, journal: bytes) -> bytes:
    header, rest = journal.split(b"\n", 1)
    return header.replace(b"tiny", b"other") + b"\n" + rest


def _header_only(drawn: random.Random, journal: bytes) -> bytes:
    return _lines(journal)[0]


def _without_header(drawn: random.Random, journal: bytes) -> bytes:
    return b"".join(_lines(journal)[1:])


def _of_another_version(drawn: random.Random, journal: bytes) -> bytes:
    return journal.replace(b'"version": 2', b'"version": %d' % drawn.randrange(3, 99), 1)


def _line_ends_of_windows(drawn: random.Random, journal: bytes) -> bytes:
    return journal.replace(b"\n", b"\r\n")


def _line_ends_of_old_macs(drawn: random.Random, journal: bytes) -> bytes:
    return journal.replace(b"\n", b"\r")


def _byte_order_mark(drawn: random.Random, journal: bytes) -> bytes:
    return b"\xef\xbb\xbf" + journal


def _of_16_bits(drawn: random.Random, journal: bytes) -> bytes:
    return journal.decode().encode("utf-16")


def _zeroed(drawn: random.Random, journal: bytes) -> bytes:
    at = drawn.randrange(len(journal))
    length = min(drawn.choice((1, 512, 4096)), len(journal) - at)
    return journal[:at] + bytes(length) + journal[at + length :]


def _enormous_line(drawn: random.Random, journal: bytes) -> bytes:
    long = b'{"kind": "note", "text": "' + b"x" * 300_000 + b'", "time": 1.0'
    return _put(drawn, journal, long + drawn.choice((b"", b"}")) + b"\n")


def _deep_line(drawn: random.Random, journal: bytes) -> bytes:
    return _put(drawn, journal, b'{"kind":' * 50_000 + b"\n")


def _blank_lines(drawn: random.Random, journal: bytes) -> bytes:
    return journal.replace(b"\n", b"\n\n")


_MUTATIONS: tuple[Mutation, ...] = (
    *(_bits_flipped, _bit_flipped_behind_the_header, _cut_in_a_line, _cut_off, _lines_swapped),
    *(_lines_repeated, _lines_lost, _keys_deleted, _keys_renamed, _values_changed),
    *(_numbers_changed, _words_changed, _empty, _binary, _binary_in_the_middle),
    *(_of_another_study, _header_of_another_study, _header_only, _without_header),
    *(_of_another_version, _line_ends_of_windows, _line_ends_of_old_macs, _byte_order_mark),
    *(_of_16_bits, _zeroed, _enormous_line, _deep_line, _blank_lines),
)


def _lines(journal: bytes) -> list[bytes]:
    return journal.splitlines(keepends=True)


def _put(drawn: random.Random, journal: bytes, line: bytes) -> bytes:
    lines = _lines(journal)
    lines.insert(drawn.randrange(1, len(lines)), line)
    return b"".join(lines)


def _changed(drawn: random.Random, journal: bytes, change: Callable[[Any, Any], None]) -> bytes:
    """The journal with `change` done at a place of some of its lines, whatever its depth."""
    lines = _lines(journal)
    for _ in range(drawn.choice((1, 3, 20))):
        number = drawn.randrange(len(lines))
        line = json.loads(lines[number])
        places = list(_places(line))
        if places:
            change(*drawn.choice(places))
            lines[number] = json.dumps(line).encode() + b"\n"
    return b"".join(lines)


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every container in a value with every key that it has."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        yield value, key
        if isinstance(item, (dict, list)):
            yield from _places(item)
