"""Pure: what must hold of a study, whatever happened while it ran."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.study.command import Ended

Line = Mapping[str, Any]
TRIALS = 24
EPOCHS = 4
"""Of a trial, 2 in the short version."""
STEPS = 25
"""Of an epoch."""
PASSES = 2
"""Forward passes of a step, at most: those of SAM."""
AT_ONCE = 2


@dataclass(frozen=True)
class Seen:
    """What a study left behind. lines: of its journal. ledger: trials by Optuna study and state.
    files: those that must be the same after any mishap, by name. passes: forward passes of
    training, over all attempts."""

    lines: tuple[Line, ...]
    ledger: Mapping[str, Mapping[str, int]]
    files: Mapping[str, bytes]
    passes: int

    def of(self, kind: str) -> list[Line]:
        """Lines of a kind."""
        return [line for line in self.lines if line["kind"] == kind]


def same(seen: Seen, calm: Seen) -> list[str]:
    """How a study differs from the uninterrupted one."""
    return [*each_once(seen), *budgets(seen, calm), *same_bytes(seen, calm)]


def each_once(seen: Seen) -> list[str]:
    """Lines of the journal that are there twice."""
    keys = Counter(
        (line["kind"], line.get("trial"), line.get("epoch"), line.get("number"))
        for line in seen.lines
        if line["kind"] != "note"
    )
    return [f"journal: {count} lines {key}" for key, count in keys.items() if count > 1]


def budgets(seen: Seen, calm: Seen) -> list[str]:
    """Where journal or ledger hold other trials, with other ends, than those of calm."""
    problems = []
    for kind in ("start", "epoch", "end"):
        here, there = _told(seen, kind), _told(calm, kind)
        for key in here.keys() ^ there.keys():
            where = "there is none in" if key in there else "there is one more in"
            problems.append(f"{where} the journal: {kind} {key}")
        problems += [
            f"journal: {kind} {key}: {here[key]}, not {there[key]}"
            for key in here.keys() & there.keys()
            if here[key] != there[key]
        ]
    if len(_told(seen, "end")) != TRIALS:
        problems.append(f"journal: {len(_told(seen, 'end'))} trials ended, not {TRIALS}")
    if seen.ledger != calm.ledger:
        problems.append(f"ledger: {seen.ledger}, not {calm.ledger}")
    return problems


def same_bytes(seen: Seen, calm: Seen) -> list[str]:
    """Files that are not those of calm."""
    return [
        f"{name}: not the same bytes as without the fault"
        for name, content in calm.files.items()
        if seen.files.get(name) != content
    ]


def lost(seen: Seen, calm: Seen) -> float:
    """Epochs of the costliest arm that were trained more than once."""
    return (seen.passes - calm.passes) / (STEPS * PASSES)


def lost_at_most(seen: Seen, calm: Seen, mishaps: int, at_once: int) -> list[str]:
    """Whether more was trained again than an epoch, the interval of checkpoints, for each trial
    that a mishap hits. at_once: how many it may hit."""
    again, allowed = lost(seen, calm), float(mishaps * at_once)
    if again <= allowed:
        return []
    return [f"{again:.1f} epochs were trained again, more than the {allowed:.0f} of the interval"]


def ended_with(ended: Ended, code: int) -> list[str]:
    """Whether a command ended with this code, told its errors in a line and showed no trace."""
    problems = []
    if ended.code != code:
        problems.append(f"exit code {ended.code}, not {code}: {ended.err[-500:]!r}")
    if "Traceback" in ended.err + ended.out:
        problems.append(f"a traceback: {ended.err[-2000:]}")
    if code == 0 and ended.err:
        problems.append(f"said {ended.err!r}")
    if code and len(ended.err.strip().splitlines()) != 1:
        problems.append(f"not one line: {ended.err!r}")
    return problems


def phase(seen_lines: tuple[Line, ...]) -> str:
    """Where a study is."""
    ends = sum(line["kind"] == "end" for line in seen_lines)
    starts = sum(line["kind"] == "start" for line in seen_lines)
    if starts == 0:
        return "start"
    if ends == TRIALS:
        return "report"
    if ends < TRIALS // 2:
        return "search"
    return "confirm" if starts > TRIALS // 2 else "between"


def _told(seen: Seen, kind: str) -> dict[Any, Any]:
    """What lines of a kind say but for times, by trial and epoch."""
    return {
        (line["trial"], line.get("epoch")): {
            key: _timeless(value) for key, value in line.items() if key != "time"
        }
        for line in seen.of(kind)
    }


def _timeless(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: each for key, each in value.items() if key != "seconds_per_epoch"}
    return value
