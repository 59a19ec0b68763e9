"""Five float64 steps against tests/reference, which follows docs/variants.md a second time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.reference import sam as reference
from tests.reference.geometry import Arrays, perturbation
from tests.reference.problem import Problem
from tests.trainables.sam.nets import NETS, NORM_NAMES, loss_of, make_batches, make_net, sgd
from trainables.sam import SharpnessAware

RATES = [0.1, 0.09, 0.08, 0.06, 0.05]
WHEN = [(0, 4), (0, 4), (0, 4), (1, 4), (1, 4)]
# With this seed esam keeps, in each step, a tensor whose gradient is more than rounding. Biases of
# convolutions before BatchNorm have none: with them alone, which losses rise most is chance.
SEED = 3
# Radii at which no geometry leaves the range in which five steps are well conditioned.
RHO = {"asam_linf": 0.05, "elementwise_linf": 0.05, "asam_layer": 0.05, "layer": 0.05}

SCALED = ["asam", "asam_linf", "asam_layer", "asam_filter"]
GEOMETRIES = ["sam", *SCALED, "fisher_sam"]
ASCENTS = ["fraction:0.25", "fraction:0.01", "previous", "momentum", "random"]

CASES: list[tuple[str, dict[str, Any]]] = [
    ("none", {}),
    ("sam", {}),
    *[(name, {"radius": "shared"}) for name in GEOMETRIES],
    *[(name, {"eta": 0.3, "normalize_bias": False}) for name in SCALED],
    *[("sam", {"ascent": name}) for name in ASCENTS],
    ("sam", {"ascent": "momentum", "radius": "shared"}),
    ("sam", {"ascent": "previous", "radius": "shared"}),
    ("sam", {"ascent": "fraction:0.25", "m": 4}),
    ("sam", {"m": 4}),
    ("sam", {"m": 3, "every": 2}),
    ("sam", {"every": 2}),
    ("sam", {"start_epoch": 1}),
    ("sam", {"end_epoch": 1}),
    ("sam", {"rho_schedule": "linear"}),
    ("sam", {"rho_schedule": "cosine", "rho_end": 0.1}),
    ("sam", {"rho_schedule": "lr", "rho_end": 0.2}),
    ("asam", {}),
    ("asam", {"eta": 0.01}),
    ("asam", {"normalize_bias": False}),
    ("asam", {"m": 6}),
    ("asam", {"ascent": "random"}),
    ("asam_linf", {}),
    ("asam_linf", {"eta": 0.01}),
    ("asam_linf", {"ascent": "previous"}),
    ("asam_layer", {}),
    ("asam_layer", {"eta": 0.2}),
    ("asam_layer", {"ascent": "fraction:0.5"}),
    ("asam_filter", {}),
    ("asam_filter", {"eta": 0.2}),
    ("fisher_sam", {}),
    ("fisher_sam", {"eta": 5.0}),
    ("fisher_sam", {"ascent": "momentum"}),
    ("gsam", {}),
    ("gsam", {"alpha": 0.8, "rho_schedule": "constant", "geometry": "elementwise"}),
    ("gsam", {"m": 4}),
    ("looksam", {"k": 2}),
    ("looksam", {}),
    ("looksam", {"k": 3, "alpha": 0.2, "geometry": "fisher"}),
    ("esam", {}),
    ("esam", {"beta": 0.8, "gamma": 0.3, "geometry": "elementwise"}),
    ("esam", {"gamma": 0.01}),
    ("ssam_f", {}),
    ("ssam_f", {"density": 0.1, "refresh": 1, "fisher_samples": 30}),
    ("ssam_f", {"radius": "shared", "geometry": "elementwise"}),
    ("ssam_f", {"refresh": 1, "bn_statistics": "both"}),
    ("ssam_d", {}),
    ("ssam_d", {"density": 0.2, "refresh": 1, "drop_rate": 0.7}),
    ("ssam_d", {"radius": "shared", "geometry": "layer"}),
    ("lookbehind", {}),
    ("lookbehind", {"k": 3, "alpha": 0.2, "geometry": "elementwise"}),
    ("sampa", {}),
    ("sampa", {"lambda_": 0.7, "geometry": "elementwise"}),
    ("msam", {}),
    ("msam", {"geometry": "elementwise"}),
    ("fsam", {}),
    ("fsam", {"sigma": 0.5, "decay": 0.6, "geometry": "elementwise"}),
    ("fsam", {"m": 4, "radius": "shared"}),
    ("vasso", {}),
    ("vasso", {"theta": 0.4, "geometry": "elementwise"}),
    ("vasso", {"m": 4, "radius": "shared"}),
    ("wsam", {}),
    ("wsam", {"gamma": 0.5, "m": 4}),
    ("stable_sam", {}),
    ("stable_sam", {"geometry": "layer"}),
    # The first perturbs in every of five steps, the second in some of them.
    ("ae_sam", {}),
    ("ae_sam", {"delta": 0.2, "lambda_1": -0.5, "lambda_2": 0.5}),
    ("ire", {}),
    ("ire", {"rank": 0.5, "mu": 1.0, "refresh": 2, "ire_start": 1}),
    ("ire", {"rank": 0.0}),
]
# These choose the perturbed elements themselves.
WITH_MASK = ("ssam_f", "ssam_d")


def parameters() -> list[Any]:
    return [
        pytest.param(
            variant,
            options,
            perturb,
            id="-".join([variant, *(f"{k}={v}" for k, v in options.items()), perturb]),
        )
        for variant, options in CASES
        for perturb in (["all"] if variant in WITH_MASK else ["all", "norm", "no_norm"])
    ]


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(logits, labels, reduction="none")


def subset_names(kind: str, net: nn.Module, perturb: str) -> list[str]:
    names = [name for name, _ in net.named_parameters()]
    if perturb == "all":
        return names
    return [name for name in names if (name in NORM_NAMES[kind]) == (perturb == "norm")]


def draws_of(
    variant: str, options: dict[str, Any], net: nn.Module, names: list[str]
) -> Iterator[Any]:
    """The numbers that SharpnessAware takes from its generator, in its order."""
    generator = torch.Generator().manual_seed(SEED)
    shapes = {name: p.shape for name, p in net.named_parameters()}
    elements = sum(p.numel() for p in net.parameters())
    if variant == "ssam_d":  # the first mask: the elements that come first in a random order
        ranks = torch.empty(elements)
        ranks[torch.randperm(elements, generator=generator)] = -torch.arange(float(elements))
        yield ranks.numpy()
    while True:
        if variant == "esam":
            drawn = torch.rand(len(names), generator=generator)
            kept = drawn < options.get("beta", 0.6)
            yield [name for name, keep in zip(names, kept, strict=True) if keep]
        elif variant == "ssam_d":
            yield torch.rand(elements, generator=generator).numpy()
        else:
            yield {
                name: torch.randn(shapes[name], generator=generator, dtype=torch.float64).numpy()
                for name in names
            }


def steps(
    kind: str, variant: str, options: dict[str, Any], perturb: str
) -> tuple[nn.Module, list[float]]:
    """The net after five steps in two epochs, and the losses that the steps returned."""
    net, batches = make_net(kind), make_batches(5)
    drawing = variant in ("esam", "ssam_d") or options.get("ascent") == "random"
    generator = {"generator": torch.Generator().manual_seed(SEED)} if drawing else {}
    optimizer = SharpnessAware(
        net, sgd(net), variant, perturb, rho_of(variant, options), **generator, **options
    )
    losses = []
    for step, batch in enumerate(batches):
        if step == 0 or WHEN[step] != WHEN[step - 1]:
            needs: dict[str, Any] = {}
            if variant == "ssam_f":
                needs = {"samples": batches, "loss_fn": loss_of(net)}
            optimizer.begin_epoch(*WHEN[step], **needs)
        for group in optimizer.param_groups:
            group["lr"] = RATES[step]
        losses.append(optimizer.step(loss_of(net), batch).item())
    return net, losses


def expected_of(
    kind: str, variant: str, options: dict[str, Any], perturb: str
) -> reference.Trained:
    net = make_net(kind)
    names = subset_names(kind, net, perturb)
    return reference.train(
        Problem(net, cross_entropy),
        make_batches(5),
        variant,
        dict.fromkeys(names, True),
        rho=rho_of(variant, options) or 0.0,
        lr=RATES,
        momentum=0.9,
        weight_decay=0.01,
        when=WHEN,
        draws=draws_of(variant, options, net, names),
        samples=make_batches(5),
        **options,
    )


def rho_of(variant: str, options: dict[str, Any]) -> float | None:
    if variant == "none":
        return None
    return RHO.get(variant, RHO.get(options.get("geometry", ""), 0.2))


@pytest.mark.parametrize("kind", NETS)
@pytest.mark.parametrize(("variant", "options", "perturb"), parameters())
def test_five_steps_follow_the_formula(
    kind: str, variant: str, options: dict[str, Any], perturb: str
) -> None:
    net, losses = steps(kind, variant, options, perturb)
    expected = expected_of(kind, variant, options, perturb)
    for name, p in net.named_parameters():
        got, want = p.detach().numpy(), expected.weights[name]
        assert np.linalg.norm(got - want) <= 1e-9 * np.linalg.norm(want), name
    if not options.get("ascent", "").startswith("fraction"):
        assert losses == pytest.approx(expected.losses, rel=1e-9)


@pytest.mark.parametrize(
    "options",
    [
        *[{"bn_statistics": word} for word in ("first", "both", "none")],
        {"bn_statistics": "first", "m": 4},
        {"bn_statistics": "both", "m": 4},
        {"bn_statistics": "first", "ascent": "previous"},
        {"bn_statistics": "first", "every": 2},
    ],
    ids=str,
)
def test_running_statistics_follow_the_formula(options: dict[str, Any]) -> None:
    net, _ = steps("batch", "sam", options, "all")
    expected = expected_of("batch", "sam", options, "all").statistics
    for name, b in net.named_buffers():
        torch.testing.assert_close(b, expected[name], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", NETS)
@pytest.mark.parametrize("perturb", ["all", "norm", "no_norm"])
def test_the_perturbation_itself_follows_the_formula(kind: str, perturb: str) -> None:
    net, shadow = make_net(kind), make_net(kind)
    (batch,) = make_batches(1)
    optimizer = SharpnessAware(net, sgd(net), "asam", perturb, 0.5, eta=0.1)
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    shifts: list[Arrays] = []

    def loss_fn(b: Any) -> Any:
        shifts.append({k: (p.detach() - before[k]).numpy() for k, p in net.named_parameters()})
        return loss_of(net)(b)

    optimizer.step(loss_fn, batch)

    problem = Problem(shadow, cross_entropy)
    weights = problem.start()
    subset = {k: np.ones_like(weights[k]) for k in subset_names(kind, shadow, perturb)}
    gradient = problem.gradient(weights, batch)
    expected = perturbation("elementwise", weights, gradient, subset, 0.5, eta=0.1)
    for name, moved in shifts[1].items():
        np.testing.assert_allclose(moved, expected.get(name, np.zeros_like(moved)), atol=1e-12)
    length = np.sqrt(sum(np.sum(e**2) for e in expected.values()))
    assert optimizer.last_step.perturbation_norm.item() == pytest.approx(length, rel=1e-12)
