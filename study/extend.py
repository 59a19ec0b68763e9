"""Raises the budgets of a study that has its verdict: python -m study.extend NAME --trials N.

What was planned stays first; what the extension finds is labelled as found after looking. The same
command again goes on with an extension that was interrupted.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from study import cluster, places, run, submit
from study.extension import extended, is_lost, restored
from study.home import Home
from study.terminal import Output
from study.yamlfile import SpecError


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit codes are those of study.run."""
    parser = argparse.ArgumentParser(
        prog="python -m study.extend",
        description="Give a study that has its verdict more search trials or more confirm seeds.",
    )
    parser.add_argument("name", metavar="NAME", help="the study")
    parser.add_argument("--trials", type=int, metavar="N", help="search trials an arm, in all")
    parser.add_argument("--seeds", type=int, metavar="N", help="confirm seeds, in all")
    places.add_places(parser)
    options = parser.parse_args(arguments)
    console = Output()

    def extend() -> int:
        if cluster.is_jobs_address(options.address):
            return _submit(options)
        rounds, contents = Home.named(options.out, options.name).rounds()
        if is_lost(rounds, contents):
            more = extended(rounds[-1], options.trials, options.seeds)
            return run.run(rounds[0], console, options, extension=restored(rounds, contents, more))
        if 0 not in contents.verdicts:
            raise SpecError(f"{options.name} has no verdict yet; finish it with study.run first")
        if contents.complete:
            more = extended(rounds[-1], options.trials, options.seeds)
        else:
            more = rounds[-1]
            if more != extended(rounds[-2], options.trials, options.seeds):
                raise SpecError(
                    f"{options.name}: an extension to {more.tune.trials_per_arm} search trials an "
                    f"arm and {more.confirm.seeds} confirm seeds is under way; finish it first"
                )
        return run.run(rounds[0], console, options, extension=more)

    return run.guarded(extend)


def _submit(options: argparse.Namespace) -> int:
    """Starts the same on a cluster, where the study is."""
    words = ["study.extend", options.name]
    for name in ("trials", "seeds"):
        if (number := getattr(options, name)) is not None:
            words += [f"--{name}", str(number)]
    return submit.start(options.name, words, options)


if __name__ == "__main__":
    run.leave(main())
