"""A user's own data set: what it returns is what is trained on, or one line says what is wrong."""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from trainables.data import DataError, load_pool, load_test

Write = Callable[[str], str]
_numbers = itertools.count()


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes a module and returns its name; `np` is there already."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(code: str) -> str:
        name = f"own_data_{next(_numbers)}"
        (tmp_path / f"{name}.py").write_text(f"import numpy as np\n{code}\n")
        return name

    return write


GOOD = """
def load(part, root):
    n = {'pool': 5, 'test': 3}[part]
    images = np.arange(n * 48, dtype=np.uint8).reshape(n, 4, 4, 3).transpose(0, 3, 1, 2)
    return images, np.arange(n, dtype=np.uint8) % 2, ['even', 'odd']
"""


def test_the_parts_are_what_the_callable_returns(write: Write) -> None:
    name = f"{write(GOOD)}:load"
    pool, facts = load_pool(name)
    test, left_out = load_test(name)
    raw = np.arange(5 * 48, dtype=np.uint8).reshape(5, 4, 4, 3)
    assert np.array_equal(pool.images, raw.transpose(0, 3, 1, 2))
    assert np.array_equal(test.images, pool.images[:3])
    assert pool.images.flags.c_contiguous
    assert pool.labels.dtype == np.int64
    assert pool.labels.tolist() == [0, 1, 0, 1, 0]
    assert (facts.classes, facts.shape, facts.pool, facts.test) == (
        ("even", "odd"),
        (3, 4, 4),
        5,
        None,
    )
    assert left_out == ()


def test_the_pool_is_loaded_without_asking_for_test(write: Write) -> None:
    module = write(
        GOOD + "\nasked = []\ninner = load\n"
        "def load(part, root):\n    asked.append(part)\n    return inner(part, root)"
    )
    load_pool(f"{module}:load")
    assert importlib.import_module(module).asked == ["pool"]


def test_root_is_handed_on_as_an_absolute_path_or_as_none(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = write(GOOD.replace("'odd'", "repr(root)")) + ":load"
    monkeypatch.chdir(tmp_path)
    assert load_pool(name)[1].classes[1] == "None"
    assert load_pool(name, root="images")[1].classes[1] == repr(tmp_path / "images")
    assert load_pool(name, root="~/images")[1].classes[1] == repr(Path.home() / "images")


IMAGES, LABELS, CLASSES = "np.zeros((4, 1, 8, 8), np.uint8)", "[0, 1, 1, 0]", "['a', 'b']"


@pytest.mark.parametrize(
    ("images", "labels", "classes", "message"),
    [
        ("np.zeros((4, 1, 8, 8))", LABELS, CLASSES, "not float64 [4, 1, 8, 8]"),
        ("np.zeros((4, 8, 8), np.uint8)", LABELS, CLASSES, "uint8 [n, C, H, W], not uint8 [4, 8"),
        ("np.zeros((0, 1, 8, 8), np.uint8)", "[]", CLASSES, "not uint8 [0, 1, 8, 8]"),
        ("np.zeros((4, 1, 8, 6), np.uint8)", LABELS, CLASSES, "as high as wide, not 1 x 8 x 6"),
        ("[[1], [1, 2]]", LABELS, CLASSES, "images are no array: ValueError: setting an array"),
        ("None", LABELS, CLASSES, "not object []"),
        (IMAGES, "[0, 1, 1]", CLASSES, "whole numbers [4], one an image, not int64 [3]"),
        (IMAGES, "[[0, 1, 1, 0]]", CLASSES, "not int64 [1, 4]"),
        (IMAGES, "[0., 1., 1., 0.]", CLASSES, "not float64 [4]"),
        (IMAGES, "[True, False, True, True]", CLASSES, "not bool [4]"),
        (IMAGES, "[0, 1, 2, 0]", CLASSES, "0 ... 1, one for each of 2 classes, not 0 ... 2"),
        (IMAGES, "[0, 1, -1, 0]", CLASSES, "not -1 ... 1"),
        (IMAGES, LABELS, "'ab'", "at least two class names, each once, not 'ab'"),
        (IMAGES, LABELS, "['a']", "at least two class names, each once, not ['a']"),
        (IMAGES, LABELS, "['a', 'a']", "each once, not ['a', 'a']"),
        (IMAGES, LABELS, "[0, 1]", "a list of words, not [0, 1]"),
        (IMAGES, LABELS, "2", "a list of words, not 2"),
    ],
)
def test_what_cannot_be_trained_on_is_refused_in_one_line(
    write: Write, images: str, labels: str, classes: str, message: str
) -> None:
    module = write(f"def load(part, root):\n    return {images}, {labels}, {classes}")
    for load, part in ((load_pool, "pool"), (load_test, "test")):
        with pytest.raises(DataError) as caught:
            load(f"{module}:load")
        assert str(caught.value).startswith(f"{module}:load, part '{part}': ")
        assert message in str(caught.value)
        assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("return np.zeros((4, 1, 8, 8))", "images, labels and class names, not ndarray"),
        (f"return {IMAGES}, {LABELS}", "images, labels and class names, not 2 values"),
        ("return None", "images, labels and class names, not NoneType"),
        ("raise OSError('no\\nroom')", "raised OSError: no room"),
        ("raise KeyError", "raised KeyError"),
    ],
)
def test_a_callable_that_returns_something_else_is_refused(
    write: Write, code: str, message: str
) -> None:
    module = write(f"def load(part, root):\n    {code}")
    with pytest.raises(DataError) as caught:
        load_pool(f"{module}:load")
    assert str(caught.value).startswith(f"{module}:load")
    assert str(caught.value).endswith(message)


def test_a_callable_without_root_is_told_so(write: Write) -> None:
    module = write("def load(part):\n    pass")
    with pytest.raises(DataError, match=r"raised TypeError: load\(\) got an unexpected .* 'root'"):
        load_pool(f"{module}:load")


def test_the_two_parts_must_fit_each_other(write: Write) -> None:
    classes = write(GOOD.replace("'odd'", "'odd' if part == 'pool' else 'not'"))
    with pytest.raises(DataError, match=r"pool and test differ: even, odd and even, not$"):
        load_test(f"{classes}:load")
    size = write(
        "def load(part, root):\n    n = {'pool': 8, 'test': 6}[part]\n"
        "    return np.zeros((2, 1, n, n), np.uint8), [0, 1], ['a', 'b']"
    )
    with pytest.raises(DataError, match=r"of the pool are 1 x 8 x 8, those of test 1 x 6 x 6$"):
        load_test(f"{size}:load")
