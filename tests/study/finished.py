"""Studies that are over, of known results, mirrored into a tracking store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from study import journal, stages, tracking
from study.home import Home
from study.journal import Journal
from study.records import End, Epoch, Result, Stage, Status, Trial, Value
from study.tracking import Mirror
from study.verdict import decide
from tests.study.synthetic import HEADER, make_spec

Scores = Mapping[str, Sequence[float | Status]]
"""By arm the test accuracies of its confirm runs; a word in place of one is how the run ended."""
CHANCE = 10.0


def mirrored(
    out: Path,
    uri: str,
    name: str,
    scores: Scores,
    *assignments: str,
    data_hash: str = "d1",
    rho: float = 0.1,
    search: Scores | None = None,
    judged: bool = True,
    later: tuple[float, Scores] | None = None,
    time: float = 1_700_000_000.0,
) -> Home:
    """Writes the journal of a study into out/name and mirrors it.

    assignments: as --set. rho: what every arm with one chose. search: validation accuracies of the
    search stage, trial i with rho 0.1 (i + 1). judged: whether it has its verdict. later: rho and
    accuracies of an extension that changed the configuration, or went on counting with the same.
    """
    spec = make_spec(
        f"study={name}", f"confirm.seeds={max(map(len, scores.values()))}", *assignments
    )
    home = Home(out, name)
    home.folder.mkdir(parents=True)
    target = Journal(home.journal)
    header = {**HEADER, "spec": spec.model_dump(mode="json"), "hash": spec.hash, "time": time}
    target.append({**header, "data": {"hash": data_hash}})

    def run(trial: Trial, value: float | Status) -> Result:
        nonlocal time
        status: Status = value if isinstance(value, str) else "finished"
        accuracy = CHANCE if isinstance(value, str) else value
        measured = {"validation_accuracy": accuracy, "perturbed_share": 0.5, "train_loss": 0.1}
        measured |= {"gradient_evaluations": 20.0, "seconds_per_epoch": 0.5}
        done = {"validation_accuracy": accuracy}
        if trial.stage == "confirm":
            done |= {"test_accuracy": accuracy, "test_loss": 0.4}
        time += 1
        epoch = Epoch(trial.name, 1, measured, time)
        reason = "" if status == "finished" else "a reason"
        end = End(trial.name, status, reason, {} if status == "failed" else done, 1, time)
        target.append(journal.start_line(trial, time))
        target.append(journal.epoch_line(epoch))
        target.append(journal.end_line(end))
        return Result(trial, end, (epoch,), time)

    def point(arm: str, rho: float) -> dict[str, Value]:
        return {"rho": rho} if spec.arms[arm].search else {}

    def trial(arm: str, stage: Stage, index: int, rho: float) -> Trial:
        seed = index + spec.tune.seed
        if stage == "confirm":
            seed += stages.CONFIRM_SEEDS + spec.arms[arm].seed_offset
        return Trial(name, arm, stage, index, seed, point(arm, rho))

    for arm, values in (search or {}).items():
        for i, value in enumerate(values):
            run(trial(arm, "search", i, 0.1 * (i + 1)), value)
    results = [
        run(trial(arm, "confirm", i, rho), value)
        for arm, values in scores.items()
        for i, value in enumerate(values)
    ]
    if judged:
        plain = decide(spec, results).plain()
        target.append({"kind": "verdict", "number": 0, "verdict": plain, "time": time + 1})
    if later is not None:
        for arm, values in later[1].items():
            for i, value in enumerate(values, len(scores[arm])):
                run(trial(arm, "confirm", i, later[0]), value)
        target.append({"kind": "verdict", "number": 1, "verdict": plain, "time": time + 1})
    target.close()
    mirror = Mirror(tracking.open_store(uri), home, uri)
    mirror.catch_up()
    mirror.finish()
    return home
