"""The references themselves, where a closed form or an identity is known."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.reference.geometry import GEOMETRIES
from tests.reference.problem import Batch, Problem
from tests.reference.sam import Trained, rho_share, train
from tests.reference.variants import VARIANTS, largest
from tests.trainables.sam.nets import make_batches, make_net

ALL = {"weight": True}
H = np.array([1.0, 3.0, 0.2])
W = np.array([2.0, -1.0, 3.0])
RHO, LR = 0.3, 0.1


class Quadratic(nn.Module):
    """A loss of sum(h (w - x)^2) / 2 for each sample x: gradient h (w - mean x)."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(W))

    def forward(self, x: Tensor) -> Tensor:
        return (torch.tensor(H) * (self.weight - x).square()).sum(1) / 2


def batches_around(*centres: float) -> list[Batch]:
    """One batch of two samples a centre, 1 apart from it."""
    return [
        (torch.tensor([[c - 1.0] * 3, [c + 1.0] * 3], dtype=torch.float64), torch.zeros(2))
        for c in centres
    ]


def run(variant: str, *centres: float, rho: float = RHO, **options: Any) -> Trained:
    problem = Problem(Quadratic(), lambda losses, labels: losses)
    subset = options.pop("subset", ALL)
    return train(problem, batches_around(*centres), variant, subset, rho=rho, lr=LR, **options)


def after(variant: str, *centres: float, **options: Any) -> Any:
    return run(variant, *centres, **options).weights["weight"]


def gradient(w: Any, centre: float = 0.0) -> Any:
    return H * (w - centre)


def unit(a: Any) -> Any:
    return a / np.linalg.norm(a)


def sam_gradient(w: Any, centre: float = 0.0, rho: float = RHO) -> Any:
    return gradient(w + rho * unit(gradient(w, centre)), centre)


def test_a_step_of_sgd_with_momentum_and_weight_decay_by_hand() -> None:
    first = gradient(W) + 0.5 * W
    w = W - LR * first
    w = w - LR * (0.9 * first + gradient(w, 1) + 0.5 * w)
    np.testing.assert_allclose(after("none", 0, 1, momentum=0.9, weight_decay=0.5), w, rtol=1e-13)


def test_sam_by_hand() -> None:
    w = W - LR * sam_gradient(W)
    w = w - LR * sam_gradient(w, 1)
    np.testing.assert_allclose(after("sam", 0, 1), w, rtol=1e-13)


def test_losses_are_those_before_the_step() -> None:
    # Samples 1 apart from the centre add sum(h) / 2.
    assert run("sam", 0).losses == [pytest.approx((H * W**2).sum() / 2 + H.sum() / 2)]


AT_ZERO_RADIUS = [
    *[("sam", {"geometry": name}) for name in GEOMETRIES],
    *[("sam", {"ascent": name}) for name in ("fraction:0.5", "previous", "momentum")],
    *[(name, {}) for name in ("asam", "asam_linf", "asam_layer", "asam_filter", "fisher_sam")],
    *[(name, {}) for name in ("gsam", "msam", "fsam", "vasso", "wsam", "stable_sam", "ae_sam")],
    ("lookbehind", {"k": 1, "alpha": 1.0}),
    ("ssam_f", {"samples": batches_around(0)}),
    ("ire", {"mu": 0.0}),
    ("esam", {"gamma": 1.0, "draws": [["weight"]] * 3}),
    ("ssam_d", {"draws": [np.array([0.3, 0.1, 0.2])] * 2}),
]


@pytest.mark.parametrize(("variant", "options"), AT_ZERO_RADIUS)
def test_rho_zero_is_sgd(variant: str, options: dict[str, Any]) -> None:
    base = {"momentum": 0.9, "weight_decay": 0.1}
    expected = after("none", 0, 1, -1, **base)
    found = after(variant, 0, 1, -1, rho=0.0, **base, **options)
    np.testing.assert_allclose(found, expected, rtol=1e-13)


AS_SAM = [
    ("gsam", {"alpha": 0.0, "rho_schedule": "constant"}),
    ("looksam", {"k": 1}),
    ("lookbehind", {"k": 1, "alpha": 1.0}),
    ("vasso", {"theta": 1.0}),
    ("fsam", {"sigma": 0.0}),
    ("ire", {"mu": 0.0}),
    ("ire", {"ire_start": 1}),
    ("ae_sam", {"lambda_1": -1e9, "lambda_2": -1e9}),
    ("esam", {"beta": 1.0, "gamma": 1.0, "draws": [["weight"]] * 3}),
    ("ssam_f", {"density": 1.0, "samples": batches_around(0)}),
    ("ssam_d", {"density": 1.0, "draws": [np.array([0.3, 0.1, 0.2])] * 2}),
    ("sam", {"ascent": "fraction:1"}),
    ("sam", {"m": 2}),
    ("sam", {"radius": "shared"}),
]


@pytest.mark.parametrize(("variant", "options"), AS_SAM)
def test_a_variant_at_the_option_that_makes_it_sam(variant: str, options: dict[str, Any]) -> None:
    base = {"momentum": 0.9, "weight_decay": 0.1}
    expected = after("sam", 0, 1, -1, **base)
    np.testing.assert_allclose(after(variant, 0, 1, -1, **base, **options), expected, rtol=1e-12)


def test_wsam_at_one_half_and_without_momentum_is_sam() -> None:
    np.testing.assert_allclose(after("wsam", 0, gamma=0.5), after("sam", 0), rtol=1e-13)


def test_wsam_by_hand() -> None:
    expected = W - LR * gradient(W) - LR * 9 * (sam_gradient(W) - gradient(W))
    np.testing.assert_allclose(after("wsam", 0, gamma=0.9), expected, rtol=1e-13)


def test_gsam_takes_away_what_is_orthogonal_to_the_perturbed_gradient() -> None:
    g_p = sam_gradient(W)
    u = (W - after("gsam", 0, alpha=0.8)) / LR
    assert np.dot(u - g_p, g_p) == pytest.approx(0, abs=1e-12)
    orthogonal = gradient(W) - np.dot(gradient(W), unit(g_p)) * unit(g_p)
    np.testing.assert_allclose(u, g_p - 0.8 * orthogonal, rtol=1e-12)


def test_looksam_by_hand() -> None:
    g, g_p = gradient(W), sam_gradient(W)
    w = W - LR * g_p
    g_v = g_p - np.dot(g_p, unit(g)) * unit(g)
    g = gradient(w, 1)
    w = w - LR * (g + 0.7 * np.linalg.norm(g) * unit(g_v))
    np.testing.assert_allclose(after("looksam", 0, 1, k=2), w, rtol=1e-12)


def test_esam_by_hand() -> None:
    at = W + RHO / 0.6 * unit(gradient(W))
    # Of two samples beside 0, that on the other side of w rises more.
    rise = [((H * (at - x) ** 2) - (H * (W - x) ** 2)).sum() for x in (-1, 1)]
    expected = W - LR * gradient(at, (-1, 1)[int(np.argmax(rise))])
    np.testing.assert_allclose(after("esam", 0, draws=[["weight"]]), expected, rtol=1e-12)
    assert after("esam", 0, draws=[[]], gamma=1.0) == pytest.approx(W - LR * gradient(W))


def test_ssam_f_perturbs_the_elements_of_largest_squared_sample_gradients() -> None:
    # Squares of gradients at samples -1 and 1: 1 (9 + 1), 9 (0 + 4), 0.04 (16 + 4).
    e = np.array([0.0, RHO * np.sign(gradient(W)[1]), 0.0])
    found = after("ssam_f", 0, density=1 / 3, samples=batches_around(0))
    np.testing.assert_allclose(found, W - LR * gradient(W + e), rtol=1e-12)


def test_ssam_d_exchanges_elements_after_the_first_step() -> None:
    # k = 2: first elements 0 and 2; |g| is 2 and 0.6, so 2 goes, and 1 is all that can come.
    draws = [np.array([0.9, 0.1, 0.5]), np.array([0.9, 0.2, 0.8])]
    found = after("ssam_d", 0, 0, density=2 / 3, draws=draws)
    w = W
    for mask in ([1, 0, 1], [1, 1, 0]):
        w = w - LR * gradient(w + RHO * unit(gradient(w) * mask))
    np.testing.assert_allclose(found, w, rtol=1e-12)


def test_lookbehind_by_hand() -> None:
    p_1 = W + RHO * unit(gradient(W))
    p_2 = p_1 + RHO * unit(gradient(p_1))
    f = W - LR * gradient(p_1)
    f = f - LR * gradient(p_2)
    np.testing.assert_allclose(after("lookbehind", 0), W + 0.5 * (f - W), rtol=1e-13)


def test_sampa_by_hand() -> None:
    w_1 = W - LR * gradient(W)
    q = gradient(W)
    e = RHO * unit(q)
    ahead = gradient(w_1 - LR * q, 1)
    w_2 = w_1 - LR * (0.8 * gradient(w_1 + e, 0) + 0.2 * ahead)
    np.testing.assert_allclose(after("sampa", 0, 1), w_2, rtol=1e-13)
    loss = (H * (w_1 - LR * q - 1) ** 2).sum() / 2 + H.sum() / 2
    assert run("sampa", 0, 1).losses[1] == pytest.approx(loss)


def test_msam_by_hand() -> None:
    v_1 = gradient(W)
    w_1 = W - LR * v_1
    at = w_1 - RHO * unit(v_1)
    w_2 = w_1 - LR * (0.9 * v_1 + gradient(at, 1))
    np.testing.assert_allclose(after("msam", 0, 1, momentum=0.9), w_2, rtol=1e-13)
    loss = (H * (at - 1) ** 2).sum() / 2 + H.sum() / 2
    assert run("msam", 0, 1, momentum=0.9).losses[1] == pytest.approx(loss)


def test_ascent_of_the_step_before_by_hand() -> None:
    g_p = gradient(W)
    w = W - LR * g_p
    w = w - LR * gradient(w + RHO * unit(g_p), 1)
    np.testing.assert_allclose(after("sam", 0, 1, ascent="previous"), w, rtol=1e-13)


def test_random_ascent_by_hand() -> None:
    drawn = np.array([1.0, -2.0, 0.5])
    expected = W - LR * gradient(W + RHO * unit(drawn))
    found = after("sam", 0, ascent="random", draws=[{"weight": drawn}])
    np.testing.assert_allclose(found, expected, rtol=1e-13)


def test_fsam_by_hand() -> None:
    c = gradient(W)
    w = W - LR * sam_gradient(W)
    for centre in (1, -1):
        g = gradient(w, centre)
        w = w - LR * gradient(w + RHO * unit(g - 0.5 * c), centre)
        c = 0.6 * c + 0.4 * g
    np.testing.assert_allclose(after("fsam", 0, 1, -1, sigma=0.5, decay=0.6), w, rtol=1e-12)


def test_vasso_by_hand() -> None:
    a = gradient(W)
    w = W - LR * sam_gradient(W)
    for centre in (1, -1):
        a = 0.6 * a + 0.4 * gradient(w, centre)
        w = w - LR * gradient(w + RHO * unit(a), centre)
    np.testing.assert_allclose(after("vasso", 0, 1, -1, theta=0.4), w, rtol=1e-12)


def test_stable_sam_gives_the_base_a_gradient_as_long_as_that_at_w() -> None:
    u = (W - after("stable_sam", 0)) / LR
    assert np.linalg.norm(u) == pytest.approx(np.linalg.norm(gradient(W)), rel=1e-12)
    np.testing.assert_allclose(unit(u), unit(sam_gradient(W)), rtol=1e-12)


def test_ae_sam_perturbs_where_the_gradient_is_long() -> None:
    rule = {"delta": 0.5, "lambda_1": 0.0, "lambda_2": 0.0}
    # n(g)^2 of 13.36 is above half of itself; the next one of 5.7 is below mu of 6.2.
    w = W - LR * sam_gradient(W)
    w = w - LR * gradient(w, -0.5)
    np.testing.assert_allclose(after("ae_sam", 0, -0.5, **rule), w, rtol=1e-12)


def test_ire_moves_flat_directions_further() -> None:
    # g^2 is 4, 9, 0.36; floor(0.7 3) = 2, so all but the largest are flat.
    expected = W - LR * sam_gradient(W) * np.array([3, 1, 3])
    np.testing.assert_allclose(after("ire", 0, rank=0.7), expected, rtol=1e-12)
    np.testing.assert_allclose(after("ire", 0, rank=0.3), W - LR * 3 * sam_gradient(W), rtol=1e-12)


def test_a_chunk_has_a_perturbation_of_its_own() -> None:
    expected = W - LR * (sam_gradient(W, -1) + sam_gradient(W, 1)) / 2
    np.testing.assert_allclose(after("sam", 0, m=1), expected, rtol=1e-13)


@pytest.mark.parametrize(
    ("options", "radii"),
    [
        ({"every": 2}, [RHO, 0, RHO]),
        ({"start_epoch": 1}, [0, 0, RHO]),
        ({"end_epoch": 1}, [RHO, RHO, 0]),
        ({"rho_schedule": "linear"}, [RHO, RHO, RHO / 2]),
        ({"rho_schedule": "linear", "rho_end": 0.5}, [RHO, RHO, RHO * 0.75]),
    ],
)
def test_when_and_how_far_to_perturb(options: dict[str, Any], radii: list[float]) -> None:
    w = W
    for centre, rho in enumerate(radii):
        w = w - LR * sam_gradient(w, centre, rho)
    found = after("sam", 0, 1, 2, when=[(0, 3), (0, 3), (1, 3)], **options)
    np.testing.assert_allclose(found, w, rtol=1e-13)


def test_schedules_of_the_radius() -> None:
    shares = [rho_share("cosine", 0.2, p, 1) for p in (0, 0.5, 1)]
    assert shares == pytest.approx([1, 0.6, 0.2])
    assert rho_share("lr", 0.2, 0, 0.5) == pytest.approx(0.6)
    assert rho_share("constant", 0.2, 1, 0.5) == 1


def test_the_largest_of_equal_elements_are_the_first() -> None:
    assert largest(np.array([1.0, 2.0, 2.0, 2.0]), 2).tolist() == [0, 1, 1, 0]


def test_running_statistics_of_one_pass_are_those_of_the_layer() -> None:
    net, (batch,) = make_net("batch"), make_batches(1)
    problem = Problem(copy.deepcopy(net), lambda logits, labels: logits.sum(1))
    problem.update_statistics([(problem.start(), batch)])
    net(batch[0])
    for name, b in net.named_buffers():
        torch.testing.assert_close(problem.statistics[name], b)
    before = {k: b.clone() for k, b in problem.statistics.items()}
    problem.gradient(problem.start(), batch)
    assert all(torch.equal(b, before[k]) for k, b in problem.statistics.items())


def test_there_is_a_reference_for_every_variant_of_the_document() -> None:
    document = Path(__file__).parents[3] / "docs" / "variants.md"
    table = document.read_text(encoding="utf-8").split("## Variants")[1]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == list(VARIANTS)
