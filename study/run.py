"""The main job: python -m study.run SPEC. The same command again resumes it."""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from study import plan, resolve
from study.journal import RecordError
from study.spec import Spec
from study.yamlfile import SpecError

if TYPE_CHECKING:
    from study.home import Home
    from study.records import Result
    from study.stages import Plan
    from study.verdict import Verdict

# Ray, Optuna and the statistics are imported in `run`: no error in a spec waits for them.


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0 the verdict was reached, 1 it was not, 2 the input is wrong, 130 interrupted."""
    options = _parser().parse_args(arguments)
    console = Console(highlight=False, markup=False)
    try:
        if options.time and not options.plan:
            raise SpecError("--time goes with --plan: it measures, and starts no study")
        spec = resolve.load(options.spec, options.set)
        if options.plan:
            plan.show(spec, console, timed=options.time)
            return 0
        return run(spec, console, options.out, options.tracking_uri, options.address)
    except SpecError as error:
        print(error, file=sys.stderr)
        return 2
    except RecordError as error:
        print(f"{error}; once that is mended, the same command goes on", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on from here", file=sys.stderr)
        return 130


def run(
    spec: Spec, console: Console, out: Path, tracking_uri: str | None, address: str | None
) -> int:
    """Runs what is missing of a study, judges it and reports; the exit code of the command."""
    from study import preflight, report
    from study.home import Home

    home = Home(out, spec.study)
    uri = preflight.tracking_store(tracking_uri)
    contents = home.check_same(spec)
    preflight.writable(home)
    home.check_free()
    if contents is None or contents.verdict is None:
        verdict = _finish(spec, console, home, uri, address)
        contents = home.begun()[1]
    else:
        verdict = report.write(home.folder, spec, contents)
    report.print_result(console, spec, contents, verdict)
    console.print(f"report: {home.report}", soft_wrap=True)
    console.print(f"to compare studies: {preflight.how_to_look(uri)}", soft_wrap=True)
    return 0 if verdict.complete else 1


def _finish(spec: Spec, console: Console, home: Home, uri: str, address: str | None) -> Verdict:
    """Runs on Ray every trial that has not ended, stage by stage; writes report and verdict."""
    from study import preflight, report
    from study.course import Course
    from study.engine import Engine
    from study.ledger import Ledger, open_file
    from study.progress import Progress
    from study.recorder import Recorder
    from study.tracking_process import mirrored

    console.print(f"{spec.study}: starting Ray, loading {spec.workload.data.name}")
    with Engine(spec, address) as engine:
        at_once, facts = engine.at_once(), engine.load_pool()
        with (
            home.claimed(),
            preflight.opened(home, spec, facts) as journal,
            mirrored(spec.study, home.out, uri, console.print) as mirror,
        ):
            ledger = Ledger(open_file(home.ledger), spec)
            with (
                Progress(spec, console, at_once) as progress,
                Recorder(journal, ledger, on_error=engine.stop) as recorder,
            ):

                def results() -> Sequence[Result]:
                    recorder.flush()
                    return home.begun()[1].results

                def begin(plan: Plan, so_far: Sequence[Result]) -> None:
                    progress.stage(plan.stage, so_far)
                    if plan.stage == "confirm":
                        preflight.note_undecodable(engine.load_test(), "test", recorder.note)

                course = Course(spec, ledger, results, begin)
                engine.run(course, [recorder, progress])
            verdict = report.write(home.folder, spec, home.begun()[1])
            line = {"kind": "verdict", "verdict": verdict.plain(), "time": time.time()}
            journal.append(line, sync=True)
            mirror.finish()
            engine.close()  # while the mirror sends what is left
            return verdict


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m study.run",
        description="Runs a study to its verdict; the same command again resumes it.",
    )
    add = parser.add_argument
    add("spec", type=Path, metavar="SPEC", help="YAML file, as in search_spaces/")
    add(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a key of SPEC, such as confirm.seeds=3; may be repeated",
    )
    add("--plan", action="store_true", help="print what would run and what it costs")
    add("--time", action="store_true", help="with --plan: measure a few steps of every arm")
    add(
        "--out",
        type=Path,
        default=Path("studies"),
        metavar="DIR",
        help="where studies live, one folder each (default: studies)",
    )
    add(
        "--tracking-uri",
        metavar="URI",
        help="MLflow tracking store (default: $MLFLOW_TRACKING_URI, or mlflow.db here)",
    )
    add("--address", metavar="ADDR", help="Ray cluster to run on (default: one on this machine)")
    return parser


if __name__ == "__main__":
    code = main()
    gc.freeze()  # else Python spends a second looking for garbage on its way out
    sys.exit(code)
