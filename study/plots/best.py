"""What more trials of the search would have brought."""

from __future__ import annotations

from study import searches
from study.plots import style
from study.plots.style import Plot
from study.records import Value
from study.rounds import Round
from study.spec import ADAPTIVE

_CAPTION = (
    "Search stage: validation accuracy of the configuration that would be chosen after k trials of "
    "each arm: {kind}. n: all trials with a score. A line that still rises at its end asks for "
    "more trials. The best of noisy scores is too high: the verdict rests on fresh seeds."
)


def plot(judged: Round) -> Plot | None:
    """The best validation accuracy of k trials, over k, of every arm that has a search."""
    arms = [search for search in judged.searches.arms if search.best]
    if not arms:
        return None
    from matplotlib.ticker import MaxNLocator

    look, told = style.looks(list(judged.spec.arms)), searches.kind(judged.spec)
    names, n = style.with_n({search.arm: search.n for search in arms})
    figure, axes = style.new(2.9, legend=list(names.values()))
    steps = "steps-post" if judged.spec.tune.sampler in ADAPTIVE else "default"
    for search in arms:
        axes.plot(
            range(1, search.n + 1), search.best,
            color=look[search.arm].colour, linestyle=look[search.arm].line, linewidth=1.5,
            marker=look[search.arm].marker, markersize=5, markevery=max(1, search.n // 8),
            drawstyle=steps, label=names[search.arm],
        )  # fmt: skip
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel(f"k, trials of the arm{n}")
    axes.set_ylabel("best validation accuracy, %")
    style.put_legend(axes)
    rows: list[dict[str, Value]] = [
        {"arm": search.arm, "trials": k, "validation_accuracy": best, "n": search.n, "what": told}
        for search in arms
        for k, best in enumerate(search.best, 1)
    ]
    return Plot(figure, rows, _CAPTION.format(kind=told))
