"""Arms that leave variant and subset to the search."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from study import analysis, importance, report, space, stages, tables
from study.records import Result, Trial
from study.simulate import Answer, Simulation
from study.yamlfile import SpecError
from tests.study.synthetic import make_contents, make_spec, search_trials

AUTO = "arms.auto={variant: {choices: [sam, asam]}, perturb: {choices: [all, norm]}, trials: 16}"
SPEC = make_spec(AUTO)
RANGES = {
    ("sam", "all"): (0.02, 1.0),
    ("sam", "norm"): (0.1, 5.0),
    ("asam", "all"): (0.2, 10.0),
    ("asam", "norm"): (0.6, 30.0),
}


def asam_on_norm_is_best(trial: Trial) -> Answer:
    chosen, noise = trial.hyperparameters, random.Random(trial.name).uniform(0, 1)
    accuracy = 60.0 + noise
    accuracy += 20 * (chosen.get("variant") == "asam") + 5 * (chosen.get("perturb") == "norm")
    return Answer({"validation_accuracy": accuracy, "test_accuracy": accuracy, "test_loss": 0.5})


def of_auto(results: list[Result], stage: str) -> list[Result]:
    return [r for r in results if r.trial.arm == "auto" and r.trial.stage == stage]


def test_rho_lies_in_the_range_suggested_for_what_was_chosen() -> None:
    trials = [t for t in search_trials(SPEC) if t.arm == "auto"]
    assert len(trials) == 16
    seen = set()
    for trial in trials:
        variant, perturb, rho = (trial.hyperparameters[k] for k in ("variant", "perturb", "rho"))
        low, high = RANGES[str(variant), str(perturb)]
        assert low <= float(rho) <= high
        seen.add((variant, perturb))
    assert seen == set(RANGES)


def test_every_arm_reads_the_same_positions() -> None:
    alone = [t.hyperparameters["rho"] for t in search_trials(SPEC) if t.arm == "sam_on"]
    auto = [t for t in search_trials(SPEC) if t.arm == "auto"]
    positions = [space.point(SPEC.arms["auto"], t.hyperparameters)["rho"] for t in auto[:4]]
    expected = [space.at("rho", SPEC.arms["sam_on"].search["rho"], float(u)) for u in positions]
    assert alone == pytest.approx(expected)


@pytest.mark.parametrize("sampler", ["qmc", "random", "tpe"])
def test_what_the_search_chose_is_confirmed_like_any_arm(sampler: str) -> None:
    spec = make_spec(AUTO, f"tune.sampler={sampler}")
    results = list(Simulation(spec, asam_on_norm_is_best).run())
    confirmed = of_auto(results, "confirm")
    assert len(confirmed) == spec.confirm.seeds
    [chosen] = {tuple(r.trial.hyperparameters.items()) for r in confirmed}
    assert dict(chosen)["variant"] == "asam"
    assert dict(chosen)["perturb"] == "norm"
    config = stages.training_config(spec, confirmed[0].trial)
    assert (config["variant"], config["perturb"]) == ("asam", "norm")
    assert config["rho"] == dict(chosen)["rho"]
    defaults = {"eta": 0.0, "normalize_bias": True, "bn_statistics": "first", "every": 1}
    assert config["options"].items() >= defaults.items()
    rows = {row["trial"]: row for row in tables.trials_rows(spec, results)}
    assert (rows["tiny/auto/confirm/0"]["variant"], rows["tiny/auto/confirm/0"]["perturb"]) == (
        "asam",
        "norm",
    )


def test_options_of_a_variant_are_searched_where_it_is_chosen() -> None:
    spec = make_spec(AUTO, "arms.auto.search={eta: {low: 0.0, high: 0.5}}", "tune.sampler=tpe")
    results = list(Simulation(spec, asam_on_norm_is_best).run())
    for result in of_auto(results, "search"):
        chosen = result.trial.hyperparameters
        assert ("eta" in chosen) == (chosen["variant"] == "asam")
        options = stages.training_config(spec, result.trial)["options"]
        assert options.get("eta", None) == chosen.get("eta")


def test_a_grid_tries_what_means_the_same_once() -> None:
    spec = make_spec(
        "tune={sampler: grid}",
        "search={rho: {choices: [0.1, 0.2]}}",
        "arms.auto={variant: {choices: [sam, asam]}, search: {eta: {choices: [0.0, 0.1]}}}",
    )
    points = [t.hyperparameters for t in search_trials(spec) if t.arm == "auto"]
    assert len(points) == spec.arms["auto"].trials == 2 + 2 * 2
    assert len({tuple(p.items()) for p in points}) == 6


def test_importance_finds_the_choice_that_matters_and_is_called_exploratory() -> None:
    spec = make_spec(AUTO.replace("16", "40"))

    def only_the_variant_matters(trial: Trial) -> Answer:
        accuracy = 60.0 + 20 * (trial.hyperparameters.get("variant") == "asam")
        accuracy += random.Random(trial.name).uniform(0, 1)
        return Answer({"validation_accuracy": accuracy, "test_accuracy": accuracy})

    results = list(Simulation(spec, only_the_variant_matters).run())
    shares = importance.importance(spec.arms["auto"], of_auto(results, "search"))
    assert max(shares, key=lambda key: shares[key]) == "variant"
    assert sum(shares.values()) == pytest.approx(1)
    told = analysis.remarks(spec, analysis.summarize(spec, results), results)
    assert any(t.startswith("auto: importance of what its search chose") for t in told)
    assert any("exploratory, no part of the verdict" in t for t in told)


def test_importance_of_too_little_is_told_as_such() -> None:
    few = of_auto(list(Simulation(SPEC, asam_on_norm_is_best).run()), "search")[:3]
    assert importance.importance(SPEC.arms["auto"], few) == {}
    assert "too few" in str(importance.sentence("auto", SPEC.arms["auto"], few))
    assert importance.sentence("sam_on", SPEC.arms["sam_on"], few) is None


def test_the_report_of_a_choosing_arm_is_written(tmp_path: Path) -> None:
    report.write(tmp_path, [SPEC], make_contents(SPEC))
    assert "importance of what its search chose" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    ("arm", "told"),
    [
        ("{variant: {choices: [sam, none]}}", "variant none perturbs nothing"),
        ("{variant: {choices: [sam, sam]}}", "choices must name each word once"),
        ("{variant: {choices: []}}", "needs at least 1 entries"),
        ("{variant: {choices: [sam, asma]}}", "did you mean 'asam'?"),
        ("{variant: [sam, asam]}", "must be a word, or choices: "),
        ("{variant: sam, perturb: {choices: [all, nrm]}}", "did you mean 'norm'?"),
        ("{variant: sam, perturb: {choices: [all, [norm, nrm]]}}", "perturb.choices.1: unknown"),
        ("{variant: sam, perturb: {choices: [norm, [norm]]}}", "choices must name each word once"),
        ("{variant: {choices: [sam, asam]}, eta: -1}", "-1 is below 0"),
        ("{variant: {choices: [sam, asam]}, etta: 1}", "did you mean 'eta'?"),
    ],
)
def test_wrong_choices_are_told_in_one_line(arm: str, told: str) -> None:
    with pytest.raises(SpecError) as error:
        make_spec(f"arms.auto={arm}")
    assert told in str(error.value)
    assert "\n" not in str(error.value)
