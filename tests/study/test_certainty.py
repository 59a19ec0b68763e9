from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from study import certainty, crossed, power, report, stages, stats, tables
from study.records import Result, Status
from study.rounds import judge
from study.verdict import Verdict, decide
from tests.reference import verdict as reference
from tests.study.synthetic import answering, confirm_results, make_contents, make_spec

SPEC = make_spec()
LINE = [91.3, 89.2, 90.4, 90.9, 88.7, 90.1]
NAN = "nan"


def judged(differences: Mapping[str, Sequence[float | Status]], *changes: str) -> Verdict:
    """The verdict on arms that differ so from sam_all."""
    n = len(next(iter(differences.values())))
    spec = make_spec(f"confirm.seeds={n}", *changes)
    line = [LINE[i % 6] for i in range(n)]
    arms: dict[str, Sequence[float | Status]] = {"sam_all": line}
    for arm, values in differences.items():
        arms[arm] = [d if isinstance(d, str) else x + d for d, x in zip(values, line, strict=True)]
    return decide(spec, confirm_results(spec, arms))


@settings(deadline=None)
@given(st.data(), st.integers(3, 7))
def test_words_without_one_pair_are_those_of_brute_force(data: st.DataObject, n: int) -> None:
    values = st.lists(st.floats(-1, 1.5).map(lambda x: round(x, 3)), min_size=n, max_size=n)
    verdict = judged({"sgd": data.draw(values), "sam_on": data.draw(values)})
    family = [list(c.differences.values()) for c in verdict.comparisons]
    left = [[*d[:i], *d[i + 1 :]] for d in family for i in range(n)]
    # On equal differences scipy's test, unlike ours, gives NaN or what rounding left of the spread.
    if min(map(np.std, left)) < 1e-6:
        return
    for which, (c, sure) in enumerate(zip(verdict.comparisons, verdict.certainty, strict=True)):
        words = reference.words_without_one(family, which, 0.5, 0.05)
        expected = {100_000 + i: word for i, word in enumerate(words) if word != c.word}
        assert sure.turning == expected


def test_a_word_that_hangs_on_one_pair_is_a_warning_that_names_its_seed() -> None:
    sure = [3.0, 3.1, 2.9, 3.0, 3.05, 2.95]
    verdict = judged({"sgd": sure, "sam_on": [1.0, 1.1, 0.9, 1.0, 1.05, -1.0]}, "tune.seed=20")
    assert verdict.comparisons[1].word == "undecided"
    assert verdict.certainty[1].turning == {100_025: "better"}
    assert certainty.warnings(verdict) == [
        "sam_on against sam_all: leaving out one pair changes the word: undecided with all 6, "
        "better without seed 100025."
    ]
    cells = [row[-1] for row in tables.certainty_table(SPEC, verdict).rows]
    assert cells == ["always better", "better without seed 100025", "always worse"]
    assert verdict.plain()["certainty"][1]["words_without_one_pair"] == [
        {"seed": 100_025, "word": "better"}
    ]


def test_several_pairs_that_turn_a_word_are_told_in_one_line() -> None:
    verdict = judged({"sgd": [1.0, 0.2, 0.9, 0.1, 0.8, 1.1], "sam_on": [5.0, 9.0, 1, 3, 2, 4]})
    assert certainty.warnings(verdict)[0].endswith(
        "better with all 6, undecided without seed 100000, 100002, 100004 or 100005."
    )


def test_pairs_of_an_incomplete_or_unpaired_comparison_are_not_left_out() -> None:
    values = [0.9, 0.1, 1.5, 0.0, 1.2, 0.9]
    unpaired = judged({"sgd": values, "sam_on": values}, "arms.sam_on.seed_offset=1000")
    assert [bool(c.improvement) for c in unpaired.certainty] == [True, False, False]
    assert unpaired.certainty[1].turning == {}
    assert unpaired.certainty[1].detectable is not None
    incomplete = judged({"sgd": [*values[:5], "failed"], "sam_on": values})
    assert incomplete.certainty[0].turning == {}
    assert incomplete.certainty[0].detectable is not None


def test_power_is_at_the_level_that_a_comparison_of_the_family_has() -> None:
    values = [0.9, 0.1, 1.5, 0.0, 1.2, 0.9]
    verdict = judged({"sgd": values, "sam_on": values[::-1]}, "verdict.confidence=0.9")
    estimate = stats.paired(values)
    found = verdict.certainty[0]
    assert found.detectable == power.detectable(estimate, 0.1 / 3, 0.9)
    assert found.seeds == power.seeds_needed(estimate, 6, 0.5, 0.1 / 3, 0.9)


def test_the_bootstrap_stands_beside_from_ten_pairs_on_at_the_level_of_the_interval() -> None:
    values = list(np.random.default_rng(2).normal(0.3, 0.5, 10).round(3))
    nine = judged({"sgd": values[:9], "sam_on": values[:9]})
    ten = judged({"sgd": values, "sam_on": values})
    assert [c.bootstrap for c in nine.certainty] == [None] * 3
    differences = list(ten.comparisons[0].differences.values())
    assert ten.certainty[0].bootstrap == stats.bootstrap(differences, 1 - 0.05 / 3)
    shown = tables.certainty_table(make_spec(), ten).rows[0][3]
    assert shown.startswith("[")


def test_the_winners_curse_is_the_best_search_score_minus_that_of_the_confirm_seeds() -> None:
    results = make_contents(SPEC).results
    verdict = decide(SPEC, results)
    for arm in verdict.arms:
        if arm.arm == "sgd":  # nothing was chosen
            assert arm.optimism is None
            continue
        scores = {
            stage: [
                r.end.scores["validation_accuracy"]
                for r in results
                if r.trial.arm == arm.arm and r.trial.stage == stage
            ]
            for stage in ("search", "confirm")
        }
        expected = max(scores["search"]) - sum(scores["confirm"]) / 6
        assert arm.optimism == pytest.approx(expected)
        assert verdict.plain()["arms"][arm.arm]["search_optimism"] == pytest.approx(expected)
    [line] = [text for text in certainty.notes(SPEC, verdict) if text.startswith("Winner")]
    assert line.count(",") == 2
    assert "sgd" not in line


def right_of(results: Sequence[Result], arm: str) -> dict[int, np.ndarray]:
    return {
        r.trial.index: crossed.right(r.end.correct)
        for r in results
        if r.trial.arm == arm and r.end.correct is not None
    }


def test_where_runs_say_which_images_they_got_right_an_interval_is_over_those_too() -> None:
    contents = make_contents(SPEC, images=697)
    [judged_] = judge([SPEC], contents)
    verdict, plain = judged_.verdict, judged_.verdict.plain()
    a, b = right_of(contents.results, "sam_on"), right_of(contents.results, "sam_all")
    table = np.stack([a[i] - b[i] for i in range(6)])
    mean, low, high = crossed.interval(table, 1 - 0.05 / 3)
    c = verdict.comparisons[1]
    assert (c.arm, c.against) == ("sam_on", "sam_all")
    assert c.difference == pytest.approx(mean)
    assert c.low is not None
    assert low <= c.low + 1e-9
    assert plain["certainty"][1]["over_seeds_and_images"] == {
        "difference": pytest.approx(mean),
        "interval": [pytest.approx(low), pytest.approx(high)],
        "pairs": 6,
        "images": 697,
    }
    told = f"sam_on against sam_all [{low:+.2f}, {high:+.2f}], 697 images".replace("-", "\u2212")
    notes = [text for text in report.notes(judged_, contents) if "test images" in text]
    assert notes[0].startswith("Interval over new seeds and new test images: sgd against sam_all [")
    assert told in notes[0]
    assert len(notes) == 1
    shown = [row[4] for row in tables.certainty_table(SPEC, verdict).rows]
    assert all(cell.startswith("[") for cell in shown)


def test_pairs_without_single_images_are_left_out_and_that_is_told() -> None:
    spec = make_spec("confirm.seeds=4")
    arms: dict[str, Sequence[float | Status]] = {
        "sgd": ["diverged", "diverged", "diverged", 88.0],
        "sam_all": [90.0, 91.0, 89.0, 90.5],
        "sam_on": [90.0, "diverged", 89.5, 91.0],
    }
    results = [answering(r, 200) for r in confirm_results(spec, arms)]
    verdict = decide(spec, results)
    a, b = right_of(results, "sam_on"), right_of(results, "sam_all")
    table = np.stack([a[i] - b[i] for i in (0, 2, 3)])
    found = verdict.certainty[1].over_images
    assert found is not None
    assert (found.difference, found.low, found.high) == crossed.interval(table, 1 - 0.05 / 3)
    assert found.pairs == 3
    assert verdict.certainty[0].over_images is None  # a single pair is left
    [note] = [text for text in certainty.notes(spec, verdict) if "test images" in text]
    assert note.endswith(
        "200 images, without 1 pair where single images are not known, as of a run that diverged."
    )
    bare = decide(spec, confirm_results(spec, arms))
    assert [c["over_seeds_and_images"] for c in bare.plain()["certainty"]] == [None] * 3
    assert [c.word for c in bare.comparisons] == [c.word for c in verdict.comparisons]


def test_arms_that_are_right_on_the_same_images_have_an_interval_without_width() -> None:
    spec = make_spec("confirm.seeds=3")
    line = [90.0, 91.0, 89.0]
    arms = {"sgd": line, "sam_all": line, "sam_on": line}
    results = [answering(r, 200) for r in confirm_results(spec, arms)]
    [first, *_] = decide(spec, results).certainty
    assert first.over_images is not None
    assert first.over_images.low < 0 < first.over_images.high  # as many are right, but others
    same = [replace(r, end=replace(r.end, correct=results[i % 3].end.correct))
            for i, r in enumerate(results)]  # fmt: skip
    for c in decide(spec, same).certainty:
        assert c.over_images is not None
        assert (c.over_images.difference, c.over_images.low, c.over_images.high) == (0, 0, 0)


def test_arms_on_seeds_of_their_own_have_no_interval_over_images() -> None:
    spec = make_spec("arms.sam_on.seed_offset=7", "arms.sam_all.seed_offset=7")
    arms = {arm: [90.0, 91.0, 89.0, 90.5, 90.0, 92.0] for arm in spec.arms}
    results = [answering(r, 200) for r in confirm_results(spec, arms)]
    assert [c.over_images for c in decide(spec, results).certainty] == [None] * 3


def numbers(value: object) -> list[float]:
    if isinstance(value, Mapping):
        return [x for item in value.values() for x in numbers(item)]
    if isinstance(value, list):
        return [x for item in value for x in numbers(item)]
    return [value] if isinstance(value, float) else []


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("n", [2, 3, 12])
@pytest.mark.parametrize("kind", ["identical", "constant", "failed", "diverged", "one diverged"])
def test_no_number_is_nan_whatever_the_runs_were(kind: str, n: int) -> None:
    values: Sequence[float | Status] = {
        "identical": [0.0] * n,
        "constant": [0.25] * n,
        "failed": ["failed"] * n,
        "diverged": ["diverged"] * n,
        "one diverged": ["diverged", *[0.25] * (n - 1)],
    }[kind]  # type: ignore[assignment]
    verdict = judged({"sgd": [-2.0 - 0.1 * (i % 3) for i in range(n)], "sam_on": values})
    text = json.dumps(verdict.plain(), allow_nan=False)
    assert all(map(math.isfinite, numbers(json.loads(text))))
    spec = make_spec(f"confirm.seeds={n}")
    told = [*certainty.notes(spec, verdict), *certainty.warnings(verdict)]
    cells = [x for row in tables.certainty_table(spec, verdict).rows for x in row]
    assert not [text for text in (*told, *cells) if NAN in text.lower() or "inf" in text.lower()]


def test_identical_arms_are_called_so_with_p_1_and_an_even_chance() -> None:
    verdict = judged({"sgd": [-2.0, -2.1, -1.9], "sam_on": [0.0, 0.0, 0.0]})
    c, sure = verdict.comparisons[1], verdict.certainty[1]
    assert (c.word, c.p, c.difference, c.low, c.high) == ("identical", 1.0, 0, 0, 0)
    assert (sure.improvement, sure.share_better, sure.detectable, sure.seeds) == (
        0.5, 0.5, None, None,
    )  # fmt: skip
    assert sure.turning == {}


def test_different_by_less_than_the_margin_is_an_answer() -> None:
    verdict = judged({"sgd": [-2.0, -2.1, -1.9] * 2, "sam_on": [0.1, 0.12, 0.08, 0.11, 0.1, 0.09]})
    spec = make_spec()
    assert verdict.complete
    assert verdict.comparisons[1].text == "better by less than the margin"
    assert "sam_on tests better than sam_all by 0.10 percentage points" in verdict.sentence
    assert ", less than the margin of 0.5" in verdict.sentence
    assert "by less than the margin" in tables.comparisons_table(spec, verdict).rows[1][-1]
    assert "by less than the margin" in tables.arms_table(spec, verdict).rows[2][4]
    assert verdict.plain()["comparisons"][1]["by_less_than_margin"] is True


def test_the_notes_of_a_report_have_a_line_for_each_number() -> None:
    contents = make_contents(SPEC)
    [planned] = judge([SPEC], contents)
    notes = report.notes(planned, contents)
    assert [re.split("[,:]", text)[0] for text in notes[1:5]] == [
        "Winner's curse",
        "Probability that the first arm is better on a new pair of runs",
        "True difference that these seeds would find with 80 % power",
        "Seeds that would find a true difference of 0.5 points with 80 % power",
    ]


def test_seeds_are_named_as_the_confirm_trials_have_them() -> None:
    spec = make_spec("tune.seed=3")
    slots = stages.confirm_slots(spec, {arm: {} for arm in spec.arms})
    named = {t.index: t.seed for s in slots for t in [s.trial(spec, "confirm", 0, {})]}
    verdict = judged({"sgd": [3.0] * 6, "sam_on": [1.0, 1.1, 0.9, 1.0, 1.05, -1.0]}, "tune.seed=3")
    assert list(verdict.certainty[1].turning) == [named[5]]
