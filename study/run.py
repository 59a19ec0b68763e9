"""The main job: python -m study.run SPEC. The same command again resumes it."""

from __future__ import annotations

import argparse
import errno
import gc
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NoReturn

from rich.console import Console

from study import cluster, places, plan, resolve, smoke, terminal
from study.failures import EveryTrialFails
from study.journal import RecordError
from study.spec import Spec
from study.yamlfile import SpecError

# Ray, Optuna and the statistics are imported in `run`: no error in a spec waits for them.


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0 the verdict was reached, 1 it was not, 2 the input is wrong, 130 interrupted."""
    options = _parser().parse_args(arguments)
    console = terminal.Output()

    def start() -> int:
        if cluster.is_jobs_address(options.address):
            again = "python -m study.submit SPEC --address"
            raise SpecError(f"--address: a study goes there with {again} {options.address}")
        if options.time and not options.plan:
            raise SpecError("--time goes with --plan: it measures, and starts no study")
        if options.smoke:
            specs = [smoke.load(path, options.set) for path in options.spec]
            return run_smoke(specs, console, options.address)
        path, *more = options.spec
        if more:
            raise SpecError(f"{more[0]}: one SPEC at a time; only --smoke takes several")
        spec = resolve.load(path, options.set)
        if options.plan:
            plan.show(spec, console, options.out, timed=options.time)
            return 0
        return run(spec, console, options)

    return guarded(start, goes_on=not options.smoke)


def guarded(command: Callable[[], int], *, goes_on: bool = True) -> int:
    """The exit code of a command, its errors told in one line. goes_on: whether the same command
    goes on after an interrupt."""
    terminal.prepare()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a request to stop like Ctrl-C
    try:
        _check_here()
        return command()
    except SpecError as error:
        print(error, file=sys.stderr)
        return 2
    except (RecordError, EveryTrialFails) as error:
        print(f"{error}; once that is mended, the same command goes on", file=sys.stderr)
        return 1
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        terminal.discard()
        print(f"cannot write the output: {error.strerror}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        again = "; the same command goes on from here" if goes_on else ""
        print(f"\ninterrupted{again}", file=sys.stderr)
        return 130


def _check_here() -> None:
    try:
        os.getcwd()
    except FileNotFoundError:
        raise SpecError("the current folder was deleted; go to another one") from None


def run(
    spec: Spec, console: Console, options: argparse.Namespace, extension: Spec | None = None
) -> int:
    """Runs what is missing of a study, judges it and reports; the exit code of the command.

    options: those of places.add_places. extension: the study with raised budgets, to follow.
    """
    from study import ledger_store, preflight, report, tracking_state
    from study.home import Home
    from study.tracking_watch import mirrored

    warn = partial(console.print, soft_wrap=True)
    home = Home(options.out, spec.study, options.storage)
    uri = preflight.tracking_store(options.tracking_uri, home.out)
    if options.ledger == uri:
        raise SpecError("--ledger: the tracking store lies there; name a database of its own")
    contents = home.check_same(spec)
    preflight.writable(home)
    home.check_free()
    preflight.storage(home, contents)
    if extension is not None or not home.ended(contents, spec.confirm.measure):
        preflight.room(home)
        with ledger_store.reserved(home, contents, options.ledger) as store:
            outage = preflight.tracking_answers(spec.study, uri, warn)
            console.print(f"{spec.study}: starting Ray, loading {spec.workload.data.name}")
            from study.engine import Engine
            from study.execution import finish

            engine = Engine(spec, options.address, home.storage_uri)
            judged = finish(spec, extension, home, store, uri, engine, console, warn, outage)
    else:
        judged = report.write(home.folder, *home.rounds())
        if not tracking_state.is_finished(home, uri):  # driver and mirror died after the verdict
            with mirrored(spec.study, home.out, uri, warn):
                console.print(f"{spec.study}: sending MLflow what is missing there")
    contents = home.begun()[1]
    report.print_result(console, judged, contents)
    console.print(f"report: {home.report}", soft_wrap=True)
    for line in preflight.how_to_look(uri, home):
        console.print(line, soft_wrap=True)
    return 0 if judged[-1].verdict.complete else 1


def run_smoke(specs: Sequence[Spec], console: Console, address: str | None) -> int:
    """Runs what smoke.load made of studies, one after another on one Ray, and keeps nothing.

    Exit code: 0 where no trial failed and MLflow heard of all of them, 1 otherwise.
    """
    from study import ledger_store
    from study.engine import Engine
    from study.execution import finish
    from study.home import Home
    from study.tracking_uri import default_uri

    code = 0
    with tempfile.TemporaryDirectory(prefix="sam-study-smoke-") as folder:
        uri = default_uri(Path(folder))
        for i, spec in enumerate(specs):
            name, arms = spec.study, " and ".join(spec.arms)
            console.print(f"{name}: {arms}, a few digits as {spec.workload.data.name}")
            home = Home(Path(folder) / str(i), name)  # two files may name one study
            engine = Engine(spec, address, home.storage_uri, keep=i + 1 < len(specs))
            # Its accuracies mean nothing, so they are not shown.
            quiet = Console(quiet=True, force_terminal=False)
            late: list[str] = []
            with ledger_store.reserved(home, None, None) as store:
                finish(spec, None, home, store, uri, engine, quiet, late.append)
            contents = home.begun()[1]
            for text in (*contents.notes, *late):
                console.print(f"{name}: {text}", soft_wrap=True)
            failed = sum(end.status == "failed" for end in contents.ends.values())
            console.print(f"{name}: {len(contents.ends)} trials ran, {failed} failed; no verdict")
            code = 1 if failed or late else code
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m study.run",
        description="Runs a study to its verdict; the same command again resumes it.",
    )
    add = parser.add_argument
    add("spec", type=Path, metavar="SPEC", nargs="+", help="YAML file, as in search_spaces/")
    add(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a key of SPEC, such as confirm.seeds=3; may be repeated",
    )
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--plan", action="store_true", help="print what would run and what it costs")
    mode.add_argument(
        "--smoke",
        action="store_true",
        help="try in seconds whether SPEC ... would run: two arms, a few batches of digits, a tiny "
        "model; no verdict, and nothing is kept",
    )
    add("--time", action="store_true", help="with --plan: measure a few steps of every arm")
    places.add_places(parser)
    return parser


def leave(code: int) -> NoReturn:
    """Ends the process. All is written, so nothing is left that a signal could stop; while Python
    ends it would change the exit code."""
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    gc.freeze()  # else Python spends a second looking for garbage on its way out
    sys.exit(code)


if __name__ == "__main__":
    leave(main())
