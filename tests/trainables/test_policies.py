"""Policies of augmentation against torchvision, image by image."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.transforms import AutoAugment, AutoAugmentPolicy, RandAugment
from torchvision.transforms.v2 import functional as F

from trainables import policies
from trainables.image_ops import OPERATIONS


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(n: int, channels: int = 3, height: int = 32, width: int = 32) -> Tensor:
    """Smooth enough for a shift of a rounding error to change few pixels."""
    coarse = torch.rand(n, channels, 6, 6, generator=generator(1))
    fine = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")
    return (fine * 255).clamp(0, 255).to(torch.uint8)


def expected(name: str, image: Tensor, magnitude: float) -> Tensor:
    """What torchvision makes of one image."""
    moved: dict[str, Any] = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0]}
    degrees = math.degrees(math.atan(magnitude))
    calls: dict[str, Callable[[], Any]] = {
        "Identity": lambda: image,
        "ShearX": lambda: F.affine(image, **moved | {"shear": [degrees, 0.0]}, center=[0, 0]),
        "ShearY": lambda: F.affine(image, **moved | {"shear": [0.0, degrees]}, center=[0, 0]),
        "TranslateX": lambda: F.affine(image, **moved | {"translate": [int(magnitude), 0]}),
        "TranslateY": lambda: F.affine(image, **moved | {"translate": [0, int(magnitude)]}),
        "Rotate": lambda: F.rotate(image, magnitude),
        "Brightness": lambda: F.adjust_brightness(image, 1 + magnitude),
        "Color": lambda: F.adjust_saturation(image, 1 + magnitude),
        "Contrast": lambda: F.adjust_contrast(image, 1 + magnitude),
        "Sharpness": lambda: F.adjust_sharpness(image, 1 + magnitude),
        "Posterize": lambda: F.posterize(image, int(magnitude)),
        "Solarize": lambda: F.solarize(image, magnitude),
        "AutoContrast": lambda: F.autocontrast(image),
        "Equalize": lambda: F.equalize(image),
        "Invert": lambda: F.invert(image),
    }
    result = calls[name]()
    assert isinstance(result, Tensor)
    return result


def magnitudes(name: str, n: int) -> Tensor:
    """Of every size that the policies use."""
    if name == "Posterize":
        return torch.arange(n, dtype=torch.float64) % 5 + 4
    if name == "Solarize":
        return torch.linspace(0, 255, n, dtype=torch.float64)
    largest = {"ShearX": 0.3, "ShearY": 0.3, "TranslateX": 14.4, "TranslateY": 14.4, "Rotate": 30.0}
    return torch.linspace(-1, 1, n, dtype=torch.float64) * largest.get(name, 0.9)


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 8, 8), (3, 20, 27)])
@pytest.mark.parametrize("name", OPERATIONS)
def test_a_batch_equals_torchvision_image_by_image(name: str, shape: tuple[int, int, int]) -> None:
    batch, sizes = pictures(17, *shape), magnitudes(name, 17)
    got = OPERATIONS[name](batch, sizes)
    wanted = torch.stack(
        [expected(name, image, size) for image, size in zip(batch, sizes.tolist(), strict=True)]
    )
    assert got.dtype == torch.uint8
    off = (got.int() - wanted.int()).abs()
    # A pixel halfway between two may fall to either side, a value halfway between two as well.
    assert (off > 0).float().mean() < 0.01
    if name not in ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate"):
        assert off.max() <= 1
    if shape == (3, 32, 32) and name != "Identity":
        assert (got != batch).float().mean() > 0.1


def test_the_magnitudes_are_those_of_torchvision() -> None:
    for height, width in ((32, 32), (24, 40)):
        space: Any = AutoAugment()._augmentation_space(10, (height, width))
        for name, (found, signed) in space.items():
            for level in range(10):
                wanted = float(found[level]) if found.ndim else 0.0
                assert policies._magnitude(name, level, 9, height, width) == pytest.approx(wanted)
            assert (list(OPERATIONS).index(name) in policies._SIGNED) is signed
        for name, (found, _) in RandAugment()._augmentation_space(31, (height, width)).items():
            wanted = float(found[9]) if found.ndim else 0.0
            assert policies._magnitude(name, 9, 30, height, width) == pytest.approx(wanted)
    assert list(RandAugment()._augmentation_space(31, (8, 8))) == list(OPERATIONS)[:-1]


def test_each_image_gets_one_policy_with_its_operations() -> None:
    """Against torchvision, given the draws of ours."""
    batch = pictures(60)
    got = policies.autoaugment(batch, generator(5))
    draws, n = generator(5), len(batch)
    chosen = torch.randint(25, (n,), generator=draws)
    chances = torch.rand(n, 2, generator=draws)
    signs = [torch.randint(2, (n,), generator=draws) * 2 - 1 for _ in range(2)]
    auto = AutoAugment(AutoAugmentPolicy.CIFAR10)
    space = auto._augmentation_space(10, (32, 32))
    for i, image in enumerate(batch):
        for step, (name, chance, level) in enumerate(auto.policies[int(chosen[i])]):
            if chances[i, step] <= chance:
                found, signed = space[name]
                size = float(found[level]) if level is not None else 0.0
                image = expected(name, image, size * int(signs[step][i]) if signed else size)
        # torchvision's magnitudes are rounded to float32, which moves some values by one.
        assert ((image.int() - got[i].int()).abs() > 2).float().mean() < 0.02


@pytest.mark.parametrize("policy", [policies.autoaugment, policies.randaugment])
def test_the_generator_decides_everything_and_images_are_left(policy: Any) -> None:
    batch = pictures(64)
    copy = batch.clone()
    first = policy(batch, generator(3))
    assert torch.equal(batch, copy)
    assert torch.equal(first, policy(batch, generator(3)))
    assert not torch.equal(first, policy(batch, generator(4)))
    # An image's result does not depend on what else is in the batch.
    other = batch.clone()
    other[1:] = 0
    assert torch.equal(policy(other, generator(3))[0], first[0])


def test_an_operation_is_as_frequent_as_its_policy_says() -> None:
    """Invert is applied with probability (0.1 + 0.1) / 25, and turns black white."""
    black = torch.zeros(20_000, 1, 4, 4, dtype=torch.uint8)
    white = (policies.autoaugment(black, generator()) == 255).flatten(1).all(1)
    table = policies._table(4, 4)
    inverts = table.operations == list(OPERATIONS).index("Invert")
    share = float((inverts * table.chances).sum()) / 25
    assert share == pytest.approx(0.2 / 25)
    assert abs(float(white.float().mean()) - share) < 5 * math.sqrt(share / 20_000)
