"""Networks that hang, overflow, raise, run out of memory or take their process with them."""

from __future__ import annotations

from collections import Counter

from tests.faults import checks
from tests.faults.checks import TRIALS, Seen
from tests.faults.ground import STUDY, Ground, Place
from tests.faults.outcome import Outcome

_STUCK_AFTER = 30.0  # seconds; longer than a process takes to start on a busy machine
_STUCK, _NAN, _ILL = 1, 2, 100_002
"""Seeds: of the second and third search trial of sgd, and of the third confirm run of each arm."""
_ONCE = "retries=1"
_TRACE = "RuntimeError: the network is ill"


def ill_trials(ground: Ground) -> Outcome:
    """Some trials hang, diverge or raise, each time they are tried."""
    fault = "stuck, NaN, failing trials"
    place = ground.place(fault, (f"stuck_after={_STUCK_AFTER}", _ONCE))
    place.behave(
        {"kind": "stuck", "seed": _STUCK},
        {"kind": "nan", "seed": _NAN},
        {"kind": "raise", "seed": _ILL},
    )
    ended = place.run()
    seen = place.seen()
    problems = checks.each_once(seen)
    if ended.code != 1 or "Traceback" in ended.err:
        problems.append(f"exit code {ended.code}, said {ended.err!r}")
    expected = {f"{STUDY}/sgd/search/{_STUCK}": ("failed", "stuck")}
    expected[f"{STUDY}/sgd/search/{_NAN}"] = ("diverged", "diverged in epoch 1")
    for arm in ("sgd", "sam_all", "sam_on"):
        expected[f"{STUDY}/{arm}/confirm/2"] = ("failed", "RuntimeError")
    ends = {line["trial"]: (line["status"], line["reason"]) for line in seen.of("end")}
    problems += [
        f"{name}: ended {end}, not {expected.get(name, ('finished', ''))}"
        for name, end in ends.items()
        if end != expected.get(name, ("finished", ""))
    ]
    if len(ends) != TRIALS:
        problems.append(f"{len(ends)} trials ended, not {TRIALS}")
    attempts = {name: 2 for name, (status, _) in expected.items() if status == "failed"}
    if _failures(seen) != attempts:
        problems.append(f"failed attempts {_failures(seen)}, not {attempts}")
    problems += place.mirror_problems()
    how = "each time these trials are tried; retries: 1"
    held = "killed and retried, then failed with the reason; NaN once, diverged; code 1"
    return Outcome(fault, how, len(expected), held, tuple(problems))


def every_trial_fails(ground: Ground) -> Outcome:
    """A bug that every trial meets; it is mended later."""
    fault = "every trial failing"
    place = ground.place(fault, (_ONCE,))
    place.behave({"kind": "raise"})
    ended = place.run()
    problems = [] if ended.code == 1 else [f"exit code {ended.code}"]
    if _TRACE not in ended.err or 'nets.py", line' not in ended.err:
        problems.append(f"did not show where it failed: {ended.err!r}")
    seen = place.seen()
    if seen.of("end"):
        problems.append(f"{len(seen.of('end'))} trials were given up")
    tried = len(seen.of("start"))
    if tried > TRIALS // 4:
        problems.append(f"{tried} trials were tried")
    problems += _mended(ground, place)
    held = f"stops after {tried} trials with the traceback; once mended, same bytes and budgets"
    return Outcome(fault, "the network raises", 1, held, tuple(problems))


def now_and_then(ground: Ground) -> Outcome:
    """Any trial may raise, run out of memory, or lose its process, once in a while."""
    fault = "trials failing now and then"
    if ground.short:
        return Outcome(fault, "", skipped="takes some minutes")
    place = ground.place(fault)
    kinds = {"raise": 1201, "memory": 1301, "exit": 1399, "killed": 1499}
    place.behave(*({"kind": kind, "every": every} for kind, every in kinds.items()))
    problems = checks.ended_with(place.run(), 0)
    seen = place.seen()
    problems += [*checks.same(seen, ground.calm.seen), *place.mirror_problems()]
    reasons = Counter(line["reason"] for line in seen.of("failure"))
    if not reasons:
        problems.append("none failed")
    told = ", ".join(f"{count} x {reason}" for reason, count in reasons.items())
    held = f"retried from the checkpoint, same bytes: {told}"
    return Outcome(fault, ", ".join(kinds), sum(reasons.values()), held, tuple(problems))


def _mended(ground: Ground, place: Place) -> list[str]:
    """What does not hold of the same command, once the network does as it should."""
    place.behave()
    problems = checks.ended_with(place.run(), 0)
    return [*problems, *checks.same(place.seen(), ground.calm.seen), *place.mirror_problems()]


def _failures(seen: Seen) -> dict[str, int]:
    """Failed attempts by trial."""
    return dict(Counter(line["trial"] for line in seen.of("failure")))
