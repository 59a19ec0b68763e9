"""Models by name: shapes, parameter counts, and errors that name what is allowed."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
import torch
from torch import nn

from trainables.catalog import MODELS
from trainables.models import make_model
from trainables.sam import perturbed_parameters


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("name", ["resnet8", "resnet20", "resnet32", "resnet44", "resnet56"])
def test_a_resnet_has_as_many_layers_as_its_name_says(name: str) -> None:
    model = make_model(name, num_classes=10, in_channels=3, image_size=32, width=4)
    # Projection shortcuts are not counted, as in the paper.
    weighted = [
        module
        for path, module in model.named_modules()
        if isinstance(module, (nn.Conv2d, nn.Linear)) and "shortcut" not in path
    ]
    assert len(weighted) == int(name.removeprefix("resnet"))


@pytest.mark.parametrize(
    ("name", "count", "of_norm", "share"),
    [
        ("resnet56", 861_620, 4_256, 0.494),
        ("wrn28_10", 36_536_884, 17_952, 0.049),
        ("resnext29_32x4d", 4_868_004, 25_216, 0.518),
        ("vit_tiny", 5_380_132, 9_600, 0.178),
        ("vit_small", 21_376_996, 19_200, 0.090),
    ],
)
def test_the_networks_of_the_paper_have_its_share_of_norm_parameters(
    name: str, count: int, of_norm: int, share: float
) -> None:
    with torch.device("meta"):
        model = make_model(name, num_classes=100, in_channels=3, image_size=32)
    assert parameters(model) == count
    assert sum(p.numel() for _, p in perturbed_parameters(model, "norm")) == of_norm
    assert 100 * of_norm / count == pytest.approx(share, abs=0.0005)


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("wrn16_4", 2_748_890),
        ("densenet100", 769_162),
        ("preact_resnet18", 11_172_170),
        ("convmixer", 594_186),
    ],
)
def test_other_networks_have_the_parameters_that_their_papers_count(name: str, count: int) -> None:
    with torch.device("meta"):
        model = make_model(name, num_classes=10, in_channels=3, image_size=32)
    assert parameters(model) == count


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("preact_resnet18", 18),
        ("wrn16_4", 16),
        ("wrn28_10", 28),
        ("resnext29_32x4d", 29),
        ("densenet100", 100),
    ],
)
def test_a_network_has_as_many_layers_as_its_name_says(name: str, layers: int) -> None:
    with torch.device("meta"):
        model = make_model(name, num_classes=10, in_channels=3, image_size=32)
    weighted = [
        module
        for path, module in model.named_modules()
        if isinstance(module, (nn.Conv2d, nn.Linear)) and "shortcut" not in path
    ]
    # A WRN counts its three shortcuts, and not its head.
    assert len(weighted) == layers - (2 if name.startswith("wrn") else 0)


def test_numbers_of_a_resnet_with_batch_norm_are_those_of_every_study_so_far() -> None:
    torch.manual_seed(0)
    model = make_model("resnet8", num_classes=10, in_channels=1, image_size=8, width=16)
    start = torch.cat([p.detach().flatten() for p in model.parameters()]).double()
    images = torch.linspace(-1, 1, 4 * 64).view(4, 1, 8, 8)
    places = torch.arange(len(start)).cos()
    assert start.dot(start).item() == pytest.approx(792.2075706, rel=1e-6)
    assert start.dot(places.double()).item() == pytest.approx(-10.07789646, rel=1e-5)
    logits = [-0.986798, 0.855830, -0.244090, 0.772967, -0.099157]
    assert model(images)[0, :5].tolist() == pytest.approx(logits, rel=1e-4)


@pytest.mark.parametrize(("size", "channels"), [(8, 1), (32, 3), (7, 2)])
@pytest.mark.parametrize("width", [4, 16])
def test_a_resnet_maps_images_to_logits(size: int, channels: int, width: int) -> None:
    model = make_model("resnet8", num_classes=7, in_channels=channels, image_size=size, width=width)
    assert model(torch.zeros(5, channels, size, size)).shape == (5, 7)


def test_the_three_stages_halve_the_image_and_double_the_width() -> None:
    model = make_model("resnet20", num_classes=10, in_channels=3, image_size=32)
    shapes = []
    for module in model.modules():
        if type(module).__name__ == "BasicBlock":
            module.register_forward_hook(lambda _, __, out: shapes.append(tuple(out.shape[1:])))
    model(torch.zeros(2, 3, 32, 32))
    assert shapes == [(16, 32, 32)] * 3 + [(32, 16, 16)] * 3 + [(64, 8, 8)] * 3


def test_convolutions_have_no_bias_and_start_with_variance_two_over_fan_out() -> None:
    torch.manual_seed(0)
    model = make_model("resnet20", num_classes=10, in_channels=3, image_size=32, width=32)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            assert module.bias is None
            fan_out = module.out_channels * module.kernel_size[0] ** 2
            assert module.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.1)
        if isinstance(module, nn.BatchNorm2d):
            assert torch.equal(module.weight, torch.ones_like(module.weight))
            assert torch.equal(module.bias, torch.zeros_like(module.bias))


def test_the_global_generator_decides_the_weights() -> None:
    def build(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        model = make_model("resnet8", num_classes=10, in_channels=1, image_size=8)
        return torch.cat([parameter.flatten() for parameter in model.parameters()])

    assert torch.equal(build(0), build(0))
    assert not torch.equal(build(0), build(1))


def test_the_forward_pass_is_that_of_the_formula() -> None:
    torch.manual_seed(0)
    model = make_model("resnet8", num_classes=10, in_channels=1, image_size=8, width=4).eval()
    weights = {name: value.double() for name, value in model.state_dict().items()}

    def conv_norm(x: torch.Tensor, conv: str, norm: str, stride: int) -> torch.Tensor:
        kernel = weights[f"{conv}.weight"]
        out = nn.functional.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)
        mean, var, scale, shift = (
            weights[f"{norm}.{name}"][:, None, None]
            for name in ("running_mean", "running_var", "weight", "bias")
        )
        normed: torch.Tensor = (out - mean) / (var + 1e-5).sqrt() * scale + shift
        return normed

    images = torch.randn(3, 1, 8, 8)
    x = conv_norm(images.double(), "stem.0", "stem.1", 1).clamp(min=0)
    for block in range(3):
        path, stride = f"blocks.{block}", 1 if block == 0 else 2
        out = conv_norm(x, f"{path}.conv1", f"{path}.norm1", stride).clamp(min=0)
        out = conv_norm(out, f"{path}.conv2", f"{path}.norm2", 1)
        if block > 0:
            x = conv_norm(x, f"{path}.shortcut.0", f"{path}.shortcut.1", stride)
        x = (out + x).clamp(min=0)
    expected = x.mean((2, 3)) @ weights["head.weight"].T + weights["head.bias"]
    torch.testing.assert_close(model(images).double(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "size", "channels"),
    [
        ("timm/resnet10t", 8, 1),
        ("timm/resnet10t.c3_in1k", 32, 3),
        ("timm/vit_tiny_patch16_224", 32, 3),
        ("timm/vit_tiny_patch16_224", 48, 1),
    ],
)
def test_a_timm_model_takes_the_images_and_classes_of_the_study(
    name: str, size: int, channels: int
) -> None:
    model = make_model(name, num_classes=7, in_channels=channels, image_size=size)
    assert model.training
    assert model(torch.zeros(2, channels, size, size)).shape == (2, 7)


def test_checking_a_timm_model_moves_no_statistics() -> None:
    model = make_model("timm/resnet10t", num_classes=7, in_channels=3, image_size=32)
    steps = [value for name, value in model.state_dict().items() if "num_batches" in name]
    assert len(steps) > 0
    assert all(step == 0 for step in steps)


@pytest.mark.parametrize(
    ("size", "channels", "patch", "count"), [(8, 1, 2, 202_186), (32, 3, 4, 208_074)]
)
def test_the_vit_has_its_parameters_of_which_1152_are_norm(
    size: int, channels: int, patch: int, count: int
) -> None:
    model = make_model("vit", num_classes=10, in_channels=channels, image_size=size)
    block = 2 * 2 * 64 + (64 + 1) * 3 * 64 + (64 + 1) * 64 + (64 + 1) * 256 + (256 + 1) * 64
    positions = (size // patch) ** 2 + 1
    embedding = (channels * patch**2 + 1) * 64 + (positions + 1) * 64
    assert parameters(model) == 4 * block + embedding + 2 * 64 + (64 + 1) * 10 == count
    norms = [parameter.numel() for _, parameter in perturbed_parameters(model, "norm")]
    assert sum(norms) == 9 * 2 * 64 == 1152
    assert model(torch.zeros(5, channels, size, size)).shape == (5, 10)


@pytest.mark.parametrize(("size", "patch"), [(16, 2), (20, 4), (96, 4)])
def test_the_patches_of_the_vit_follow_the_size_of_the_image(size: int, patch: int) -> None:
    model = make_model("vit", num_classes=10, in_channels=1, image_size=size)
    [conv] = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    assert conv.kernel_size == conv.stride == (patch, patch)


@pytest.mark.parametrize(("size", "patch"), [(9, 2), (30, 4)])
def test_an_image_that_the_patches_of_the_vit_do_not_fill_is_refused(size: int, patch: int) -> None:
    with pytest.raises(ValueError, match=rf"not fill {size}x{size}; .* a multiple of {patch}$"):
        make_model("vit", num_classes=10, in_channels=1, image_size=size)


@pytest.mark.parametrize("name", ["resnet8", "vit", "timm/resnet10t", "timm/vit_tiny_patch16_224"])
def test_models_build_on_the_meta_device(name: str) -> None:
    with torch.device("meta"):
        model = make_model(name, num_classes=7, in_channels=3, image_size=32)
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    real = make_model(name, num_classes=7, in_channels=3, image_size=32)
    assert parameters(model) == parameters(real)


def test_a_name_of_no_known_form_is_refused_with_the_names_and_the_nearest() -> None:
    with pytest.raises(
        ValueError, match=r"'resent20' is not one of resnet8, .*, vit, .*, MODULE:C"
    ) as e:
        make_model("resent20", num_classes=10, in_channels=3, image_size=32)
    assert str(e.value).endswith("; did you mean resnet20?")


def test_a_name_that_timm_does_not_know_is_refused_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="no model 'vit_tiny_patch16'; nearest: timm/vit_"):
        make_model("timm/vit_tiny_patch16", num_classes=10, in_channels=3, image_size=32)


def test_a_tag_that_timm_does_not_know_is_refused() -> None:
    with pytest.raises(ValueError, match=re.escape("timm/resnet10t.nowhere")):
        make_model("timm/resnet10t.nowhere", num_classes=10, in_channels=3, image_size=32)


def test_images_that_a_timm_model_cannot_take_are_refused_with_their_size() -> None:
    with pytest.raises(ValueError, match=r"patch16_224 does not take 1 x 8 x 8 images.*size"):
        make_model("timm/vit_tiny_patch16_224", num_classes=10, in_channels=1, image_size=8)


def test_a_width_for_a_timm_model_is_refused() -> None:
    with pytest.raises(ValueError, match="timm/resnet10t takes no width"):
        make_model("timm/resnet10t", num_classes=10, in_channels=3, image_size=32, width=16)


def test_any_other_option_is_refused() -> None:
    for name in (*MODELS, "timm/resnet10t"):
        with pytest.raises(ValueError, match=f"{name} takes no depth"):
            make_model(name, num_classes=10, in_channels=3, image_size=32, depth=2)


def test_timm_is_imported_only_for_its_models() -> None:
    code = (
        "import sys; from trainables.models import make_model;"
        "make_model('resnet8', num_classes=10, in_channels=1, image_size=8);"
        "sys.exit('timm' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
