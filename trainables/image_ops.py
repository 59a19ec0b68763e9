"""Operations on images that augmentation policies are made of, each image with its own magnitude.

What torchvision computes for one magnitude, for a whole batch of them at once: uint8 [n, C, H, W]
with 1 or 3 channels, and magnitudes, float64 [n] on the CPU. What an operation leaves empty is
black.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional
from torchvision.transforms.v2 import functional as F

Operation: TypeAlias = Callable[[Tensor, Tensor], Tensor]


def shear_x(images: Tensor, level: Tensor) -> Tensor:
    """Row y of an image is shifted by level * y pixels, counted from its upper edge."""
    half = images.shape[2] / 2
    return _affine(images, 1.0, level, level * half, 0.0, 1.0, 0.0)


def shear_y(images: Tensor, level: Tensor) -> Tensor:
    """Column x of an image is shifted by level * x pixels, counted from its left edge."""
    half = images.shape[3] / 2
    return _affine(images, 1.0, 0.0, 0.0, level, 1.0, level * half)


def translate_x(images: Tensor, pixels: Tensor) -> Tensor:
    """To the right, by whole pixels: what is after the point is cut off."""
    return _affine(images, 1.0, 0.0, -pixels.trunc(), 0.0, 1.0, 0.0)


def translate_y(images: Tensor, pixels: Tensor) -> Tensor:
    """Downwards, by whole pixels: what is after the point is cut off."""
    return _affine(images, 1.0, 0.0, 0.0, 0.0, 1.0, -pixels.trunc())


def rotate(images: Tensor, degrees: Tensor) -> Tensor:
    """Around the centre, against the clock."""
    sine, cosine = degrees.deg2rad().sin(), degrees.deg2rad().cos()
    return _affine(images, cosine, -sine, 0.0, sine, cosine, 0.0)


def brightness(images: Tensor, magnitude: Tensor) -> Tensor:
    """Towards black (-1) or away from it."""
    return _blend(images, torch.zeros((), device=images.device), magnitude)


def color(images: Tensor, magnitude: Tensor) -> Tensor:
    """Towards grey (-1) or away from it; a grey image stays."""
    return images if images.shape[1] == 1 else _blend(images, _grey(images), magnitude)


def contrast(images: Tensor, magnitude: Tensor) -> Tensor:
    """Towards the mean grey of the image (-1) or away from it."""
    grey = images.float() if images.shape[1] == 1 else _grey(images)
    return _blend(images, grey.mean((1, 2, 3), keepdim=True), magnitude)


def sharpness(images: Tensor, magnitude: Tensor) -> Tensor:
    """Towards a smoothed image (-1) or away from it: the mean of 3x3 pixels, the middle one five
    times, and the border as it is."""
    # F.adjust_sharpness copies its kernel to the device at every call, and waits for that.
    plain = images.float()
    smooth, inner = plain.clone(), plain[..., 1:-1, 1:-1]
    sums = functional.avg_pool2d(plain, 3, 1, divisor_override=1)
    smooth[..., 1:-1, 1:-1] = (sums + 4 * inner).div_(13).round_()
    return _values(plain + _each(-magnitude, images) * (smooth - plain))


def posterize(images: Tensor, bits: Tensor) -> Tensor:
    """Keeps so many bits of every value."""
    return images & _each(256 - 2 ** (8 - bits), images).to(torch.uint8)


def solarize(images: Tensor, threshold: Tensor) -> Tensor:
    """Inverts the values from the threshold on."""
    return torch.where(images >= _each(threshold, images), 255 - images, images)


def autocontrast(images: Tensor, magnitude: Tensor) -> Tensor:
    """Stretches every channel over all values."""
    stretched: Tensor = F.autocontrast(images)
    return stretched


def equalize(images: Tensor, magnitude: Tensor) -> Tensor:
    """Makes the values of every channel equally frequent."""
    equal: Tensor = F.equalize(images)
    return equal


def invert(images: Tensor, magnitude: Tensor) -> Tensor:
    """255 minus every value."""
    return 255 - images


def identity(images: Tensor, magnitude: Tensor) -> Tensor:
    """The images as they are."""
    return images


OPERATIONS: Mapping[str, Operation] = {
    "Identity": identity,
    "ShearX": shear_x,
    "ShearY": shear_y,
    "TranslateX": translate_x,
    "TranslateY": translate_y,
    "Rotate": rotate,
    "Brightness": brightness,
    "Color": color,
    "Contrast": contrast,
    "Sharpness": sharpness,
    "Posterize": posterize,
    "Solarize": solarize,
    "AutoContrast": autocontrast,
    "Equalize": equalize,
    "Invert": invert,
}
"""By the names that torchvision has for them."""


def _each(numbers: Tensor, images: Tensor) -> Tensor:
    """Numbers [n] beside images, [n, 1, 1, 1]."""
    return numbers.to(images.device, torch.float32, non_blocking=True).view(-1, 1, 1, 1)


def _grey(images: Tensor) -> Tensor:
    grey: Tensor = F.rgb_to_grayscale(images.float()).floor_()
    return grey


def _blend(images: Tensor, other: Tensor, magnitude: Tensor) -> Tensor:
    """At magnitude -1 the other image, at 0 the image, beyond that further away from the other."""
    return _values(images * _each(1 + magnitude, images) + other * _each(-magnitude, images))


def _values(numbers: Tensor) -> Tensor:
    return numbers.clamp_(0, 255).to(torch.uint8)


def _affine(images: Tensor, *matrix: Tensor | float) -> Tensor:
    """The nearest pixel at M (x, y, 1), in pixels from the centre; M [2, 3] row by row."""
    n, _, height, width = images.shape
    columns = [torch.as_tensor(x, dtype=torch.float64).expand(n) for x in matrix]
    source = torch.stack(columns, 1).view(n, 2, 3)
    # From pixels to the coordinates of grid_sample, in which an image reaches from -1 to 1.
    source = source / torch.tensor([[width / 2], [height / 2]], dtype=torch.float64)
    theta = source.to(images.device, torch.float32, non_blocking=True)
    x = torch.arange(width, device=images.device) - (width - 1) / 2
    y = torch.arange(height, device=images.device) - (height - 1) / 2
    rows, along = torch.meshgrid(y, x, indexing="ij")
    points = torch.stack((along, rows, torch.ones_like(rows)), -1).view(1, height * width, 3)
    grid = points.expand(n, -1, -1).bmm(theta.transpose(1, 2)).view(n, height, width, 2)
    moved = functional.grid_sample(images.float(), grid, "nearest", "zeros", align_corners=False)
    return moved.to(torch.uint8)
