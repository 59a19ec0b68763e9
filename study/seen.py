"""What the search saw, as a table and the text below it."""

from __future__ import annotations

from study import searches
from study.analysis import Sample
from study.searches import Near, Search, Searches
from study.spec import Spec
from study.tables import NOTHING, Column, Table

AT_MOST, AT_LEAST = "\N{LESS-THAN OR EQUAL TO} ", "\N{GREATER-THAN OR EQUAL TO} "


def table(spec: Spec, seen: Searches) -> Table:
    """A row an arm: near-best rho, where it diverged, what more trials brought, and noise."""
    columns = (
        Column("arm", number=False),
        Column("rho near\nthe best", number=False),
        Column("factor"),
        Column("diverged in\nquarters of rho"),
        Column("best of\nk trials"),
        Column("sd of con-\nfigurations"),
        Column("sd of\nseeds"),
    )
    rows = tuple(
        (
            each.arm,
            _near(each),
            _factor(each.near),
            _diverged(each),
            _best(each),
            _deviation(each.configurations),
            _deviation(each.seeds),
        )
        for each in seen.arms
    )
    return Table("What the search saw", columns, rows, tuple(spec.arms))


def note(spec: Spec, seen: Searches) -> str:
    """What the columns mean; nothing of it decides a word."""
    noise = "not measured yet" if seen.noise is None else f"{seen.noise:.2f}"
    return (
        f"None of this decides a word. Near the best: at most {seen.tolerance:.2f} points of "
        "validation accuracy below the best value, the larger of the margin and the standard "
        f"deviation between seeds ({noise}, pooled over the arms); straight lines in log rho join "
        f"the tried values; {AT_MOST.strip()} and {AT_LEAST.strip()}: up to the edge of what was "
        "tried, so it may be wider; others apart: values beyond a worse one are near it too, "
        "and noise may have cut it short. Factor: high by low end. Diverged: of so many runs, in "
        "each quarter of the range from low to high rho (of its logarithm, where that is "
        f"searched). Best of k trials: validation accuracy, {searches.kind(spec)}. sd: standard "
        "deviation of validation accuracy between the configurations of the search, and between "
        "seeds of one configuration, without runs that diverged."
    )


def _near(each: Search) -> str:
    near = each.near
    if near is None:
        return NOTHING
    text = (
        f"{AT_MOST if near.low_open else ''}{near.low:.2g} to "
        f"{AT_LEAST if near.high_open else ''}{near.high:.2g}"
    )
    if not near.between:
        text += "\n(tried values)"
    if near.apart:
        text += "\nothers apart"
    return text if each.edge is None else f"{text}\nchosen: {each.edge} edge"


def _factor(near: Near | None) -> str:
    if near is None or near.factor is None:
        return NOTHING
    return f"{AT_LEAST if near.low_open or near.high_open else ''}{near.factor:.2g}"


def _diverged(each: Search) -> str:
    return " ".join(f"{c.diverged}/{c.n}" if c.n else NOTHING for c in each.diverged) or NOTHING


def _best(each: Search) -> str:
    """With half of the trials, and with all."""
    ks = sorted({max(1, each.n // 2), each.n}) if each.best else []
    return "\n".join(f"{k}: {each.best[k - 1]:.2f}" for k in ks) or NOTHING


def _deviation(sample: Sample | None) -> str:
    if sample is None or sample.n < 2:
        return NOTHING
    return f"{sample.deviation:.2f}\nn = {sample.n}"
