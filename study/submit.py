"""Starts a study on a Ray cluster and leaves it there: python -m study.submit SPEC --address URL.

Sends this code and the spec. The study is the same as with study.run: submitting it again resumes
it, and study.status, study.stop and study.report take the same --address.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from study import places, resolve, run
from study.cluster import Cluster, place_on_head
from study.spec import Spec
from study.terminal import Output
from study.tracking_uri import masked
from study.yamlfile import SpecError
from trainables import catalog

_PATIENCE = 60.0
"""Seconds in which a study that cannot start says so; it mostly takes ten."""
_STARTED = ": starting Ray, "


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0 the study runs there, or has its verdict; otherwise that of study.run there."""
    parser = argparse.ArgumentParser(
        prog="python -m study.submit",
        description="Start a study on a Ray cluster; the same command again resumes it.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("spec", type=Path, metavar="SPEC", help="YAML file, as in search_spaces/")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="as for study.run")
    add("--address", required=True, metavar="URL", help="Jobs API, such as http://127.0.0.1:8265")
    places.add_out(parser)
    places.add_stores(parser)
    options = parser.parse_args(arguments)
    return run.guarded(lambda: _submit(options), goes_on=False)


def _submit(options: argparse.Namespace) -> int:
    spec = resolve.load(options.spec, options.set)
    words = ["study.run", options.spec.name]
    for assignment in options.set:
        words += ["--set", assignment]
    return start(spec.study, words, options, _files(options.spec, spec))


def start(
    study: str, words: Sequence[str], options: argparse.Namespace, files: Sequence[Path] = ()
) -> int:
    """Starts a command that runs a study as a job, shows what it prints until it trains, and
    returns the exit code. words: its module and arguments. options: of places.add_stores, out and
    address. Raises SpecError."""
    out, console = place_on_head(options.out), Output()
    words = ["python", "-m", *words, "--address", "auto", "--out", out]
    for name in ("tracking_uri", "ledger", "storage"):
        if (value := getattr(options, name)) is not None:
            words += [f"--{name.replace('_', '-')}", _without_secrets(name, value)]
    cluster = Cluster(options.address)
    if (there := cluster.running(study, out)) is not None:
        raise SpecError(f"{study} runs there already, as job {there}")
    job = cluster.submit(words, study, files, study=study, out=out)
    console.print(f"{study}: submitted as job {job}", soft_wrap=True)
    code = _begins(cluster, job, console)
    if code is None:
        place = f"{study} --address {options.address}"
        place += "" if options.out == places.OUT else f" --out {out}"
        console.print(f"to watch: python -m study.status {place}", soft_wrap=True)
        console.print(f"to stop:  python -m study.stop {place}", soft_wrap=True)
    return code or 0


def _begins(cluster: Cluster, job: str, console: Output) -> int | None:
    """Shows what the study prints until it trains; its exit code if it ends before."""
    until, said = time.monotonic() + _PATIENCE, ""
    for text in cluster.output(job):
        said += text
        console.print(text, end="", soft_wrap=True)
        if _STARTED in said or time.monotonic() > until:
            return None
    return cluster.exit_code(job)


def _without_secrets(name: str, value: str) -> str:
    """The value, which everybody may read who sees the cluster's jobs. Raises SpecError."""
    if ":" in value.partition("://")[2].rpartition("@")[0]:
        raise SpecError(
            f"--{name.replace('_', '-')} {masked(value)}: holds a password, which the cluster "
            "would show to everybody; set it in the environment of the head: PGPASSWORD, "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        )
    return value


def _files(path: Path, spec: Spec) -> list[Path]:
    """The spec, and the user's own packages that it names, where they lie in this folder."""
    files = [path]
    for name in (spec.workload.model.name, spec.workload.data.name):
        if catalog.is_own(name):
            top = name.partition(":")[0].partition(".")[0]
            files += [each for each in (Path(top), Path(f"{top}.py")) if each.exists()]
    return list(dict.fromkeys(files))


if __name__ == "__main__":
    run.leave(main())
