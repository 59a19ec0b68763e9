"""A Ray cluster seen from outside: studies and commands as jobs on its head, through Ray Jobs.

No state is kept here: what runs is asked of Ray, how far a study is of its journal on the head.
"""

from __future__ import annotations

import argparse
import logging
import shlex
import shutil
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from study import provenance
from study.places import OUT, OUT_THERE
from study.yamlfile import SpecError

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

_ROOT = Path(__file__).resolve().parent.parent
_PACKAGES = ("study", "trainables")
_PAUSE = 0.5  # seconds between two looks at a job
_ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
_BEGINS = "Running entrypoint for job "
"""What Ray writes into a job's output right before its command does."""


def is_jobs_address(address: str | None) -> bool:
    """Whether an address is that of a cluster's Jobs API, not of the cluster itself."""
    return address is not None and address.startswith(("http://", "https://"))


def forward(
    module: str, arguments: Sequence[str] | None, address: str, out: Path, *more: str
) -> int:
    """Runs a command of this package on the head of a cluster and prints its output; its exit code.

    arguments: as it was given them here; --address and --out are left out. more: further ones.
    Raises SpecError where the cluster does not take it.
    """
    words = sys.argv[1:] if arguments is None else arguments
    words = [*_without(words, "--address", "--out"), "--out", place_on_head(out), *more]
    return Cluster(address).run(["python", "-m", module, *words])


class Cluster:
    """The Jobs API at `address`. Raises SpecError, one line, where it does not answer or does not
    let this client in."""

    def __init__(self, address: str) -> None:
        if not is_jobs_address(address):
            raise SpecError(
                f"--address {address}: not the address of a cluster's Jobs API, such as "
                "http://127.0.0.1:8265"
            )
        self._address = address
        with self._told():
            from ray.job_submission import JobSubmissionClient

            self._client: JobSubmissionClient = JobSubmissionClient(address)
            for tells_of_packages in ("dashboard.modules.dashboard_sdk", "_private.runtime_env"):
                logging.getLogger(f"ray.{tells_of_packages}").setLevel(logging.ERROR)

    def running(self, study: str, out: str) -> str | None:
        """The job that runs a study of this name from this folder, None where none does."""
        with self._told():
            jobs = self._client.list_jobs()
        for job in jobs:
            place = (job.metadata or {}).get("study"), (job.metadata or {}).get("out")
            if place == (study, out) and job.status not in _ENDED:
                return str(job.submission_id)
        return None

    def submit(
        self, words: Sequence[str], name: str, files: Sequence[Path] = (), **about: str
    ) -> str:
        """Starts a command as a job, with this code and `files` in its folder; the job's id."""
        job = f"{name}-{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:4]}"
        columns = str(shutil.get_terminal_size((120, 24)).columns)
        with _package(files) as folder, self._told():
            self._client.submit_job(
                entrypoint=shlex.join(words),
                submission_id=job,
                runtime_env={
                    "working_dir": str(folder),
                    "env_vars": {"COLUMNS": columns, "PYTHONUNBUFFERED": "1"},
                },
                metadata=about,
            )
        return job

    def run(self, words: Sequence[str]) -> int:
        """Runs a command as a job to its end, prints its output, and returns its exit code. An
        interrupt here ends it there."""
        job = self.submit(words, words[2].replace(".", "-"))
        try:
            for text in self.output(job):
                print(text, end="", flush=True)
        except BaseException:
            self._client.stop_job(job)
            raise
        return self.exit_code(job)

    def output(self, job: str) -> Iterator[str]:
        """What the command of a job prints, as it comes, until its end."""
        shown = 0
        while True:
            with self._told():
                over = self._client.get_job_status(job) in _ENDED
                text = _of_command(self._client.get_job_logs(job))
            yield text[shown:]
            shown = len(text)
            if over:
                return
            time.sleep(_PAUSE)

    def exit_code(self, job: str) -> int:
        """That of the command of a job that ended. Raises SpecError where it never began."""
        with self._told():
            info = self._client.get_job_info(job)
        if info.driver_exit_code is not None:
            return int(info.driver_exit_code)
        if info.status == "SUCCEEDED":
            return 0
        raise SpecError(f"--address {self._address}: job {job}: {' '.join(info.message.split())}")

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Turns what the client raises into one line."""
        import requests
        from ray.exceptions import AuthenticationError

        try:
            yield
        except AuthenticationError as error:
            raise SpecError(
                f"--address {self._address}: {str(error).splitlines()[0]}; give the cluster's "
                "token: RAY_AUTH_MODE=token and RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH"
            ) from None
        except (ConnectionError, requests.RequestException):
            raise SpecError(
                f"--address {self._address}: no Ray cluster answers there; is the tunnel up "
                "(ray attach deploy/ray-cluster.yaml -p 8265), and Ray's dashboard?"
            ) from None
        except (RuntimeError, ImportError) as error:
            text = " ".join(str(error).split())
            raise SpecError(f"--address {self._address}: {text}") from None


def place_on_head(out: Path) -> str:
    """--out as a command on the head is to get it. Raises SpecError where it is relative: a job
    has a folder of its own, which goes away."""
    if out == OUT:
        return str(OUT_THERE)
    if not str(out).startswith(("/", "~")):
        raise SpecError(f"--out {out}: must be absolute, or begin with ~, on a cluster")
    return str(out)


def _without(words: Sequence[str], *options: str) -> list[str]:
    """The words of a command without these options and their values."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for option in options:
        parser.add_argument(option)
    return parser.parse_known_args([*words])[1]


def _of_command(log: str) -> str:
    """A job's output without what Ray wrote before the command."""
    lines = log.splitlines(keepends=True)
    for number, line in enumerate(lines):
        if line.startswith(_BEGINS):
            return "".join(lines[number + 1 :])
    return ""


@contextmanager
def _package(files: Sequence[Path]) -> Iterator[Path]:
    """A folder with this code, the commit that it is of, and `files`."""
    with tempfile.TemporaryDirectory(prefix="sam-study-") as temporary:
        folder = Path(temporary)
        ignored = shutil.ignore_patterns("__pycache__")
        for package in _PACKAGES:
            shutil.copytree(_ROOT / package, folder / package, ignore=ignored)
        (folder / provenance.COMMIT).write_text(provenance.commit())
        for file in files:
            if file.is_dir():
                shutil.copytree(file, folder / file.name, ignore=ignored)
            else:
                shutil.copy(file, folder / file.name)
        yield folder
