"""What came of injecting a fault."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Outcome:
    """A fault, injected so many times. held: what was found to hold, with the numbers seen.
    problems: what did not hold, a line each. skipped: why it could not be injected here."""

    fault: str
    how: str
    rounds: int = 0
    held: str = ""
    problems: tuple[str, ...] = ()
    seconds: float = 0.0
    skipped: str = ""


def show(outcomes: Iterable[Outcome], console: Console) -> None:
    """Prints the table, a row a fault, and below it what did not hold."""
    table = Table("fault", "how", "rounds", "what held", "seconds", box=None, pad_edge=False)
    problems: list[str] = []
    for each in outcomes:
        if each.skipped:
            held = f"skipped: {each.skipped}"
        elif each.problems:
            held = f"DID NOT HOLD: {len(each.problems)} problems, below"
        else:
            held = each.held
        table.add_row(each.fault, each.how, str(each.rounds), held, f"{each.seconds:.0f}")
        problems += [f"{each.fault}: {problem}" for problem in each.problems]
    console.print(table)
    for problem in problems:
        console.print(problem, soft_wrap=True)
