"""Reading YAML: strict, fast on whatever is no study, one line for each thing that is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from study import resolve, yamlfile
from study.spec import Spec
from study.yamlfile import SpecError
from tests.study.command import SPEC

TEXT = SPEC.read_text()


def told(tmp_path: Path, text: str | bytes, *assignments: str) -> str:
    path = tmp_path / "spec.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(SpecError) as caught:
        yamlfile.override(yamlfile.read(path), assignments)
    message = str(caught.value)
    assert message.isprintable()
    return message.removeprefix(str(path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 1e999\n", ":2: b: '1e999' is not a finite number"),
        ("a:\n  b: [1, 9223372036854775808]\n", ":2: a.b.1: '9223372036854775808' is not a whole"),
        ("a: " + "9" * 5000, ":1: a: '9999999999"),
        ("a: !!int x", ":1: a: 'x' is not a whole number"),
        ("a: !!float x", ":1: a: 'x' is not a finite number"),
        ("a: !!bool maybe", ":1: a: 'maybe' is not a bool"),
        ("a: !!null maybe", ":1: a: 'maybe' is not null"),
        ('a: "\\ud800"', ":1: a: '\\ud800' is not text in Unicode"),
        ("a: !!python/name:os.system", ":1: the tag 'tag:yaml.org,2002:python/name:os.system' is"),
        ("a: !!binary aGk=", ":1: the tag 'tag:yaml.org,2002:binary' is not allowed"),
        ("a: 1\nb: \x07\n", ":2: not YAML: special characters are not allowed"),
        ("a: 1\nb: [1\n", ":3: not YAML: "),
        ("a: *b\n", ":1: not YAML: found undefined alias"),
        ("a: 1\n---\nb: 2\n", ":2: not YAML: but found another document"),
        ('"x\\ny": 1\n"x\\ny": 2\n', ":2: the key 'x\\ny' stands twice in one mapping"),
        ("1: 2\n", ":1: the key 1 must be a word; quote it"),
        ("~: 2\n", ":1: the key None must be a word; quote it"),
    ],
)
def test_the_line_and_the_place_of_what_is_wrong_are_named(
    tmp_path: Path, text: str, message: str
) -> None:
    assert told(tmp_path, text).startswith(message)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 50_000,
        "{" * 50_000,
        "- " * 20_000,
        "[" + "a," * 40_000 + "]",
        "\n".join(f"k{i}: 1" for i in range(8_000)),
        "? " * 30_000,
    ],
)
def test_what_is_too_large_is_given_up_before_all_of_it_is_read(tmp_path: Path, text: str) -> None:
    assert "too large or too deeply nested" in told(tmp_path, text)


def test_a_file_is_not_read_without_end() -> None:
    with pytest.raises(SpecError, match="larger than 100000 bytes"):
        yamlfile.read(Path("/dev/zero"))


def test_scalars_are_those_of_yaml_1_2(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(
        "\N{BYTE ORDER MARK}a: [no, on, y, 1e-3, 010, .5, -3, 2026-01-01, 1_0, ~, True, .inf, <<]"
    )
    words = ["no", "on", "y", 0.001, 10, 0.5, -3, "2026-01-01", "1_0", None, True, ".inf", "<<"]
    assert yamlfile.read(path).data == {"a": words}


def test_the_same_anchor_may_be_used_in_several_places(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("a: &x {b: 1}\nc: *x\n")
    assert yamlfile.read(path).data == {"a": {"b": 1}, "c": {"b": 1}}


def test_set_names_itself_as_the_place_and_the_last_of_two_wins(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("a: {b: {c: 1, d: 2}}\n")
    document = yamlfile.override(yamlfile.read(path), ["a.b.c=3", "a.b.c=4", "e={f: [5]}"])
    assert document.data == {"a": {"b": {"c": 4, "d": 2}}, "e": {"f": [5]}}
    assert str(document.error(("a", "b", "c"), "x")) == "--set a.b.c=4: a.b.c: x"
    assert str(document.error(("a", "b", "d"), "x")) == f"{path}:1: a.b.d: x"
    assert str(document.error(("a", "b", "z"), "x")) == f"{path}:1: a.b.z: x"
    assert str(document.error(("e", "f", 0), "x")) == "--set e={f: [5]}: e.f.0: x"
    whole = yamlfile.override(document, ["a=1"])
    assert str(whole.error(("a", "b", "d"), "x")) == "--set a=1: a.b.d: x"
    assert document.data["a"]["b"]["d"] == 2


@pytest.mark.parametrize(
    ("assignment", "part"),
    [
        (".".join(["a"] * 5000) + "=1", "too deeply nested"),
        ("a=[1", "not YAML"),
        ("a\nb", "write --set KEY=VALUE"),
        ("a.x\ny=1", "'x\\ny' would be a key of a value that is no mapping"),
        ("a.b=!!python/object:os.system {}", "is not allowed"),
        ("b=1e999", "is not a finite number"),
    ],
)
def test_a_wrong_set_is_told_in_one_line(tmp_path: Path, assignment: str, part: str) -> None:
    message = told(tmp_path, "a: 1\n", assignment)
    assert message.startswith("--set ")
    assert part in message


YAMLISH = st.text(st.sampled_from("ab1.-:{}[]&*!|>'\"#%@,?~ \n\t\\é\x00"), max_size=60)


def is_a_spec_or_one_line(path: Path, text: bytes) -> None:
    path.write_bytes(text)
    try:
        outcome: Spec | SpecError = resolve.load(path)
    except SpecError as error:
        outcome = error
    assert isinstance(outcome, Spec) or (
        str(outcome).startswith(str(path)) and "\n" not in str(outcome)
    )


FUZZ = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@FUZZ
@given(text=st.binary(max_size=60) | YAMLISH.map(str.encode))
def test_any_text_is_a_spec_or_one_line(tmp_path: Path, text: bytes) -> None:
    is_a_spec_or_one_line(tmp_path / "fuzz.yaml", text)


@FUZZ
@given(start=st.integers(0, len(TEXT)), length=st.integers(0, 30), text=YAMLISH)
def test_any_edit_of_a_study_is_a_spec_or_one_line(
    tmp_path: Path, start: int, length: int, text: str
) -> None:
    edited = TEXT[:start] + text + TEXT[start + length :]
    is_a_spec_or_one_line(tmp_path / "fuzz.yaml", edited.encode())
