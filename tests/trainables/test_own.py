"""A user's own model by import path: what is wrong with it is told in one line."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from trainables.config import Config
from trainables.loading import Loader
from trainables.models import make_model

Write = Callable[[str], str]
_numbers = itertools.count()


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes a module into a package and returns its name; `nn` and `torch` are there already."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(code: str) -> str:
        package = f"own_model_{next(_numbers)}"
        (tmp_path / package).mkdir()
        text = f"import torch\nfrom torch import nn\n{code}\n"
        (tmp_path / package / "nets.py").write_text(text)
        return f"{package}.nets"

    return write


def build(path: str, **options: Any) -> nn.Module:
    return make_model(path, num_classes=7, in_channels=3, image_size=8, **options)


def told(path: str, **options: Any) -> str:
    with pytest.raises(ValueError) as caught:  # noqa: PT011  each caller checks the message
        build(path, **options)
    assert str(caught.value).isprintable()
    return str(caught.value)


LINEAR = """
def make_net(num_classes, in_channels, image_size, scale=1.0, norm=False):
    size = in_channels * image_size ** 2
    net = nn.Sequential(nn.Flatten(), *[nn.BatchNorm1d(size)] * norm, nn.Linear(size, num_classes))
    with torch.no_grad():
        net[-1].weight.mul_(scale * net[-1].weight.abs().max().item())
    return net
"""


def test_the_callable_gets_the_data_sets_numbers_and_the_options(write: Write) -> None:
    path = f"{write(LINEAR)}:make_net"
    torch.manual_seed(0)
    plain = build(path)
    torch.manual_seed(0)
    scaled = build(path, scale=2.0)
    assert plain(torch.zeros(5, 3, 8, 8)).shape == (5, 7)
    assert torch.equal(scaled[-1].weight, 2 * plain[-1].weight)  # type: ignore[index]


def test_the_image_that_it_sees_moves_no_statistics(write: Write) -> None:
    model = build(f"{write(LINEAR)}:make_net", norm=True)
    [norm] = [module for module in model.modules() if isinstance(module, nn.BatchNorm1d)]
    assert norm.num_batches_tracked == 0
    assert model.training


def test_a_missing_module_is_named_with_the_places_where_it_was_looked_for(write: Write) -> None:
    module = write("")
    package = module.partition(".")[0]
    assert f"nowhere.nets:make: no module 'nowhere' in {Path.cwd()} or" in told("nowhere.nets:make")
    assert f"no module '{package}.other' in " in told(f"{package}.other:make")
    assert f"no module '{module}.deeper' in " in told(f"{module}.deeper:make")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import not_installed", "raised ModuleNotFoundError: No module named 'not_installed'"),
        ("def (:", "raised SyntaxError: invalid syntax (nets.py, line 3)"),
        ("1 / 0", "raised ZeroDivisionError: division by zero"),
    ],
)
def test_a_module_that_cannot_be_imported_is_told(write: Write, code: str, message: str) -> None:
    module = write(code)
    assert told(f"{module}:make") == f"importing {module} {message}"


def test_a_missing_callable_is_told_with_the_nearest(write: Write) -> None:
    module = write(LINEAR + "width = 3")
    assert told(f"{module}:make_nett") == (
        f"{module}:make_nett: module {module} has no attribute 'make_nett'; did you mean "
        "'make_net'?"
    )
    assert told(f"{module}:width") == f"{module}:width is no callable but of type int"


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("raise RuntimeError('too\\nlarge')", "P raised RuntimeError: too large"),
        ("return 3", "P must return a torch.nn.Module, not int"),
        (
            "return nn.Flatten()",
            "the model of P gives [1, 192] for a 3 x 8 x 8 image, not [1, 7]: one logit a class",
        ),
        (
            "return nn.Linear(5, 7)",
            "the model of P raised RuntimeError: mat1 and mat2 shapes cannot be multiplied (24x8 "
            "and 5x7) for a 3 x 8 x 8 image",
        ),
    ],
)
def test_a_model_that_does_not_fit_is_told(write: Write, code: str, message: str) -> None:
    path = f"{write(f'def make(num_classes, in_channels, image_size):{chr(10)}    {code}')}:make"
    assert told(path) == message.replace("P", path)


def test_an_option_that_the_callable_does_not_take_is_told(write: Write) -> None:
    message = told(f"{write(LINEAR)}:make_net", scael=2.0)
    assert message.endswith("got an unexpected keyword argument 'scael'")


CONFIG = Config(
    model="resnet8",
    model_options={},
    lr=0.1,
    momentum=0.9,
    weight_decay=0.0,
    epochs=1,
    batch_size=8,
    label_smoothing=0.0,
    variant="sam",
    perturb="norm",
    rho=0.1,
    train_size=64,
    validation_size=32,
    label_noise=0.0,
    augment="none",
    seed=0,
)


def test_an_own_model_is_checked_before_the_first_trial(write: Write) -> None:
    path = f"{write(LINEAR)}:make_net"

    def problem(model: str, **options: Any) -> str | None:
        fields = {**asdict(CONFIG), "model": model, "model_options": options}
        return Loader({"name": "digits"}).pool({"arm": fields})[2]

    # It reads a value while it builds, which no model without memory can give.
    assert problem(path, norm=True) is None
    assert "arm arm: perturb='norm' selects no trainable parameter" in str(problem(path))
    assert str(problem("nowhere:make")).startswith("arm arm: nowhere:make: no module 'nowhere'")
