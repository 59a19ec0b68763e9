"""Hostile text of a study is inert in its report and plain text in MLflow."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from study import report, tracking_names
from study.yamlfile import SpecError
from tests.hostile.names import NAMES
from tests.study.synthetic import make_contents, make_spec

MARKUP = (
    "<script>alert(1)</script><img src=x onerror=alert(1)></title></style><svg onload=alert(1)>"
    "\"'><a href=javascript:alert(1)> {{ 7 * 7 }} {% raw %} &lt;b&gt; <!-- ]]> \u202e $x^2$ \\frac"
)


class Elements(HTMLParser):
    """Counts the elements of a page, and collects its text and the attributes that act."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.acting: list[tuple[str, str | None]] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.acting += [(k, v) for k, v in attrs if k.startswith("on") or "javascript" in str(v)]

    def handle_data(self, data: str) -> None:
        self.words += data


def page(folder: Path, question: str, note: str, classes: tuple[str, ...]) -> Elements:
    spec = make_spec().model_copy(update={"question": question})
    contents = make_contents(spec, notes=[note])
    data = {**contents.header["data"], "classes": classes, "undecodable": classes}
    contents = replace(contents, header={**contents.header, "data": data})
    report.write(folder, [spec], contents)
    return Elements((folder / "report.html").read_text(encoding="utf-8"))


def test_a_hostile_question_and_hostile_file_names_add_no_element_to_the_report(
    tmp_path: Path,
) -> None:
    plain = page(tmp_path / "plain", "Which?", "1 file was left out: a.png", ("a", "b"))
    names = ", ".join(name for name in NAMES if name.isprintable())
    hostile = page(tmp_path / "hostile", MARKUP, f"{MARKUP} {names}", (MARKUP, *NAMES))
    assert hostile.tags == plain.tags
    assert hostile.acting == []
    assert "script" not in hostile.tags
    assert hostile.words.count("<script>alert(1)</script>") >= 2
    assert "{{ 7 * 7 }}" in hostile.words


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "key", ["study={}", "arms={{a: {{variant: none}}, {}: {{variant: none}}}}"]
)
def test_only_letters_digits_and_dashes_name_a_study_or_an_arm(key: str, name: str) -> None:
    setting = key.format(json.dumps(name, ensure_ascii=False))
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", name):
        more = ["verdict.baseline=a", "verdict.also=[]"] if key.startswith("arms") else []
        assert name in make_spec(setting, *more).model_dump_json()
    else:
        with pytest.raises(SpecError) as caught:
            make_spec(setting)
        assert str(caught.value).isprintable()


@pytest.mark.parametrize("text", [MARKUP, *NAMES])
def test_mlflow_gets_the_text_as_it_is(text: str) -> None:
    stored = tracking_names.text(text)
    assert stored == text.replace("\0", "\N{REPLACEMENT CHARACTER}")
