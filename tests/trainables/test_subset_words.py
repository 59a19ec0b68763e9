"""The words for subsets of parameters."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from trainables.catalog.subsets import PLAIN, borrowed, canonical, kind, parse, slug


@pytest.mark.parametrize(
    ("perturb", "name"),
    [
        *((word, word) for word in PLAIN),
        ("norm_last:0.50", "norm_last:0.5"),
        ("random:.001", "random:0.001"),
        ("top_magnitude:1.0", "top_magnitude:1"),
        ("top_fisher:matched", "top_fisher:matched"),
        (["head", "norm"], "head+norm"),
        (("norm", "random:matched", "regex:^a+|b:1"), "norm+random:matched+regex:^a+|b:1"),
        ("regex:a+norm", "regex:a+norm"),
    ],
)
def test_a_subset_has_one_name_that_reads_back(perturb: str | list[str], name: str) -> None:
    assert canonical(perturb) == name
    assert parse(name) == parse(perturb)


def test_a_regex_takes_the_rest_of_its_string() -> None:
    assert [str(word) for word in parse("bias+regex:a+norm")] == ["bias", "regex:a+norm"]
    assert parse("regex:regex:x")[0].pattern == "regex:x"


@pytest.mark.parametrize(
    ("perturb", "told"),
    [
        (
            "nrom",
            "unknown subset 'nrom'; allowed: all, norm, no_norm, norm_weight, norm_bias, "
            "bias, head, stem, norm_last:F, regex:R, random:F, top_fisher:F, top_magnitude:F "
            "(0 < F <= 1; the last three also take matched for F); did you mean 'norm'?",
        ),
        ("", "unknown subset ''"),
        ("norm+", "unknown subset ''"),
        ("+regex:a", "unknown subset ''"),
        ("randm:0.5", "did you mean 'random'?"),
        ("norm:0.5", "subset 'norm:0.5': norm stands alone, without ':'"),
        (
            "random",
            "subset 'random' needs a decimal fraction: random:F with 0 < F <= 1, or random:matched",
        ),
        ("random:mached", "; did you mean 'matched'?"),
        ("norm_last:matched", "norm_last:F with 0 < F <= 1"),
        *(
            (f"random:{f}", "needs a decimal fraction")
            for f in ("0", "0.0", "1.1", "-0.5", "1e-3", "nan", "0.5.", " 0.5", "\u0665")
        ),
        ("regex:", "needs a regular expression behind ':'"),
        ("regex:(a", "subset 'regex:(a': no regular expression: missing ), unterminated"),
        ("norm+norm", "subset 'norm' is named twice in one union"),
        (["random:0.5", "random:.50"], "subset 'random:0.5' is named twice"),
        (["regex:a", "norm"], "'regex:a' must be the last word of its union"),
        (["regex:a", "regex:b"], "write several as regex:A|B"),
        ([], "at least one word"),
        ([["norm"]], "a word or a list of words"),
        (5, "a word or a list of words, not 5"),
    ],
)
def test_what_is_no_subset_is_told_in_one_line(perturb: str, told: str) -> None:
    with pytest.raises(ValueError, match=re.escape(told)) as error:
        parse(perturb)
    assert "\n" not in str(error.value)


def test_subsets_that_hold_most_parameters_are_dense() -> None:
    assert [p for p in PLAIN if kind(p) == "dense"] == ["all", "no_norm"]
    assert kind(["head", "no_norm"]) == kind("norm+all") == "dense"
    assert kind("random:1") == kind(["norm", "head"]) == "sparse"


def test_every_sparse_subset_but_norm_borrows_its_range() -> None:
    assert [p for p in PLAIN if not borrowed(p)] == ["all", "norm", "no_norm"]
    assert borrowed("norm+head")
    assert not borrowed(["norm"])
    assert not borrowed("norm+all")


def test_a_slug_is_made_for_names() -> None:
    names = {"norm": "norm", "norm+head": "norm_head", "regex:^a.b$": "regex_a_b"}
    assert {perturb: slug(perturb) for perturb in names} == names


def test_the_words_need_no_torch() -> None:
    code = "import sys, trainables.catalog; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
