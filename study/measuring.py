"""Measures the confirmed models of a study on Ray, and writes down what it finds."""

from __future__ import annotations

import time
from collections.abc import Callable

from study import journal, measures
from study.engine import Engine
from study.home import Home
from study.journal import Journal
from study.records import Measurement
from study.spec import Spec

_BEAT = 60.0
"""Seconds between two lines that say how far it is."""
_TOLD = 5
"""Failures that are told one by one."""


def measure(
    asked: Spec,
    home: Home,
    into: Journal,
    engine: Engine,
    tell: Callable[[str], None],
    warn: Callable[[str], None],
) -> bool:
    """Measures what is missing, and writes down each measurement when it is there; whether there
    was anything to do.

    tell: told how far it is. warn: what could not be measured; the same command tries it again.
    Raises KeyboardInterrupt when asked to stop.
    """
    rounds, contents = home.rounds()
    tasks = measures.missing(asked.confirm.measure, rounds, contents)
    if not tasks:
        return False
    tell(f"{home.name}: measuring {', '.join(asked.confirm.measure)} ({len(tasks)} tasks)")
    failed, told = [], time.monotonic()
    for done, (task, outcome) in enumerate(engine.measure(tasks), 1):
        if isinstance(outcome, str):
            failed.append(f"{home.name}: not measured: {task.title}: {outcome}")
        else:
            found = Measurement(*task.key, outcome, time.time())
            into.append(journal.measurement_line(found), sync=True)
        if time.monotonic() - told >= _BEAT:
            told = time.monotonic()
            tell(f"{home.name}: measured {done} of {len(tasks)}")
    for text in failed[:_TOLD]:
        warn(text)
    if len(failed) > _TOLD:
        warn(f"{home.name}: {len(failed) - _TOLD} more could not be measured")
    return True
