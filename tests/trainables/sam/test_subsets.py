"""Selection by module type."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
import timm
import timm.layers
import torch
from torch import Tensor, nn

from tests.trainables.sam.nets import NETS, NORM_NAMES, loss_of, make_batches, make_net, sgd
from trainables.models import make_model
from trainables.sam import SharpnessAware, masks, perturbed_parameters, register_norm, subsets
from trainables.sam.subsets import fill_fisher, perturbed_elements, selection


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


class Misnamed(nn.Module):
    """Names that say nothing; a parameter of its own before the first layer."""

    def __init__(self) -> None:
        super().__init__()
        self.bias_like = nn.Parameter(torch.ones(2))
        self.head = nn.Conv2d(1, 2, 1)
        self.weight_norm = nn.BatchNorm2d(2)
        self.stem = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3), nn.Linear(3, 2, bias=False))
        self.out = nn.RMSNorm(2)


@pytest.mark.parametrize(
    ("perturb", "expected"),
    [
        ("norm_weight", "weight_norm.weight stem.1.weight out.weight"),
        ("norm_bias", "weight_norm.bias stem.1.bias"),
        ("bias", "head.bias weight_norm.bias stem.0.bias stem.1.bias"),
        ("stem", "head.weight head.bias"),
        ("head", "stem.2.weight"),
        ("norm_last:0.3", "out.weight"),
        ("norm_last:0.34", "stem.1.weight stem.1.bias out.weight"),
        ("norm_last:1", "weight_norm.weight weight_norm.bias stem.1.weight stem.1.bias out.weight"),
        ("regex:^stem.*weight$", "stem.0.weight stem.1.weight stem.2.weight"),
        ("regex:e+ad", "head.weight head.bias"),
        (["norm_bias", "head"], "weight_norm.bias stem.1.bias stem.2.weight"),
        (
            "norm+head+stem",
            "head.weight head.bias weight_norm.weight weight_norm.bias "
            "stem.1.weight stem.1.bias stem.2.weight out.weight",
        ),
        ("norm_last:0.1+regex:_like|out", "bias_like out.weight"),
    ],
)
def test_words_for_whole_tensors(perturb: str | list[str], expected: str) -> None:
    assert [name for name, _ in perturbed_parameters(Misnamed(), perturb)] == expected.split()


def test_a_share_of_the_norm_layers_is_counted_exactly() -> None:
    # 0.7 * 10 is above 7 in floating point.
    model = nn.Sequential(*(nn.RMSNorm(1) for _ in range(10)), nn.LayerNorm(1, bias=False))
    assert len(names(model[:10], "norm_last:0.7")) == 7
    without = nn.Sequential(nn.RMSNorm(1), nn.LayerNorm(1, elementwise_affine=False))
    assert names(without, "norm_last:0.5") == ["0.weight"]


def test_the_head_of_a_timm_model_is_its_classifier() -> None:
    model = timm.create_model("test_vit", num_classes=3)
    assert names(model, "head") == ["head.weight", "head.bias"]
    assert names(model, "stem") == ["patch_embed.proj.weight", "patch_embed.proj.bias"]
    assert "blocks" in names(timm.create_model("test_vit", num_classes=0), "head")[0]


def masked(perturb: str | list[str], kind: str = "batch", seed: int = 0) -> dict[str, Tensor]:
    """The selected elements by name, whole tensors as masks too."""
    found = selection(make_net(kind), perturb, torch.Generator().manual_seed(seed))
    return {
        t.name: torch.ones(t.parameter.shape, dtype=torch.bool) if t.mask is None else t.mask
        for t in found.targets
    }


def count(selected: dict[str, Tensor]) -> int:
    return sum(int(mask.sum()) for mask in selected.values())


@pytest.mark.parametrize("kind", NETS)
@pytest.mark.parametrize("word", ["random", "top_magnitude"])
def test_words_for_elements_select_exactly_their_count(kind: str, word: str) -> None:
    net = make_net(kind)
    total = sum(p.numel() for p in net.parameters())
    for perturb, expected in {
        f"{word}:matched": sum(p.numel() for _, p in perturbed_parameters(net, "norm")),
        f"{word}:0.5": round(total / 2),
        f"{word}:0.00001": 1,
        f"{word}:1": total,
        f"{word}:0.1+{word}:0.3": round(3 * total / 10),
    }.items():
        assert count(masked(perturb, kind)) == perturbed_elements(net, perturb) == expected
        assert all(mask.any() for mask in masked(perturb, kind).values())


@pytest.mark.parametrize(
    "words", [["norm", "random:0.2"], ["head", "random:0.1", "top_magnitude:matched"]]
)
def test_a_union_selects_what_any_of_its_words_does_in_any_order(words: list[str]) -> None:
    net = make_net("batch")
    alone = [masked(word) for word in words]
    expected = {
        name: torch.stack([found.get(name, torch.zeros(p.shape).bool()) for found in alone]).any(0)
        for name, p in net.named_parameters()
    }
    expected = {name: mask for name, mask in expected.items() if mask.any()}
    for order in (words, words[::-1]):
        found = masked(order)
        assert list(found) == list(expected)
        assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert count(expected) <= perturbed_elements(net, words) <= sum(map(count, alone))


def test_whole_tensors_have_no_mask() -> None:
    found = selection(make_net("layer"), "norm+random:0.3", torch.Generator().manual_seed(0))
    assert [t.name for t in found.targets if t.mask is None] == ["2.weight", "2.bias"]
    every = selection(make_net("layer"), "top_magnitude:1")
    assert [t.mask for t in every.targets] == [None] * 6


def test_frozen_tensors_hold_no_selected_elements() -> None:
    net = make_net("batch")
    net[0].weight.requires_grad = False  # type: ignore[index]
    total = sum(p.numel() for p in net.parameters() if p.requires_grad)
    assert "0.weight" not in names(net, "top_magnitude:1")
    assert perturbed_elements(net, "top_magnitude:1") == total


def test_top_magnitude_takes_the_largest_weights() -> None:
    net, chosen = make_net("group"), masked("top_magnitude:matched", "group")
    inside = torch.cat([p[chosen[n]].abs() for n, p in net.named_parameters() if n in chosen])
    outside = torch.cat(
        [
            p[~chosen[n]].abs() if n in chosen else p.abs().flatten()
            for n, p in net.named_parameters()
        ]
    )
    assert inside.min() >= outside.max()


def test_top_fisher_waits_for_its_scores() -> None:
    net = make_net("batch")
    pending = selection(net, "top_fisher:matched+norm_bias")
    assert pending.pending
    assert [t.name for t in pending.targets] == ["1.bias", "4.bias"]
    scores = masks.fisher_scores(net, loss_of(net), make_batches(2))
    filled = fill_fisher(pending, scores)
    assert not filled.pending
    best = masks.top(scores, 20)
    for (name, _), mask in zip(net.named_parameters(), best, strict=True):
        [found] = [t.mask for t in filled.targets if t.name == name] or [mask.new_zeros(mask.shape)]
        if name in ("1.bias", "4.bias"):
            assert found is None
        else:
            assert torch.equal(mask, torch.ones_like(mask) if found is None else found)
    alone = fill_fisher(selection(net, "top_fisher:matched"), scores)
    elements = sum(p.numel() if m is None else int(m.sum()) for _, p, m in alone.targets)
    assert elements == perturbed_elements(net, "top_fisher:matched") == 20
    with pytest.raises(ValueError, match="waits for no scores"):
        fill_fisher(filled, scores)
    with pytest.raises(ValueError, match="one tensor for each trainable parameter"):
        fill_fisher(pending, scores[1:])


@pytest.mark.parametrize(
    ("perturb", "told"),
    [
        ("norm_weight", r"selects no trainable parameter of Sequential\. Looked for .*LayerNorm"),
        ("norm_bias", "Looked for affine layers"),
        ("norm_last:0.5", "Looked for affine layers"),
        ("random:matched", "as many elements as norm, which are none.*Looked for affine"),
        ("head+norm", "perturb='norm' selects no trainable"),
        (
            "regex:x",
            r"Its parameters are 0\.weight, 0\.bias, 1\.weight, 1\.bias, \.\.\. 10\.weight, "
            r"10\.bias, 11\.weight, 11\.bias \(24 in all\)",
        ),
        ("random:0.5", "give generator="),
        ("top_fisher:0.5", "known after the first begin_epoch"),
    ],
)
def test_a_subset_that_selects_nothing_says_why(perturb: str, told: str) -> None:
    model = nn.Sequential(*(nn.Linear(1, 1) for _ in range(12)))
    with pytest.raises(ValueError, match=told):
        perturbed_parameters(model, perturb)


def test_a_frozen_subset_is_empty() -> None:
    net = make_net("batch")
    for _, p in perturbed_parameters(net, "norm"):
        p.requires_grad = False
    with pytest.raises(ValueError, match="perturb='norm' selects no trainable parameter"):
        perturbed_parameters(net, "norm")
    with pytest.raises(ValueError, match="perturb='norm' selects no trainable parameter"):
        perturbed_elements(net, "norm")


def test_elements_are_counted_without_values() -> None:
    with torch.device("meta"):
        net = make_model("resnet8", num_classes=3, in_channels=1, image_size=8, width=4)
        norms = perturbed_elements(net, "norm")
        for word in ("random", "top_fisher", "top_magnitude"):
            assert perturbed_elements(net, f"{word}:matched") == norms


def test_the_largest_elements_of_a_fresh_resnet_hold_every_gamma() -> None:
    # The figures of docs/subsets.md.
    torch.manual_seed(0)
    net = make_model("resnet8", num_classes=10, in_channels=1, image_size=8, width=16)
    masks = {t.name: t.mask for t in selection(net, "top_magnitude:matched").targets}
    gammas = [name for name, _ in perturbed_parameters(net, "norm_weight")]
    assert perturbed_elements(net, "top_magnitude:matched") == 672
    assert sum(p.numel() for _, p in perturbed_parameters(net, "norm_weight")) == 336
    assert all(masks[name] is None for name in gammas)


def test_timm_is_not_imported_for_a_model_without_it() -> None:
    code = (
        "import sys, trainables.sam.subsets as s; s.norm_types(); assert 'timm' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
