"""The arms of a file: variants, subsets, options, ranges, and the product of `cross`."""

from __future__ import annotations

import pytest

from tests.study.synthetic import make_spec
from tests.study.test_resolve import told


@pytest.mark.parametrize(
    ("arm", "message"),
    [
        ("{variant: asam_filter}", "no range of rho is established for asam_filter on all; give"),
        ("{variant: msam, perturb: norm}", "no range of rho is established for msam on norm"),
        ("{variant: sam, ascent: random}", "no range of rho is established for sam on all"),
        (
            "{variant: gsam, search: {geometry: {choices: [l2, layer]}}}",
            "rho has no suggested range where geometry is searched; give low and high",
        ),
        ("{variant: sam, m: 0}", "0 is below 1"),
        ("{variant: sam, every: 1.5}", "1.5 is not a whole number"),
        ("{variant: looksam, every: 2}", "unknown key 'every'"),
        ("{variant: gsam, ascent_precision: bfloat16}", "unknown key 'ascent_precision'"),
        ("{variant: sam, ascent_precision: 16}", "ascent_precision: 16 is not one of bfloat16"),
        (
            "{variant: sam, ascent: previous, ascent_precision: bfloat16}",
            "arms.own: sam: ascent previous makes no pass that ascent_precision could speak of; "
            "leave one out",
        ),
        (
            "{variant: sam, ascent_precision: bfloat16, search: {ascent: {choices: [batch, "
            "random]}, rho: {low: 1, high: 2}}}",
            "arms.own: sam: ascent random makes no pass that ascent_precision could speak of",
        ),
        (
            "{variant: ssam_f, perturb: norm}",
            "arms.own.perturb: ssam_f chooses itself what to perturb; leave perturb out",
        ),
    ],
)
def test_options_and_ranges_that_a_variant_does_not_have_are_refused(
    arm: str, message: str
) -> None:
    assert message in told(f"arms.own={arm}")


def test_an_arm_may_override_the_search_and_set_options() -> None:
    spec = make_spec(
        "search.lr={low: 0.1, high: 1, log: true}",
        "arms.sam_on.search={lr: {choices: [0.5]}, rho: {low: 1, high: 2}}",
        "arms.asam={variant: asam, perturb: norm, eta: 1, search: {normalize_bias: {choices: "
        "[true, false]}}}",
    )
    on, asam = spec.arms["sam_on"], spec.arms["asam"]
    assert on.search["lr"].choices == [0.5]
    assert (on.search["rho"].low, on.search["rho"].high, on.search["rho"].log) == (1, 2, False)
    assert spec.arms["sgd"].search.keys() == {"lr"}
    options = asam.methods[0].options
    assert options.items() >= {"eta": 1.0, "normalize_bias": True, "every": 1}.items()
    # Not set, so that they are not in the hash.
    assert not options.keys() & {"m", "end_epoch", "ascent_precision"}
    assert list(asam.search) == ["rho", "lr", "normalize_bias"]
    assert (asam.search["rho"].low, asam.search["rho"].high) == (0.6, 30)


@pytest.mark.parametrize(
    ("variant", "perturb", "low", "high"),
    [
        ("sam", "all", 0.02, 1),
        ("sam", "no_norm", 0.02, 1),
        ("sam", "norm", 0.1, 5),
        ("asam", "all", 0.2, 10),
        ("asam", "no_norm", 0.2, 10),
        ("asam", "norm", 0.6, 30),
        ("asam_layer", "all", 0.004, 0.2),
        ("asam_layer", "norm", 0.02, 1),
        ("asam_linf", "all", 0.0005, 0.025),
        ("asam_linf", "norm", 0.005, 0.25),
        ("fisher_sam", "all", 0.02, 1),
        ("fisher_sam", "norm", 0.02, 1),
        ("gsam", "norm", 0.1, 5),
    ],
)
def test_suggested_ranges_are_those_of_the_design(
    variant: str, perturb: str, low: float, high: float
) -> None:
    span = make_spec(f"arms.x={{variant: {variant}, perturb: {perturb}}}").arms["x"].search["rho"]
    assert (span.low, span.high, span.log, span.borrowed) == (low, high, True, False)


@pytest.mark.parametrize(
    ("perturb", "name", "high", "borrowed"),
    [
        ("random:matched", "random:matched", 5, True),
        ("top_fisher:0.050", "top_fisher:0.05", 5, True),
        ("[norm, head]", "norm+head", 5, True),
        ("[head, no_norm]", "head+no_norm", 1, False),
        ("[norm]", "norm", 5, False),
        ("norm+head", "norm+head", 5, True),
        ("['norm_last:.5', 'regex:a+b']", "norm_last:0.5+regex:a+b", 5, True),
    ],
)
def test_every_subset_has_one_name_and_a_range(
    perturb: str, name: str, high: float, borrowed: bool
) -> None:
    arm = make_spec(f"arms.x={{variant: sam, perturb: {perturb}}}").arms["x"]
    assert [method.perturb for method in arm.methods] == [name]
    assert (arm.search["rho"].high, arm.search["rho"].borrowed) == (high, borrowed)


def test_subsets_are_chosen_by_the_search_like_words() -> None:
    choices = "{choices: [all, [norm, head], random:matched]}"
    arm = make_spec(f"arms.x={{variant: sam, perturb: {choices}}}").arms["x"]
    assert arm.search["perturb"].choices == ["all", "norm+head", "random:matched"]
    assert [m.rho.high for m in arm.methods if m.rho is not None] == [1, 5, 5]


def test_cross_names_its_arms_by_variant_and_subset() -> None:
    subsets = "[[norm, head], random:matched, 'norm_last:0.25', 'regex:^blocks.*']"
    spec = make_spec(f"cross={{variant: [asam], perturb: {subsets}}}")
    assert {name: arm.methods[0].perturb for name, arm in spec.arms.items() if "asam" in name} == {
        "asam_norm_head": "norm+head",
        "asam_random_matched": "random:matched",
        "asam_norm_last_0_25": "norm_last:0.25",
        "asam_regex_blocks": "regex:^blocks.*",
    }


def test_cross_adds_the_product_beside_the_arms() -> None:
    spec = make_spec("cross={variant: [asam], perturb: [all, norm]}")
    assert list(spec.arms) == ["sgd", "sam_all", "sam_on", "asam_all", "asam_norm"]
    assert [m.title for m in spec.arms["asam_norm"].methods] == ["asam on norm"]
    alone = make_spec(
        "arms={}",
        "cross={variant: [sam, asam], perturb: [all]}",
        "verdict={baseline: sam_all, equivalence_margin: 1}",
    )
    assert alone.pairs == [("asam_all", "sam_all")]
