"""How a study's own machinery grows with the number of trials: 512 GPUs by a simulated clock.

    python -m benchmarks.scaling [--trials N ...] [--set KEY=VALUE ...] [--postgresql] [--mlflow]
    python -m benchmarks.scaling --ray [--trials N ...] [--workers N] [--unbundled]

A study of four arms and N trials in all, a fifth of them of the confirm stage, 10 epochs a trial,
on 512 workers. Course, ledger, recorder, journal and display are those of a real study, on disk;
the trials are a formula, and end by a clock that waits for nobody. What is left is the time that
the driver needs. For each N, in a process of its own: how many results (epochs and ends) that makes
a second, what asking for a trial takes, what a start on the finished journal and ledger takes, and
the report.

--postgresql keeps the ledger there, in a server of this benchmark's own. --mlflow sends the journal
to MLflow: to a file of SQLite, or with --postgresql to a server on that. --ray runs the whole
command on Ray instead, with trials that train nothing: 5 epochs each, as fast as Ray goes; with
--unbundled each tells the driver by itself, as epochs of more than a second do.

Prints a table and writes it to scaling.json, or the file that --json names.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from sqlalchemy import NullPool, create_engine, text

from benchmarks.measured import apart
from study import ledger_store, preflight, report, resolve, stages, sync, tracking
from study.course import Course
from study.home import Home
from study.ledger import Ledger
from study.patience import ALONE
from study.progress import Progress
from study.recorder import Recorder
from study.records import End, Epoch, Result, Status, Trial
from study.spec import Spec
from study.stages import Plan
from tests.services import postgres
from tests.services.tracking_server import TrackingServer
from tests.study.mirrored import METRICS, TABLES

SPEC = Path(__file__).parent.parent / "search_spaces/norm_vs_all.yaml"
EPOCHS = 10
WORKERS = 512
_ARMS = 4
_FACTS = {"hash": "none", "undecodable": ()}

Figures = dict[str, float]


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--trials", type=int, nargs="+", default=[200, 1000, 5000])
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--postgresql", action="store_true")
    parser.add_argument("--mlflow", action="store_true")
    parser.add_argument("--ray", action="store_true")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="of --ray")
    parser.add_argument("--unbundled", action="store_true", help="of --ray")
    parser.add_argument("--json", type=Path, default=Path("scaling.json"))
    options = parser.parse_args()
    columns: dict[int, Figures] = {}
    for trials in options.trials:
        assignments = [*sizes(trials), *options.set]
        with tempfile.TemporaryDirectory() as folder:
            if options.ray:
                columns[trials] = _apart(
                    "driver", _on_ray, folder, assignments, options.workers, not options.unbundled
                )
            else:
                columns[trials] = _simulated(
                    Path(folder), assignments, options.postgresql, options.mlflow
                )
        print(f"{trials} trials: {json.dumps(columns[trials])}", file=sys.stderr, flush=True)
    _print(columns)
    options.json.write_text(json.dumps(columns, indent=2) + "\n")


def sizes(trials: int) -> list[str]:
    """What makes norm_vs_all a study of about so many trials, a fifth of them to confirm."""
    confirm = max(2, trials // _ARMS // 5)
    search = max(2, trials // _ARMS - confirm)
    return [f"tune.trials_per_arm={search}", f"confirm.seeds={confirm}"]


def _print(columns: Mapping[int, Figures]) -> None:
    print(f"{'trials':44s}" + "".join(f"{trials:12,d}" for trials in columns))
    for title in next(iter(columns.values())):
        values = [figures[title] for figures in columns.values()]
        print(f"{title:44s}" + "".join(f"{value:12,.4g}" for value in values))


def _apart(title: str, call: Callable[..., Figures], *arguments: Any) -> Figures:
    """What `call` returns, and what memory it took, from a process of its own."""
    return apart(_measured, title, call, *arguments)


def _measured(title: str, call: Callable[..., Figures], *arguments: Any) -> Figures:
    return {**call(*arguments), f"{title}, memory, MB": _memory() / 1e6}


def _memory() -> int:
    """Bytes that this process held at most. Not from getrusage: that counts, in a process that was
    started by another, what the other held."""
    status = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in status if line.startswith("VmHWM:"))


def _on_ray(folder: str, assignments: list[str], workers: int, bundles: bool) -> Figures:
    from tests.services import noop  # Ray is imported where it is used: it is most of the memory

    return noop.measure(SPEC, assignments, Path(folder), workers, bundles=bundles)


def _simulated(folder: Path, assignments: list[str], database: bool, mlflow: bool) -> Figures:
    with _servers(folder, database, mlflow) as (url, uri):
        figures = _apart("driver", _drive, folder, assignments, url)
        figures |= _apart("starting again", _resume, folder, assignments, url)
        figures |= _apart("report", _report, folder, assignments)
        if uri is not None:
            figures |= _apart("mirror", _mirror, folder, assignments, *uri)
    return figures


@contextmanager
def _servers(
    folder: Path, database: bool, mlflow: bool
) -> Iterator[tuple[str | None, tuple[str, str] | None]]:
    """URL of the ledger, None for a file; and of MLflow the tracking URI and the database."""
    sqlite = f"sqlite:///{folder}/mlflow.db"
    if not database:
        yield None, (sqlite, sqlite) if mlflow else None
        return
    programs = postgres.programs()
    if programs is None:
        sys.exit("PostgreSQL's server is not installed; on Debian: apt-get install postgresql")
    with postgres.serving(programs) as server, ExitStack() as running:
        tracking_server = None
        if mlflow:
            below = server.url(server.database())
            tracking_server = TrackingServer(below, folder)
            running.callback(tracking_server.stop)
            tracking_server.start()
        yield (
            server.url(server.database()),
            (tracking_server.uri, below) if tracking_server is not None else None,
        )


def _drive(folder: Path, assignments: list[str], url: str | None) -> Figures:
    """Runs the study against the clock. Every end is written before the next event, as it would
    be with trials that take minutes."""
    spec, home = _study(folder, assignments)
    asks, tells, begins = list[float](), list[float](), list[float]()
    with ExitStack() as held:
        store = held.enter_context(ledger_store.reserved(home, None, url))
        held.enter_context(home.claimed())
        journal = held.enter_context(preflight.opened(home, spec, _FACTS, store.recorded))
        ledger = Ledger(store.open(ALONE), spec)
        quiet = Console(file=held.enter_context(open(os.devnull, "w")), force_terminal=False)
        progress = held.enter_context(Progress(spec, quiet, WORKERS))
        began, cpu = time.perf_counter(), time.process_time()
        with Recorder(journal, ledger, _cannot) as recorder:

            def results() -> Sequence[Result]:
                recorder.flush()
                return home.begun()[1].results

            def begin(plan: Plan, so_far: Sequence[Result]) -> None:
                progress.stage(plan.stage, stages.of_round([spec], 0, so_far))
                begins.append(0.0)

            course = Course([spec], ledger, results, begin, _cannot)
            listeners = (recorder, progress)
            clock, order, running = time.time(), itertools.count(), list[Any]()
            waiting = False
            while True:
                while len(running) < WORKERS and not waiting:
                    of, since = len(begins), time.perf_counter()
                    group = course.next()
                    taken = time.perf_counter() - since
                    if isinstance(group, str):
                        waiting = True
                        break
                    [trial] = group
                    if len(begins) > of:
                        begins[-1] = taken
                    else:
                        asks.append(taken)
                    for listener in listeners:
                        listener.start(trial, clock)
                    heapq.heappush(running, (clock + _seconds(trial), next(order), trial, 1))
                if not running:
                    break
                clock, _, trial, number = heapq.heappop(running)
                epoch = Epoch(trial.name, number, _metrics(trial, number), clock)
                stops = course.stops(epoch)
                for listener in listeners:
                    listener.epoch(epoch)
                if number < EPOCHS and not stops:
                    again = clock + _seconds(trial), next(order), trial, number + 1
                    heapq.heappush(running, again)
                    continue
                end = _end(trial, epoch, pruned=number < EPOCHS)
                since = time.perf_counter()
                for listener in listeners:
                    listener.end(end)
                recorder.flush()
                tells.append(time.perf_counter() - since)
                course.ended(trial.name)
                waiting = False
        wall, cpu = time.perf_counter() - began, time.process_time() - cpu
    lines = sum(end.epochs + 1 for end in home.begun()[1].ends.values())
    return {
        "trials that ended": len(tells),
        "results": lines,
        "driver, s": wall,
        "driver's CPU time, s": cpu,
        "results a second": lines / wall,
        "asking, median, ms": 1e3 * statistics.median(asks),
        "asking, at most, ms": 1e3 * max(asks),
        "asking, all, s": sum(asks),
        "an end, median, ms": 1e3 * statistics.median(tells),
        "an end, at most, ms": 1e3 * max(tells),
        "ends, all, s": sum(tells),
        "beginning of the search stage, s": begins[0],
        "beginning of the confirm stage, s": begins[-1],
        "journal, MB": home.journal.stat().st_size / 1e6,
        "ledger, MB": _ledger_size(home, url) / 1e6,
    }


def _cannot(*_: object) -> None:
    raise SystemExit("results cannot be written")


def _study(folder: Path, assignments: list[str]) -> tuple[Spec, Home]:
    spec = resolve.load(SPEC, [f"workload.epochs={EPOCHS}", *assignments])
    return spec, Home(folder, spec.study)


def _seconds(trial: Trial) -> float:
    """Of an epoch on the clock."""
    return random.Random(trial.name).uniform(50, 70)  # noqa: S311


def _metrics(trial: Trial, number: int) -> Mapping[str, float]:
    noise = random.Random(f"{trial.name} {number}").gauss(0, 0.5)  # noqa: S311
    values = {key: number + i / 10 + noise / 100 for i, key in enumerate(METRICS)}
    return values | {"validation_accuracy": 80 + number + noise}


def _end(trial: Trial, last: Epoch, *, pruned: bool) -> End:
    scores = {"validation_accuracy": last.metrics["validation_accuracy"]}
    if trial.stage == "confirm":
        scores |= {"test_accuracy": scores["validation_accuracy"], "test_loss": 0.4}
    reason = f"pruned after epoch {last.epoch}" if pruned else ""
    status: Status = "pruned" if pruned else "finished"
    return End(trial.name, status, reason, scores, last.epoch, last.time)


def _ledger_size(home: Home, url: str | None) -> int:
    if url is None:
        return home.ledger.stat().st_size
    return _number(url, "SELECT pg_database_size(current_database())")


def _number(url: str, statement: str) -> int:
    with create_engine(url, poolclass=NullPool).connect() as connection:
        return int(connection.scalar(text(statement)) or 0)


def _resume(folder: Path, assignments: list[str], url: str | None) -> Figures:
    """A start that finds every trial ended, as after a crash just before the verdict."""
    spec, home = _study(folder, assignments)
    began = time.perf_counter()
    contents = home.check_same(spec)
    with ledger_store.reserved(home, contents, url) as store, home.claimed():
        with preflight.opened(home, spec, _FACTS, store.recorded):
            contents = home.begun()[1]
            started = {name: trial.hyperparameters for name, trial in contents.trials.items()}
            ledger = Ledger(store.open(ALONE), spec, started)
            results = contents.results
            following = Course([spec], ledger, lambda: results, _cannot, _cannot).next()
        seconds = time.perf_counter() - began
    assert following == "done", following
    return {"starting again, s": seconds}


def _report(folder: Path, assignments: list[str]) -> Figures:
    _, home = _study(folder, assignments)
    began = time.perf_counter()
    report.write(home.folder, *home.rounds())
    return {
        "report, s": time.perf_counter() - began,
        "report, MB": home.report.stat().st_size / 1e6,
    }


def _mirror(folder: Path, assignments: list[str], uri: str, database: str) -> Figures:
    """Sends the whole journal. database: where the rows come to lie."""
    os.environ |= sync.ENVIRONMENT
    _, home = _study(folder, assignments)
    mirror = tracking.Mirror(tracking.open_store(uri), home, uri)
    began = time.perf_counter()
    mirror.catch_up()
    seconds = time.perf_counter() - began
    rows = sum(_number(database, f"SELECT count(*) FROM {table}") for table in TABLES)  # noqa: S608
    return {
        "MLflow, s": seconds,
        "MLflow, rows": rows,
        "MLflow, rows a second": rows / seconds,
    }


if __name__ == "__main__":
    main()
