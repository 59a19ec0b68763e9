"""What MLflow shows as the description of a study's run: its verdict in Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from study.journal_lines import Line
from study.sentence import signed
from study.tables import NOTHING, p_value

MAX_ROWS = 20
"""Comparisons in the table; the report has all of them."""


def note(header: Line, verdict: Line, after_looking: str | None) -> str:
    """Question, planned verdict, that of the last extension, and the planned comparisons."""
    found = verdict["verdict"]
    parts = (
        header["spec"]["question"],
        found["sentence"],
        f"After looking: {after_looking}" if after_looking else "",
        _table(found["comparisons"]),
    )
    return "\n\n".join(filter(None, parts))


def _table(comparisons: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        _line(("comparison", "n", "difference", "interval", "p (Holm)", "verdict")),
        "|---|---|---|---|---|---|",
        *(_row(each) for each in comparisons[:MAX_ROWS]),
    ]
    left = len(comparisons) - MAX_ROWS
    more = f"\n\n{left} more comparisons: report.html among the artifacts." if left > 0 else ""
    return "\n".join(rows) + more


def _row(comparison: Mapping[str, Any]) -> str:
    difference, (low, high) = comparison["difference"], comparison["interval"]
    cells = (
        f"`{comparison['arm']}` \N{MINUS SIGN} `{comparison['against']}`",
        str(comparison["n"]),
        NOTHING if difference is None else signed(difference),
        NOTHING if low is None or high is None else f"[{signed(low)}, {signed(high)}]",
        p_value(comparison["p_holm"]),
        comparison["word"],
    )
    return _line(cells)


def _line(cells: Sequence[str]) -> str:
    # MLflow's page leaves no room between columns, and trims spaces that may break
    return "".join(f"| {cell}\N{NO-BREAK SPACE} " for cell in cells) + "|"
