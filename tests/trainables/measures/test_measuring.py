"""Measures of models that were really trained, through the one function that a study calls."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.trainables.test_training import CONFIG
from trainables import data
from trainables.catalog import HEADLINES, MEASURES, MODELS
from trainables.config import Config
from trainables.measures import hessian, histograms, robustness, sharpness
from trainables.measures.subject import Subject, load
from trainables.measuring import Row, measure
from trainables.models import make_model
from trainables.storage import weights_of
from trainables.training import deterministic
from trainables.trial import Keeping, TrialRun

SMALL = replace(CONFIG, epochs=2, train_size=64, batch_size=16)
SHORT = replace(SMALL, train_size=16)
CONFIGS = {
    "resnet": SMALL,
    "other": replace(SMALL, perturb="all", rho=0.05),
    "vit": replace(SHORT, model="vit", model_options={}, lr=0.01),
    "dyt": replace(SHORT, model_options={"width": 4, "norm": "dyt"}),
    "plain": replace(SHORT, model_options={"width": 4, "norm": "none"}, perturb="all", rho=0.05),
    "learned": replace(CONFIG, epochs=8, train_size=400, model_options={"width": 8}),
}


@dataclass(eq=False)
class Study:
    """Confirm runs, one an arm, and the weights that they left."""

    folder: Path
    pool: data.Images
    facts: data.Facts
    test: data.Images
    scores: dict[str, Mapping[str, float]]

    def train(self, arm: str, config: Config) -> None:
        keeping = Keeping(str(self.folder), None, None)
        run = TrialRun(name(arm), config, keeping, self.pool, self.facts, self.test, "cpu")
        while (end := run.step(float("inf")).end) is None:
            pass
        self.scores[arm] = end.scores

    def measure(self, what: str, arm: str, against: str | None = None) -> tuple[Row, ...]:
        other = None if against is None else (name(against), asdict(CONFIGS[against]))
        return measure(
            what,
            name(arm),
            asdict(CONFIGS[arm]),
            str(self.folder),
            self.pool,
            self.facts,
            self.test,
            "cpu",
            1,
            *(other or ()),
        )

    def load(self, arm: str) -> Subject:
        return load(name(arm), CONFIGS[arm], str(self.folder), self.pool, self.facts, "cpu")


@cache
def sharp(study: Study, arm: str) -> tuple[Row, ...]:
    return study.measure("sharpness", arm)


def name(arm: str) -> str:
    return f"study/{arm}/confirm/0"


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    deterministic(1)
    pool, facts = data.load_pool("digits")
    made = Study(tmp_path_factory.mktemp("storage"), pool, facts, data.load_test("digits")[0], {})
    for arm, config in CONFIGS.items():
        made.train(arm, config)
    return made


def values(rows: Sequence[Row]) -> dict[tuple[str, str, float | None], float]:
    found = {(row.measure, row.part, row.at): row.value for row in rows}
    assert len(found) == len(rows)
    return found


@pytest.mark.parametrize("arm", ["resnet", "vit", "dyt", "plain"])
def test_sharpness_of_every_part(study: Study, arm: str) -> None:
    found = values(sharp(study, arm))
    parts = ["all", "rest"] if arm == "plain" else ["all", "norm", "rest"]
    family = "vit" if arm == "vit" else "cnn"
    for part in parts:
        for kind in sharpness.KINDS:
            for case, radii in (("average", sharpness.AVERAGE), ("worst", sharpness.WORST)):
                near, far = radii[family][kind.name]
                assert (f"{case}_{kind.name}", part, near) in found
                assert (f"{case}_{kind.name}", part, far) in found
            near, far = sharpness.WORST[family][kind.name]
            worst = f"worst_{kind.name}"
            assert 0 < found[worst, part, near] <= found[worst, part, far]
        assert found["hessian_trace_error", part, None] > 0
    assert len(found) == len(parts) * 20
    for measure_, part in HEADLINES.values():
        assert any(key[:2] == (measure_, part) for key in found)


def test_a_model_stays_as_it_was_and_gives_the_same_bits_again(study: Study) -> None:
    subject = study.load("resnet")
    before = {k: v.clone() for k, v in subject.model.state_dict().items()}
    measures: dict[str, Callable[[], Sequence[Row]]] = {
        "sharpness": lambda: [*sharpness.sharpness(subject), *hessian.hessian(subject)],
        "corruptions": lambda: list(robustness.corruptions(subject, study.test)),
        "pgd": lambda: list(robustness.pgd(subject, study.test)),
        "histograms": lambda: list(histograms.histograms(subject)),
    }
    for what, each in measures.items():
        torch.rand(3)  # whatever else the process draws
        rows = sharp(study, "resnet") if what == "sharpness" else study.measure(what, "resnet")
        assert tuple(each()) == rows
        for key, now in subject.model.state_dict().items():
            assert torch.equal(now, before[key]), key
    assert study.measure("line", "resnet", "other") == study.measure("line", "resnet", "other")


@pytest.mark.parametrize(("arm", "against"), [("resnet", "other"), ("vit", "vit")])
def test_the_ends_of_a_line_are_the_models(study: Study, arm: str, against: str) -> None:
    found = values(study.measure("line", arm, against))
    for at, end in ((0.0, arm), (1.0, against)):
        for score in ("test_loss", "test_accuracy"):
            assert found[f"line.{score}", "", at] == study.scores[end][score]
        moved = found.get(("line.test_loss", "recomputed", at))
        assert (moved is None) == (arm == "vit")
        assert moved != found["line.test_loss", "", at]
    positions = [at for name_, part, at in found if (name_, part) == ("line.train_loss", "")]
    assert positions == [i / 10 for i in range(11)]
    if arm == against:
        losses = [v for (name_, *_), v in found.items() if name_ == "line.train_loss"]
        assert losses == pytest.approx([losses[0]] * 11, rel=1e-5)


def test_recomputed_statistics_are_means_over_batches(study: Study) -> None:
    from torch import nn

    from trainables.measures.line import recompute

    subject = study.load("resnet")
    layer = next(m for m in subject.model.modules() if isinstance(m, nn.BatchNorm2d))
    momentum, inputs = layer.momentum, []
    layer.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    [(images, labels)] = subject.training_batches(64)
    halves = zip(torch.split(images, 32), torch.split(labels, 32), strict=True)
    recompute(subject.model, [layer], list(halves))
    means = torch.stack([x.mean((0, 2, 3)) for x in inputs]).mean(0)
    variances = torch.stack([x.var((0, 2, 3)) for x in inputs]).mean(0)
    torch.testing.assert_close(layer.running_mean, means)
    torch.testing.assert_close(layer.running_var, variances)
    assert layer.momentum == momentum
    assert not layer.training


def test_histograms_count_every_gamma_and_beta(study: Study) -> None:
    for arm in ("resnet", "vit", "dyt"):
        found = values(study.measure("histograms", arm))
        model = study.load(arm).model
        for word, kind in (("gamma", "weight"), ("beta", "bias")):
            tensors = {
                name_: p.numpy()
                for name_, p in model.named_parameters()
                if "norm" in name_ or name_.startswith("stem.1.") or ".shortcut.1." in name_
                if name_.endswith(kind)
            }
            every = np.concatenate(list(tensors.values())).astype(np.float64)
            counts = {at: v for (m, _, at), v in found.items() if m == f"histogram.{word}"}
            expected, _ = np.histogram(
                every, bins=[*[at - 1e-7 for at in counts if at is not None], np.inf]
            )
            assert list(counts.values()) == expected.tolist()
            assert sum(counts.values()) == len(every)
            assert found[f"{word}.mean", "all", None] == pytest.approx(every.mean())
            for name_, tensor in tensors.items():
                assert found[f"{word}.deviation", name_, None] == pytest.approx(tensor.std(), 1e-5)
    assert study.measure("histograms", "plain") == ()


def test_images_made_worse_are_recognised_less(study: Study) -> None:
    found = values(study.measure("corruptions", "learned"))
    score = study.scores["learned"]["test_accuracy"]
    assert found["accuracy.clean", "", None] == score
    each = [v for (_, _, at), v in found.items() if at is not None]
    assert len(each) == 18
    assert found["accuracy.corrupted", "", None] == pytest.approx(np.mean(each))
    assert np.mean(each) < score
    attacked = values(study.measure("pgd", "learned"))
    assert attacked["accuracy.pgd_clean", "", None] == score
    assert attacked["accuracy.pgd_linf", "", 8.0] < attacked["accuracy.pgd_linf", "", 1.0] < score


def test_an_attack_stays_near_and_raises_the_loss(study: Study) -> None:
    subject = study.load("resnet")
    pixels, labels = next(iter(subject.test_pixels(study.test)))
    worse = robustness.attack(subject, pixels, labels, 4 / 255, subject.generator(5, 0))
    assert (worse - pixels).abs().max() <= 4 / 255 + 1e-7
    assert worse.min() >= 0
    assert worse.max() <= 1
    clean = subject.score([(subject.standardised(pixels), labels)])
    assert subject.score([(subject.standardised(worse), labels)])[0] > clean[0]


def test_corruptions_as_formulas() -> None:
    draw = torch.Generator().manual_seed(0)
    for shape in ((2, 1, 8, 8), (2, 3, 32, 32)):
        x = torch.rand(shape, generator=draw)
        for corrupt, strengths in robustness.CORRUPTIONS.values():
            assert all(corrupt(x, s, draw).shape == x.shape for s in strengths)
        mean = x.mean((2, 3), keepdim=True)
        torch.testing.assert_close(robustness.contrast(x, 0.4, draw), mean + 0.4 * (x - mean))
        blocks = x.view(*shape[:2], shape[2] // 2, 2, shape[3] // 2, 2).mean((3, 5))
        torch.testing.assert_close(
            robustness.pixelate(x, 0.5, draw),
            blocks.repeat_interleave(2, 2).repeat_interleave(2, 3),
        )
        flat = torch.full(shape, 0.5)
        torch.testing.assert_close(robustness.gaussian_blur(flat, 0.1, draw), flat)
        dot = torch.zeros(shape)
        dot[..., shape[2] // 2, shape[3] // 2] = 1
        spread = robustness.gaussian_blur(dot, 0.05, draw)[0, 0]
        offsets = torch.arange(shape[2]) - shape[2] // 2
        kernel = torch.exp(-(offsets**2) / (2 * (0.05 * shape[2]) ** 2))
        kernel[offsets.abs() > -(-3 * 0.05 * shape[2] // 1)] = 0
        kernel /= kernel.sum()
        torch.testing.assert_close(spread, kernel[:, None] * kernel)
    noise = robustness.gaussian_noise(torch.zeros(10, 3, 32, 32), 0.1, draw)
    assert noise.std().item() == pytest.approx(0.1, rel=0.05)
    grey = robustness.impulse_noise(torch.full((10, 3, 32, 32), 0.5), 0.1, draw)
    assert [(grey == v).float().mean().item() for v in (0, 1)] == pytest.approx([0.05] * 2, rel=0.1)


def test_weights_of_another_run_are_refused_in_one_line(study: Study) -> None:
    def message(arm: str = "resnet", **changes: Any) -> str:
        config = replace(CONFIGS["resnet"], **changes)
        with pytest.raises((ValueError, OSError)) as error:
            load(name(arm), config, str(study.folder), study.pool, study.facts, "cpu")
        return str(error.value)

    assert message(seed=4) == (
        "the weights of study/resnet/confirm/0 are those of a run with other settings"
    )
    assert message("nobody") == (
        "the weights of study/nobody/confirm/0 are not there: no study/weights/nobody/confirm/0.pt "
        f"in {study.folder}"
    )
    kept = study.folder / weights_of(name("resnet"))
    torn = study.folder / weights_of(name("torn"))
    torn.parent.mkdir(parents=True)
    torn.write_bytes(kept.read_bytes()[:-200])
    assert message("torn").startswith("the weights of study/torn/confirm/0 cannot be used: damaged")
    with pytest.raises(ValueError, match=r"^line takes two runs, every other measure one$"):
        study.measure("line", "resnet")
    with pytest.raises(ValueError, match=r"differ in shape"):
        study.measure("line", "resnet", "dyt")


def test_transformers_are_those_with_one_convolution_at_most() -> None:
    with torch.device("meta"):
        for model in MODELS:
            made = make_model(model, num_classes=10, in_channels=3, image_size=32)
            assert sharpness.is_convolutional(made) == (not model.startswith("vit"))


def test_a_driver_can_import_it_without_torch() -> None:
    code = "import sys, trainables.measuring; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert set(MEASURES) == {"sharpness", "corruptions", "pgd", "line", "histograms"}
