"""The script that a study replaces: SGD, SAM and SAM-ON with Ray Tune, Optuna and MLflow, by hand.

    python benchmarks/hand_written.py [--trials 8] [--seeds 8] [--epochs 40] [--train-size 800]
                                      [--out FOLDER]

It does the work of search_spaces/norm_vs_all.yaml as somebody who knows these libraries would write
it down in an afternoon: a search over rho for each arm, then the best rho of each on fresh seeds,
scored on test images. SAM in two passes of plain PyTorch, torchvision's transforms in a DataLoader,
actors that are reused. Of this project it takes only what must be the same to compare: the model,
and the arrays with their wrong labels. benchmarks/against_hand_written.py times it.
"""

from __future__ import annotations

import argparse
import json
import os
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
import torch.nn.functional as F
from ray import tune
from ray.air.integrations.mlflow import MLflowLoggerCallback
from ray.tune.search.optuna import OptunaSearch
from scipy.stats import ttest_rel
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from trainables import data
from trainables.models import make_model

BATCH, LR, MOMENTUM, WEIGHT_DECAY, SMOOTHING = 64, 0.1, 0.9, 5e-4, 0.1
VALIDATION, NOISE = 300, 0.4
RHO = {"sam_all": (0.02, 1.0), "sam_on": (0.1, 5.0), "sam_no_norm": (0.02, 1.0)}
ARMS = ("sgd", *RHO)


class Digits(Dataset[tuple[Any, int]]):
    """Images uint8 [n, C, H, W] with labels, each through a transform."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, transform: Any) -> None:
        self.images, self.labels = torch.from_numpy(images), labels.tolist()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.transform(self.images[index]), self.labels[index]


def perturbed(model: nn.Module, arm: str) -> list[nn.Parameter]:
    """The parameters that the ascent step of an arm moves."""
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    of_norm = {p for m in norms for p in m.parameters()}
    if arm == "sam_all":
        return list(model.parameters())
    return [p for p in model.parameters() if (p in of_norm) == (arm == "sam_on")]


def loss_of(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(model(images), labels, label_smoothing=SMOOTHING)


def sam_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    moved: list[nn.Parameter],
    rho: float,
    images: torch.Tensor,
    labels: torch.Tensor,
) -> torch.Tensor:
    """Two passes: up the gradient by rho, then the gradient from there. Returns the first loss."""
    optimizer.zero_grad()
    loss = loss_of(model, images, labels)
    loss.backward()  # type: ignore[no-untyped-call]
    with torch.no_grad():
        norm = torch.stack([p.grad.norm() for p in moved if p.grad is not None]).norm()
        steps = [p.grad * (rho / (norm + 1e-12)) for p in moved if p.grad is not None]
        for p, step in zip(moved, steps, strict=True):
            p.add_(step)
    optimizer.zero_grad()
    loss_of(model, images, labels).backward()  # type: ignore[no-untyped-call]
    with torch.no_grad():
        for p, step in zip(moved, steps, strict=True):
            p.sub_(step)
    optimizer.step()
    return loss.detach()


@torch.no_grad()
def evaluate(model: nn.Module, loader: DataLoader[Any]) -> tuple[float, float]:
    """Mean loss, and accuracy in percent."""
    model.eval()
    loss, correct, n = 0.0, 0, 0
    for images, labels in loader:
        logits = model(images)
        loss += F.cross_entropy(logits, labels, reduction="sum").item()
        correct += int((logits.argmax(1) == labels).sum())
        n += len(labels)
    return loss / n, 100 * correct / n


def train(config: dict[str, Any], pool: Any, test: Any, facts: Any, epochs: int, size: int) -> None:
    """One trial."""
    torch.manual_seed(config["seed"])
    split = data.split(
        pool.labels,
        classes=10,
        seed=config["seed"],
        train_size=size,
        validation_size=VALIDATION,
        label_noise=NOISE,
    )
    plain = transforms.Compose(
        [transforms.ConvertImageDtype(torch.float), transforms.Normalize(facts.mean, facts.std)]
    )
    augmented = transforms.Compose([transforms.RandomCrop(8, padding=1), plain])
    training = DataLoader(
        Digits(pool.images[split.train], split.train_labels, augmented),
        batch_size=BATCH,
        shuffle=True,
        drop_last=True,
    )
    validation = DataLoader(
        Digits(pool.images[split.validation], pool.labels[split.validation], plain),
        batch_size=512,
    )
    model = make_model("resnet8", num_classes=10, in_channels=1, image_size=8, width=16)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=LR, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    moved = [] if config["arm"] == "sgd" else perturbed(model, config["arm"])
    for epoch in range(epochs):
        model.train()
        losses = 0.0
        for images, labels in training:
            if moved:
                loss = sam_step(model, optimizer, moved, config["rho"], images, labels)
            else:
                optimizer.zero_grad()
                loss = loss_of(model, images, labels)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            losses += loss.item()
        schedule.step()
        validation_loss, validation_accuracy = evaluate(model, validation)
        metrics = {
            "train_loss": losses / len(training),
            "validation_loss": validation_loss,
            "validation_accuracy": validation_accuracy,
        }
        if config["confirm"] and epoch == epochs - 1:
            scored = DataLoader(Digits(test.images, test.labels, plain), batch_size=512)
            metrics["test_loss"], metrics["test_accuracy"] = evaluate(model, scored)
        tune.report(metrics)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--train-size", type=int, default=800)
    parser.add_argument("--out", type=Path, default=Path("hand_written"))
    options = parser.parse_args()
    out = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    ray.init("local", log_to_driver=False)
    pool, facts = data.load_pool("digits")
    test, _ = data.load_test("digits")
    trainable = tune.with_resources(
        tune.with_parameters(
            train, pool=pool, test=test, facts=facts, epochs=options.epochs, size=options.train_size
        ),
        {"cpu": 1},
    )

    def run(name: str, space: dict[str, Any], search: Any = None, samples: int = 1) -> Any:
        return tune.Tuner(
            trainable,
            param_space=space,
            tune_config=tune.TuneConfig(
                metric="validation_accuracy",
                mode="max",
                search_alg=search,
                num_samples=samples,
                max_concurrent_trials=os.cpu_count(),
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name=name,
                storage_path=str(out),
                callbacks=[
                    MLflowLoggerCallback(f"sqlite:///{out}/mlflow.db", experiment_name=name)
                ],
            ),
        ).fit()

    trials = []
    best = {"sgd": 0.0}
    seeds = tune.grid_search(list(range(options.trials)))
    trials += list(run("sgd", {"arm": "sgd", "seed": seeds, "rho": 0.0, "confirm": False}))
    for arm, (low, high) in RHO.items():
        rho = tune.loguniform(low, high)
        space = {"arm": arm, "seed": 0, "rho": rho, "confirm": False}
        found = run(arm, space, OptunaSearch(seed=0), options.trials)
        best[arm] = found.get_best_result().config["rho"]
        trials += list(found)

    accuracy: dict[str, dict[int, float]] = defaultdict(dict)
    space = {
        "arm": tune.grid_search(list(ARMS)),
        "seed": tune.grid_search([100_000 + i for i in range(options.seeds)]),
        "rho": tune.sample_from(lambda config: best[config["arm"]]),
        "confirm": True,
    }
    for result in run("confirm", space):
        trials.append(result)
        config = result.config
        accuracy[config["arm"]][config["seed"]] = result.metrics["test_accuracy"]
    columns = {arm: [of[seed] for seed in sorted(of)] for arm, of in accuracy.items()}
    for arm, values in columns.items():
        p = ttest_rel(values, columns["sam_all"]).pvalue
        print(f"{arm:12} rho {best[arm]:6.3f}  test {np.mean(values):.2f} %, p = {p:.3f}")
    summary = {
        "trials": len(trials),
        "epochs": sum(result.metrics["training_iteration"] for result in trials),
        "test_accuracy": columns,
    }
    (out / "results.json").write_text(json.dumps(summary, indent=1) + "\n")


if __name__ == "__main__":
    main()
