"""How often a verdict is wrong: simulated studies whose truth is known.

    python -m benchmarks.calibration [--studies N] [--seed N]

Draws the test accuracies of confirm runs, judges them as study.verdict does, all studies of a cell
at once (`agrees` compares the words with those of study.verdict.decide), and prints the tables of
docs/statistics.md: family-wise error, coverage, and power beside a z-test that knows the true
deviation. The bootstrap is slow, and so are single images, so they get a tenth of the studies.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri, stdtr, stdtrit

from study import crossed, stats
from study.comparison import alpha
from study.records import End, Result, Trial
from study.resolve import resolve
from study.spec import Spec
from study.verdict import decide
from study.yamlfile import Document

SEEDS, ARMS = (3, 5, 8, 16), (2, 4, 12)
ACCURACY, CHANCE, DEVIATION, COLLAPSES = 90.0, 10.0, 0.3, 0.05
"""Percent; DEVIATION: of a difference; COLLAPSES: share of runs that end at chance accuracy."""

ANSWERS, IMAGES = (0.91, 0.9), 697
"""Share of answers that are right, of arm and baseline; images of a test set (digits)."""
SPREADS = {
    "neither": (0.0, 0.0),
    "seeds": (0.1, 0.0),
    "images": (0.0, 0.5),
    "images, and seeds a little": (0.05, 0.5),
    "both": (0.1, 0.5),
}
"""Deviations of an arm's luck with a seed and with an image."""

Array = NDArray[np.float64]
Draw = Callable[[np.random.Generator, tuple[int, int, int]], Array]


@dataclass(frozen=True)
class Truth:
    """Where runs come from. draw: accuracies [studies, arms, seeds], the baseline first.
    difference, deviation: of a pair's difference to the baseline, in percentage points."""

    name: str
    draw: Draw
    difference: float = 0.0
    deviation: float = DEVIATION


@dataclass(frozen=True)
class Judged:
    """Of every study and comparison: the word; whether it says that the difference is less than the
    margin; whether both intervals hold the true difference: the uncorrected one, and the
    simultaneous one of the report. [studies, comparisons]"""

    words: NDArray[np.str_]
    small: NDArray[np.bool_]
    covered: NDArray[np.bool_]
    covered_together: NDArray[np.bool_]


def _against_a_fixed_line(noise: Draw) -> Draw:
    """Runs whose differences to the baseline are `noise`, independent between comparisons."""

    def draw(generator: np.random.Generator, shape: tuple[int, int, int]) -> Array:
        runs = ACCURACY + DEVIATION * noise(generator, shape)
        runs[:, 0] = ACCURACY
        return runs

    return draw


def _shared(generator: np.random.Generator, shape: tuple[int, int, int]) -> Array:
    return generator.normal(ACCURACY, DEVIATION / 2**0.5, shape)


def _skewed_alike(generator: np.random.Generator, shape: tuple[int, int, int]) -> Array:
    return ACCURACY - generator.exponential(DEVIATION / 2**0.5, shape)


def _collapsing(baseline: float) -> Draw:
    """baseline: share of its runs that collapse."""

    def draw(generator: np.random.Generator, shape: tuple[int, int, int]) -> Array:
        runs, chance = _shared(generator, shape), generator.random(shape)
        chance[:, 0] *= COLLAPSES / baseline if baseline else np.inf
        return np.where(chance < COLLAPSES, CHANCE, runs)

    return draw


_LOST = COLLAPSES * (ACCURACY - CHANCE)
NORMAL = Truth("normal", _against_a_fixed_line(lambda g, shape: g.normal(size=shape)))
HEAVY = Truth(
    "heavy tails (t, 3 df)",
    _against_a_fixed_line(lambda g, shape: g.standard_t(3, shape)),
    deviation=DEVIATION * 3**0.5,
)
SKEWED = Truth(
    "skewed differences (exponential)",
    _against_a_fixed_line(lambda g, shape: g.exponential(size=shape) - 1),
)
TRUTHS = (
    NORMAL,
    Truth("normal, noise of the baseline shared", _shared),
    HEAVY,
    Truth("all runs skewed (exponential)", _skewed_alike),
    SKEWED,
    Truth("5 % of all runs collapse", _collapsing(COLLAPSES)),
    Truth("5 % of runs collapse, none of the baseline", _collapsing(0.0), -_LOST),
)


def make_spec(arms: int, seeds: int) -> Spec:
    """A study of so many arms and confirm seeds; the first arm is the baseline."""
    data = {
        "study": "calibration",
        "workload": {
            "data": {"name": "digits", "train_size": 640, "validation_size": 300},
            "model": {"name": "resnet8"},
            "optimizer": {"name": "sgd", "lr": 0.1},
            "epochs": 1,
            "batch_size": 64,
        },
        "arms": {"arm_0": {"variant": "none"}, "arm_1": {"variant": "sam", "perturb": "all"}},
        "search": {"rho": "suggested"},
        "tune": {"trials_per_arm": 1},
        "confirm": {"seeds": seeds},
        "verdict": {"baseline": "arm_0", "equivalence_margin": 0.5},
    }
    spec = resolve(Document(data, {(): "calibration"}))
    named = {f"arm_{i}": spec.arms["arm_1" if i else "arm_0"] for i in range(arms)}
    return spec.model_copy(update={"arms": named})


def judge(spec: Spec, runs: Array, truth: float) -> Judged:
    """What study.verdict says of many studies. runs: accuracies [studies, arms, seeds], the
    baseline first; truth: the true difference of every arm to it."""
    differences = np.round(runs[:, 1:] - runs[:, :1], 9)
    n, family = differences.shape[2], differences.shape[1]
    mean, error = differences.mean(axis=2), differences.std(axis=2, ddof=1) / n**0.5
    spread = error > 0
    safe = np.where(spread, error, 1.0)
    margin, level = spec.verdict.equivalence_margin, alpha(spec)
    p = np.where(spread, 2 * stdtr(n - 1, -np.abs(mean) / safe), mean == 0)
    q = np.where(spread, stdtr(n - 1, (np.abs(mean) - margin) / safe), np.abs(mean) >= margin)
    differs, alike = holm(p) <= level, holm(q) <= level
    words = np.select(
        [(mean == 0) & ~spread, differs & (mean > 0), differs, alike],
        ["identical", "better", "worse", "equivalent"],
        "undecided",
    )
    alone = stdtrit(n - 1, 1 - level / 2) * error
    together = stdtrit(n - 1, 1 - level / family / 2) * error
    off = np.abs(mean - truth)
    small = np.where(differs, np.abs(mean) + together < margin, words == "equivalent")
    return Judged(words, small, off <= alone, off <= together)


def holm(p: Array) -> Array:
    """Adjusted p-values of each row."""
    order = np.argsort(p, axis=1, kind="stable")
    left = np.arange(p.shape[1], 0, -1)
    stepped = np.minimum(1, np.maximum.accumulate(left * np.take_along_axis(p, order, 1), axis=1))
    adjusted = np.empty_like(stepped)
    np.put_along_axis(adjusted, order, stepped, 1)
    return adjusted


def agrees(spec: Spec, runs: Array) -> bool:
    """Whether study.verdict.decide says of every study what `judge` does."""
    found = judge(spec, runs, 0.0)
    return all(
        [(c.word, c.word == "equivalent" or "less" in c.text) for c in verdict.comparisons]
        == list(zip(words, small, strict=True))
        for study, words, small in zip(runs, found.words, found.small, strict=True)
        for verdict in [decide(spec, _results(spec, study))]
    )


def _results(spec: Spec, runs: Array) -> list[Result]:
    results = []
    for arm, accuracies in zip(spec.arms, runs, strict=True):
        for i, accuracy in enumerate(accuracies):
            trial = Trial(spec.study, arm, "confirm", i, 100_000 + i, {})
            scores = {"validation_accuracy": float(accuracy), "test_accuracy": float(accuracy)}
            results.append(Result(trial, End(trial.name, "finished", "", scores, 1, 0.0)))
    return results


@dataclass(frozen=True)
class Cell:
    """Shares of studies, of `coverage` shares of comparisons. error: any arm is told apart, or,
    where arms truly differ, told apart the wrong way round. coverage: of uncorrected intervals.
    together: the simultaneous ones hold all at once. small: arms that lie a margin above the
    baseline, and any of them is said to be equivalent or less than that away."""

    error: float
    coverage: float
    together: float
    small: float


def measure(truth: Truth, arms: int, seeds: int, studies: int, seed: int) -> Cell:
    """Error and coverage over so many studies."""
    spec, generator = make_spec(arms, seeds), np.random.default_rng((seed, arms, seeds))
    runs = truth.draw(generator, (studies, arms, seeds))
    found = judge(spec, runs, truth.difference)
    wrong = found.words == "better"
    if truth.difference == 0:
        wrong |= found.words == "worse"
    moved = runs.copy()
    moved[:, 1:] += spec.verdict.equivalence_margin - truth.difference
    return Cell(
        float(np.mean(wrong.any(axis=1))),
        float(np.mean(found.covered)),
        float(np.mean(found.covered_together.all(axis=1))),
        float(np.mean(judge(spec, moved, 0.0).small.any(axis=1))),
    )


def powers(
    truth: Truth, arms: int, seeds: int, effect: float, studies: int, seed: int
) -> tuple[float, float]:
    """Share of comparisons told apart when every arm is `effect` deviations above the baseline: by
    the verdict, and by a z-test that knows the deviation, with the same correction."""
    spec, generator = make_spec(arms, seeds), np.random.default_rng((seed, arms, seeds))
    runs = truth.draw(generator, (studies, arms, seeds))
    runs[:, 1:] += effect * truth.deviation
    found = judge(spec, runs, 0.0).words == "better"
    z = (runs[:, 1:] - runs[:, :1]).mean(axis=2) * seeds**0.5 / truth.deviation
    oracle = (holm(2 * ndtr(-np.abs(z))) <= alpha(spec)) & (z > 0)
    return float(np.mean(found)), float(np.mean(oracle))


def bootstrap_coverage(truth: Truth, seeds: int, studies: int, seed: int) -> tuple[float, float]:
    """How often the bootstrap interval and the t interval of one comparison hold its difference."""
    held = np.zeros(2)
    for runs in truth.draw(np.random.default_rng((seed, seeds)), (studies, 2, seeds)):
        differences = [float(difference) for difference in runs[1] - runs[0]]
        t = stats.interval(stats.paired(differences), 0.95)
        for which, ends in enumerate((stats.bootstrap(differences, 0.95), t)):
            held[which] += ends is not None and ends[0] <= truth.difference <= ends[1]
    return float(held[0] / studies), float(held[1] / studies)


def answers(
    generator: np.random.Generator, shape: tuple[int, int, int], seeds: float, images: float
) -> NDArray[np.int8]:
    """Which images the arm gets right less which the baseline does: [studies, seeds, images].

    A run gets an image right where a sum of standard normals is above a threshold: the image's
    difficulty, which both arms share, the arm's own luck with the image (deviation `images`) and
    with the seed (`seeds`), and what is left. The arm is right ANSWERS[0] of the times, the
    baseline ANSWERS[1].
    """
    studies, n, m = shape
    difficulty = generator.normal(size=(studies, 1, m))
    deviation = (2 + seeds**2 + images**2) ** 0.5
    found = np.zeros(shape, np.int8)
    for share, sign in zip(ANSWERS, (1, -1), strict=True):
        level = difficulty + generator.normal(0, seeds, (studies, n, 1))
        level = level + generator.normal(0, images, (studies, 1, m))
        is_right = generator.normal(size=shape) + level > -ndtri(share) * deviation
        found += sign * is_right.astype(np.int8)
    return found


def images_coverage(
    spread: tuple[float, float], seeds: int, studies: int, seed: int
) -> tuple[float, float]:
    """How often the 95 % interval over new seeds and images, and the t interval over seeds alone,
    hold the difference on all seeds and images there could be. spread: as of `answers`."""
    generator, held = np.random.default_rng((seed, seeds)), np.zeros(2)
    truth = 100 * (ANSWERS[0] - ANSWERS[1])
    for _ in range(studies):
        [table] = answers(generator, (1, seeds, IMAGES), *spread)
        _, low, high = crossed.interval(table, 0.95)
        _, alone = crossed.estimates(table)
        for which, ends in enumerate(((low, high), stats.interval(alone, 0.95))):
            held[which] += ends[0] <= truth <= ends[1]
    return float(held[0] / studies), float(held[1] / studies)


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--studies", type=int, default=20_000, help="in each cell")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    count, seed = options.studies, options.seed
    every = tuple(f"{n} seeds" for n in SEEDS)
    rows = {
        (truth.name, arms): [measure(truth, arms, n, count, seed) for n in SEEDS]
        for truth in TRUTHS
        for arms in ARMS
    }
    for figure in fields(Cell):
        _print(figure.name, ("truth", "arms", *every))
        for (name, arms), cells in rows.items():
            _row(name, arms, *(f"{100 * getattr(cell, figure.name):.1f}" for cell in cells))
    _print("power", ("truth", "difference", "arms", *every))
    for truth, effect in ((NORMAL, 1.0), (NORMAL, 2.0), (HEAVY, 1.0), (SKEWED, 1.0)):
        for arms in ARMS:
            both = (powers(truth, arms, n, effect, count, seed) for n in SEEDS)
            shares = (f"{100 * mine:.0f} ({100 * oracle:.0f})" for mine, oracle in both)
            _row(truth.name, f"{effect:g} sd", arms, *shares)
    _print("coverage of one comparison", ("truth", "seeds", "bootstrap", "t"))
    for truth in (NORMAL, HEAVY, SKEWED):
        for n in (10, 16):
            held = bootstrap_coverage(truth, n, count // 10, seed)
            _row(truth.name, n, *(f"{100 * share:.1f}" for share in held))
    _print("coverage over new seeds and images (over seeds alone)", ("what varies", *every))
    for name, spread in SPREADS.items():
        pairs = [images_coverage(spread, n, count // 10, seed) for n in SEEDS]
        _row(name, *(f"{100 * over:.1f} ({100 * alone:.1f})" for over, alone in pairs))


def _print(title: str, heads: Sequence[str]) -> None:
    print(f"\n{title}\n")
    _row(*heads)
    _row(*("---" for _ in heads))


def _row(*cells: object) -> None:
    print(f"| {' | '.join(map(str, cells))} |")


if __name__ == "__main__":
    main()
