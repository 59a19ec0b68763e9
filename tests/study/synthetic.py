"""Makes specs and the contents of journals whose truth is known."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from study import stages
from study.journal import Contents
from study.records import Correct, End, Epoch, Result, Stage, Status, Trial, Value
from study.resolve import resolve
from study.spec import Spec
from study.yamlfile import Document, override

HEADER = {
    "kind": "header",
    "version": 2,
    "time": 1_700_000_000.0,
    "commit": "0123abc",
    "versions": {"python": "3.11", "torch": "2.14.1"},
    "data": {"hash": "feed"},
}


def make_spec(*assignments: str) -> Spec:
    """The question of the paper with 4 search trials and 6 seeds, changed like by --set."""
    data = {
        "study": "tiny",
        "question": "Does it help?",
        "workload": {
            "data": {"name": "digits", "train_size": 640, "validation_size": 300},
            "model": {"name": "resnet8"},
            "optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.9},
            "epochs": 3,
            "batch_size": 64,
        },
        "arms": {
            "sgd": {"variant": "none"},
            "sam_all": {"variant": "sam", "perturb": "all"},
            "sam_on": {"variant": "sam", "perturb": "norm"},
        },
        "search": {"rho": "suggested"},
        "tune": {"trials_per_arm": 4},
        "confirm": {"seeds": 6},
        "verdict": {"baseline": "sam_all", "also": [["sam_on", "sgd"]], "equivalence_margin": 0.5},
    }
    return resolve(override(Document(data, {(): "test"}), assignments))


def search_trials(spec: Spec) -> tuple[Trial, ...]:
    """The whole search stage of a spec whose points are known from the start."""
    return _trials(spec, "search", stages.search_slots(spec))


def confirm_trials(
    spec: Spec, configurations: Mapping[str, Mapping[str, Value]]
) -> tuple[Trial, ...]:
    """The whole confirm stage of these configurations."""
    return _trials(spec, "confirm", stages.confirm_slots(spec, configurations))


def _trials(spec: Spec, stage: Stage, slots: Sequence[stages.Slot]) -> tuple[Trial, ...]:
    return tuple(
        slot.trial(spec, stage, i, slot.hyperparameters or {})
        for slot in slots
        for i in range(len(slot.seeds))
    )


def confirm_results(spec: Spec, accuracies: Mapping[str, Sequence[float | Status]]) -> list[Result]:
    """Confirm trials with these test accuracies; a word in place of one is how the trial ended."""
    results = []
    for arm, values in accuracies.items():
        for i, value in enumerate(values):
            trial = Trial(spec.study, arm, "confirm", i, 100_000 + i, {})
            status: Status = "finished" if not isinstance(value, str) else value
            accuracy = 10.0 if isinstance(value, str) else value
            scores = {"validation_accuracy": accuracy, "test_accuracy": accuracy, "test_loss": 0.5}
            scores = {} if status == "failed" else scores
            results.append(Result(trial, End(trial.name, status, "", scores, 3, 0.0)))
    return results


Truth = Callable[[Trial], float]
"""The accuracy in percent that a trial would reach without noise; NaN: it diverges."""


def hill(trial: Trial) -> float:
    """Accuracy is highest at a rho inside the range; sam_on 2 points above sam_all, 4 above sgd."""
    rho = trial.hyperparameters.get("rho")
    best = {"sgd": 90.0, "sam_on": 94.0}.get(trial.arm, 92.0)
    peak = 0.8 if trial.arm == "sam_on" else 0.15
    return best - (1.5 * np.log(float(rho) / peak) ** 2 if rho is not None else 0.0)


def make_contents(
    spec: Spec,
    truth: Truth = hill,
    *,
    noise: float = 0.4,
    failed: Sequence[str] = (),
    upto: int | None = None,
    notes: Sequence[str] = (),
    images: int | None = None,
) -> Contents:
    """What the journal holds of a study whose trials reach `truth` plus noise that arms share.

    failed: names of trials that fail. upto: only the first so many trials ended. images: of the
    test set, where confirm trials say which of them they got right.
    """

    def run(trials: Sequence[Trial]) -> list[Result]:
        results = [_result(spec, t, truth(t), noise, t.name in failed) for t in trials]
        return results if images is None else [answering(r, images) for r in results]

    search = run(search_trials(spec))
    confirm = run(confirm_trials(spec, stages.chosen(spec, search)))
    results = [*search, *confirm][:upto]
    return Contents(
        header={**HEADER, "spec": spec.model_dump(mode="json"), "hash": spec.hash},
        trials={r.trial.name: r.trial for r in results},
        started={r.trial.name: 1_700_000_000.0 + 60 * i for i, r in enumerate(results)},
        epochs={r.trial.name: r.epochs for r in results},
        ends={
            r.trial.name: replace(r.end, time=1_700_000_000.0 + 60 * i + 50)
            for i, r in enumerate(results)
        },
        notes=tuple(notes),
    )


def answering(result: Result, images: int) -> Result:
    """The result with the images that it got right, hard ones seldom, if it finished with test
    scores; its test accuracy is rounded to whole images."""
    accuracy = result.end.scores.get("test_accuracy")
    if accuracy is None or result.end.status != "finished":
        return result
    count = round(accuracy * images / 100)
    luck = np.random.default_rng((result.trial.seed, len(result.trial.arm))).normal(0, 0.1, images)
    right = np.argsort(np.argsort(np.arange(images) / images + luck)) < count
    end = replace(
        result.end,
        scores={**result.end.scores, "test_accuracy": 100 * count / images},
        correct=Correct(images, np.packbits(right).tobytes()),
    )
    return replace(result, end=end)


def _result(spec: Spec, trial: Trial, accuracy: float, noise: float, fails: bool) -> Result:
    shared = np.random.default_rng(trial.seed).normal(0, noise)
    own = np.random.default_rng((trial.seed, len(trial.arm), trial.index)).normal(0, noise / 4, 9)
    diverges = bool(np.isnan(accuracy))
    reached = 10.0 if diverges else float(min(accuracy + shared + own[0], 100))
    n = spec.workload.epochs
    steps = 640 // 64
    last = 1 if diverges or fails else n
    epochs = tuple(
        Epoch(
            trial.name,
            e,
            {
                "train_loss": float("nan") if diverges else 2.3 * 0.93**e + 0.02 * own[e % 9],
                "train_accuracy": reached,
                "validation_accuracy": reached - 60 * 0.9**e * (e < n) + own[e % 9],
                "validation_loss": 0.4,
                "perturbation_norm": 0.1,
                "gradient_evaluations": float(steps * (1 if trial.arm == "sgd" else 2)),
                "seconds_per_epoch": 0.5 if trial.arm == "sgd" else 0.9,
                "perturbed_share": {"sgd": 0.0, "sam_on": 0.6}.get(trial.arm, 100.0),
            },
            0.0,
        )
        for e in range(1, last + 1)
    )
    status: Status = "failed" if fails else "diverged" if diverges else "finished"
    reason = {"failed": "out of memory", "diverged": "NaN in epoch 1", "finished": ""}[status]
    scores = {"validation_accuracy": reached}
    if trial.stage == "confirm":
        scores |= {"test_accuracy": reached - 0.3 + float(own[1]), "test_loss": 0.4}
    end = End(trial.name, status, reason, {} if fails else scores, last, 0.0)
    return Result(trial, end, epochs)
