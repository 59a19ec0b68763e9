"""Selection by module type."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
import timm.layers
import torch
from torch import nn

from tests.trainables.sam.nets import NETS, NORM_NAMES, make_net, sgd
from trainables.sam import SharpnessAware, perturbed_parameters, register_norm, subsets


def names(model: nn.Module, perturb: str) -> list[str]:
    return [name for name, _ in perturbed_parameters(model, perturb)]


@pytest.mark.parametrize("kind", NETS)
def test_norm_and_no_norm_partition_all(kind: str) -> None:
    net = make_net(kind)
    assert names(net, "norm") == NORM_NAMES[kind]
    assert names(net, "all") == [name for name, _ in net.named_parameters()]
    assert sorted(names(net, "norm") + names(net, "no_norm")) == sorted(names(net, "all"))


def test_norm_layers_chosen_by_name() -> None:
    class Misleading(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm_proj = nn.Linear(4, 4)
            self.downsample = nn.Sequential(nn.Conv2d(1, 4, 1), nn.BatchNorm2d(4))
            self.ln_f = nn.LayerNorm(4)
            self.bn = nn.Conv2d(4, 4, 1)

    expected = ["downsample.1.weight", "downsample.1.bias", "ln_f.weight", "ln_f.bias"]
    assert names(Misleading(), "norm") == expected


@pytest.mark.parametrize(
    "layer",
    [
        lambda: nn.BatchNorm1d(4),
        lambda: nn.BatchNorm3d(4),
        lambda: nn.SyncBatchNorm(4),
        lambda: nn.InstanceNorm2d(4, affine=True),
        lambda: nn.LayerNorm(4),
        lambda: nn.GroupNorm(2, 4),
        lambda: nn.RMSNorm(4),
        lambda: timm.layers.RmsNorm(4),
        lambda: timm.layers.RmsNorm2d(4),
        lambda: timm.layers.SimpleNorm(4),
        lambda: timm.layers.SimpleNorm2d(4),
        lambda: timm.layers.LayerNorm2d(4),
        lambda: timm.layers.GroupNorm1(4),
        lambda: timm.layers.BatchNormAct2d(4),
        lambda: timm.layers.GroupNormAct(4, 2),
        lambda: timm.layers.LayerNormAct2d(4),
        lambda: timm.layers.SplitBatchNorm2d(4),
        lambda: timm.layers.EvoNorm2dB0(4),
        lambda: timm.layers.EvoNorm2dS0a(4, 2),
        lambda: timm.layers.FilterResponseNormTlu2d(4),
        lambda: timm.layers.grn.GlobalResponseNorm(4),
    ],
)
def test_every_parameter_of_a_norm_layer_counts(layer: Callable[[], nn.Module]) -> None:
    model = nn.Sequential(nn.Linear(4, 4), layer())
    expected = [name for name, _ in model.named_parameters() if name.startswith("1.")]
    assert expected
    assert names(model, "norm") == expected
    assert names(model, "no_norm") == ["0.weight", "0.bias"]


def _parameters_of_norms_in_timm() -> list[str]:
    """Layers of timm that own parameters and have Norm or Abn in their name."""
    kinds = (kind for kind in vars(timm.layers).values() if isinstance(kind, type))
    # What remains are a convolution with a norm layer as child, an MLP and two heads.
    composed = ("ConvNorm", "NormMlp", "ConvBn", "BatchNormAct2dHead")
    return [
        kind.__name__
        for kind in kinds
        if issubclass(kind, nn.Module)
        and ("Norm" in kind.__name__ or "Abn" in kind.__name__)
        and not any(part in kind.__name__ for part in composed)
    ]


@pytest.mark.parametrize("name", _parameters_of_norms_in_timm())
def test_no_norm_layer_of_timm_is_forgotten(name: str) -> None:
    without_parameters = {"FrozenBatchNormAct2d"}
    composed = {"SeparableConvNormAct", "GlobalResponseNormMlp"}
    kind = getattr(timm.layers, name)
    assert issubclass(kind, subsets.norm_types()) or name in without_parameters | composed


def test_parameters_below_a_norm_layer_are_not_its_own() -> None:
    class Conditional(nn.LayerNorm):
        def __init__(self) -> None:
            super().__init__(4)
            self.project = nn.Linear(2, 4)

    assert names(nn.Sequential(Conditional()), "norm") == ["0.weight", "0.bias"]


def test_shared_and_frozen_parameters() -> None:
    norm = nn.LayerNorm(4)
    norm.bias.requires_grad = False
    assert names(nn.Sequential(norm, nn.Linear(4, 4), norm), "norm") == ["0.weight"]
    assert names(nn.Sequential(norm, nn.Linear(4, 4), norm), "all") == [
        "0.weight",
        "1.weight",
        "1.bias",
    ]


def test_users_register_their_own_norm_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subsets, "_registered", [])

    class DynamicTanh(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.alpha = nn.Parameter(torch.ones(1))

    model = nn.Sequential(nn.Linear(2, 2), DynamicTanh())
    with pytest.raises(ValueError, match=r"BatchNorm|_NormBase.*LayerNorm.*register_norm"):
        perturbed_parameters(model, "norm")
    assert register_norm(DynamicTanh) is DynamicTanh
    assert names(model, "norm") == ["1.alpha"]


@pytest.mark.parametrize("kind", [nn.Linear(1, 1), int, "BatchNorm2d"])
def test_only_module_types_can_be_registered(kind: object) -> None:
    with pytest.raises(TypeError, match=r"subclass of torch\.nn\.Module"):
        register_norm(kind)  # type: ignore[type-var]


def test_an_unknown_subset_lists_the_allowed_ones() -> None:
    with pytest.raises(ValueError, match="'gamma'; allowed: all, norm, no_norm"):
        perturbed_parameters(make_net("batch"), "gamma")


def test_a_subset_outside_the_base_optimizer_is_refused() -> None:
    net = make_net("layer")
    head = torch.optim.SGD(net[-1].parameters(), lr=0.1)  # type: ignore[index]
    with pytest.raises(ValueError, match="groups of the base optimizer"):
        SharpnessAware(net, head, "sam", "norm", 0.1)
    with pytest.raises(ValueError, match="selects no trainable parameter"):
        SharpnessAware(nn.Linear(2, 2), sgd(net), "sam", "norm", 0.1)


def test_timm_is_not_imported_for_a_model_without_it() -> None:
    code = (
        "import sys, trainables.sam.subsets as s; s.norm_types(); assert 'timm' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
