"""The normalization of a network by word: what each makes, and what it leaves to perturb."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from trainables.catalog import MODELS, NORMS, wrong_option
from trainables.models import make_model
from trainables.models.dyt import DyT
from trainables.models.norm import norm_layer, token_norm_layer
from trainables.sam import perturbed_parameters
from trainables.sam.subsets import norm_layers

CHOICES = [(name, norm) for name, model in MODELS.items() for norm in model.norms]
FAMILIES = ("resnet8", "preact_resnet18", "resnext29_32x4d", "densenet100", "convmixer", "vit")
"""One network of each class: it stands for the others where computing takes time."""
SMALL = [(name, norm) for name, norm in CHOICES if name in FAMILIES]
# What a ReLU in place may do to a layer's gradient depends on the network only with DyT.
BARE = [(name, norm) for name, norm in SMALL if norm == "dyt" or name in ("resnet8", "vit")]


@pytest.mark.parametrize(("name", "norm"), CHOICES)
def test_every_network_takes_colour_images_with_every_norm_that_it_allows(
    name: str, norm: str
) -> None:
    with torch.device("meta"):
        model = make_model(name, num_classes=7, in_channels=3, image_size=32, norm=norm)
        assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 7)


@pytest.mark.parametrize("name", sorted(MODELS.keys() - FAMILIES))
def test_every_other_network_takes_small_images(name: str) -> None:
    with torch.device("meta"):
        model = make_model(name, num_classes=7, in_channels=1, image_size=8)
        assert model(torch.zeros(2, 1, 8, 8)).shape == (2, 7)


@pytest.mark.parametrize(
    ("name", "norm", "affine"),
    [(*c, True) for c in SMALL] + [(*c, False) for c in BARE if c[1] != "none"],
)
def test_every_family_learns_from_small_images_with_every_norm_that_it_allows(
    name: str, norm: str, affine: bool
) -> None:
    torch.manual_seed(0)
    options = {"norm": norm, "affine": affine}
    model = make_model(name, num_classes=7, in_channels=1, image_size=8, **options)
    logits = model(torch.randn(2, 1, 8, 8))
    assert logits.isfinite().all()
    logits.square().sum().backward()
    gradients = [p.grad for p in model.parameters()]
    assert all(g is not None and g.isfinite().all() for g in gradients)


@pytest.mark.parametrize(("name", "norm"), [c for c in SMALL if c[1] != "none"])
def test_layers_without_affine_parameters_leave_none_to_perturb(name: str, norm: str) -> None:
    def build(affine: bool) -> nn.Module:
        options = {"norm": norm, "affine": affine}
        return make_model(name, num_classes=7, in_channels=3, image_size=32, **options)

    with torch.device("meta"):
        full, bare = build(True), build(False)
    assert len(norm_layers(bare)) == len(norm_layers(full)) > 0
    with pytest.raises(ValueError, match="selects no trainable parameter"):
        perturbed_parameters(bare, "norm")
    affine = sum(p.numel() for _, p in perturbed_parameters(full, "norm"))
    bare_count, count = (sum(p.numel() for p in model.parameters()) for model in (bare, full))
    assert bare_count == count - affine


@pytest.mark.parametrize("name", MODELS)
def test_no_normalization_leaves_no_layer_of_it(name: str) -> None:
    with torch.device("meta"):
        model = make_model(name, num_classes=7, in_channels=3, image_size=32, norm="none")
    assert norm_layers(model) == []


@pytest.mark.parametrize(("name", "norm"), [("resnet20", "bn"), ("vit", "ln")])
def test_the_first_word_is_the_default(name: str, norm: str) -> None:
    def weights(**options: object) -> torch.Tensor:
        torch.manual_seed(0)
        model = make_model(name, num_classes=7, in_channels=1, image_size=8, **options)
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    assert MODELS[name].norms[0] == norm
    assert torch.equal(weights(), weights(norm=norm, affine=True))


def over(x: torch.Tensor, axes: tuple[int, ...], *, shifted: bool = True) -> torch.Tensor:
    if shifted:
        x = x - x.mean(axes, keepdim=True)
    return x / x.square().mean(axes, keepdim=True).sqrt()


def test_each_word_normalizes_maps_over_the_axes_that_it_stands_for() -> None:
    torch.manual_seed(0)
    x = 3 * torch.randn(5, 24, 6, 4) + 1
    expected = {
        "bn": over(x, (0, 2, 3)),
        "gn": over(x.view(5, 6, 4, 6, 4), (2, 3, 4)).view(x.shape),
        "ln": over(x, (1, 2, 3)),
        "rms": over(x, (1,), shifted=False),
        "none": x,
        "dyt": torch.tanh(0.5 * x),
    }
    assert list(expected) == list(NORMS)
    for kind, value in expected.items():
        for affine in (True, False):
            torch.testing.assert_close(norm_layer(kind, affine)(24)(x), value, rtol=1e-4, atol=1e-4)


def test_each_word_normalizes_tokens_over_their_channels() -> None:
    torch.manual_seed(0)
    x = 3 * torch.randn(5, 9, 24) + 1
    expected = {
        "ln": over(x, (2,)),
        "rms": over(x, (2,), shifted=False),
        "none": x,
        "dyt": torch.tanh(0.5 * x),
    }
    assert list(expected) == list(MODELS["vit"].norms)
    for kind, value in expected.items():
        for affine in (True, False):
            layer = token_norm_layer(kind, affine)(24)
            torch.testing.assert_close(layer(x), value, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("channels", "groups"),
    [(640, 32), (128, 32), (64, 16), (16, 4), (4, 1), (150, 30), (37, 1), (2, 1)],
)
def test_a_group_has_four_channels_or_more_and_a_layer_32_groups_at_most(
    channels: int, groups: int
) -> None:
    layer = norm_layer("gn", True)(channels)
    assert isinstance(layer, nn.GroupNorm)
    assert layer.num_groups == groups


@pytest.mark.parametrize("maps", [True, False])
def test_dyt_is_its_formula(maps: bool) -> None:
    torch.manual_seed(0)
    x = torch.randn((2, 3, 4, 5) if maps else (2, 4, 5, 3), dtype=torch.float64)
    layer = DyT(3, maps=maps).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_()
    values = {name: p.detach().numpy() for name, p in layer.named_parameters()}
    expected = np.empty(x.shape)
    for place, number in np.ndenumerate(x.numpy()):
        channel = place[1] if maps else place[-1]
        squashed = np.tanh(values["alpha"][0] * number)
        expected[place] = values["weight"][channel] * squashed + values["bias"][channel]
    np.testing.assert_allclose(layer(x).detach().numpy(), expected, rtol=1e-12)


def test_alpha_of_dyt_starts_at_one_half_and_counts_as_a_norm_parameter() -> None:
    layer = DyT(3)
    assert {name: p.tolist() for name, p in layer.named_parameters()} == {
        "alpha": [0.5],
        "weight": [1, 1, 1],
        "bias": [0, 0, 0],
    }
    model = nn.Sequential(nn.Linear(3, 3), layer)
    assert [name for name, _ in perturbed_parameters(model, "norm")] == [
        "1.alpha",
        "1.weight",
        "1.bias",
    ]


@pytest.mark.parametrize(
    ("name", "options", "key", "told"),
    [
        ("vit", {"norm": "bn"}, "norm", "unknown norm for vit 'bn'; allowed: ln, rms, none, dyt"),
        ("resnet8", {"norm": "rsm"}, "norm", "bn, gn, ln, rms, none, dyt; did you mean 'rms'?"),
        ("wrn16_4", {"width": 8}, "width", "wrn16_4 takes no width; leave it out"),
        ("timm/resnet18", {"norm": "gn"}, "norm", "timm/resnet18 takes no norm; leave it out"),
        ("timm/resnet18", {"affine": True}, "affine", "timm/resnet18 takes no affine"),
        ("resnet8", {"affine": False, "norm": "none"}, "affine", "norm none has no layers"),
    ],
)
def test_an_option_that_a_model_does_not_take_is_refused(
    name: str, options: dict[str, object], key: str, told: str
) -> None:
    wrong = wrong_option(name, options)
    assert wrong is not None
    assert wrong[0] == key
    assert told in wrong[1]
    with pytest.raises(ValueError, match=r"unknown norm|takes no|has no layers") as caught:
        make_model(name, num_classes=7, in_channels=3, image_size=32, **options)
    assert str(caught.value) == wrong[1]


@pytest.mark.parametrize(("name", "size"), [("convmixer", 7), ("vit_tiny", 30), ("vit_small", 10)])
def test_an_image_that_patches_do_not_fill_is_refused(name: str, size: int) -> None:
    with pytest.raises(ValueError, match=rf"^{name} cuts .* not fill {size}x{size}; choose"):
        make_model(name, num_classes=7, in_channels=3, image_size=size)
