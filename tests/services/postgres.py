"""A PostgreSQL server of the tests' own, on the loopback interface and with a password."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import NullPool, create_engine, text

PASSWORD = "open/sesame@7"
_USER = "postgres"
_QUICK = "-c fsync=off -c full_page_writes=off"  # nothing here has to outlive the machine


@dataclass(frozen=True)
class Postgres:
    """A server that runs. home: its folder. control: pg_ctl and what it has to know."""

    port: int
    home: str
    control: Sequence[str]

    def url(self, name: str, password: str = "open%2Fsesame%407", user: str = _USER) -> str:
        """The URL of a database. password: as it stands in a URL."""
        return f"postgresql://{user}:{password}@127.0.0.1:{self.port}/{name}"

    def database(self) -> str:
        """The name of a new, empty database."""
        name = f"d{uuid.uuid4().hex}"
        self.execute(f"CREATE DATABASE {name}")
        return name

    def execute(self, statement: str, database: str = "postgres") -> None:
        """Runs a statement on its own."""
        engine = create_engine(self.url(database), poolclass=NullPool, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text(statement))

    def stop(self) -> None:
        """Ends it without a word to whoever is connected, as a crash does."""
        _run(self.home, [*self.control, "--mode=immediate", "stop"])

    def start(self) -> None:
        """Starts it again after `stop`; it recovers first."""
        options = f"-h 127.0.0.1 -p {self.port} -k {self.home} {_QUICK}"
        log = ["--log", f"{self.home}/log", "--options", options]
        _run(self.home, [*self.control, *log, "start"])

    def restart(self) -> None:
        """Ends and starts it."""
        self.stop()
        self.start()


def programs() -> Path | None:
    """The folder of the server's programs, which Debian leaves out of PATH; None without them."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda bin: bin.parent.name)
    if found := shutil.which("initdb"):
        folders.append(Path(found).resolve().parent)
    return next((folder for folder in reversed(folders) if (folder / "pg_ctl").exists()), None)


def free_port() -> int:
    """A port of the loopback interface that nobody uses."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


@contextmanager
def serving(folder: Path) -> Iterator[Postgres]:
    """A server while the context lasts. folder: of its programs."""
    with tempfile.TemporaryDirectory(prefix="postgres-") as home:
        data, password = f"{home}/data", Path(home, "password")
        password.write_text(PASSWORD)
        if os.geteuid() == 0:
            for path in (home, password):
                shutil.chown(path, _USER, _USER)
        access = ["--username", _USER, "--auth=scram-sha-256", "--pwfile", str(password)]
        _run(home, [str(folder / "initdb"), "--no-sync", "--locale=C.UTF-8", *access, data])
        control = [str(folder / "pg_ctl"), "--pgdata", data, "--wait"]
        server = Postgres(free_port(), home, control)
        server.start()
        try:
            yield server
        finally:
            server.stop()


def _run(home: str, command: Sequence[str]) -> None:
    """Runs a program in `home`, as the user postgres where root may not."""
    user = _USER if os.geteuid() == 0 else None
    # to a file: the server inherits the output, and a pipe would stay open as long as it runs
    with Path(home, "said").open("w+") as said:
        done = subprocess.run(
            command,
            cwd=home,
            user=user,
            group=user,
            extra_groups=[] if user else None,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
        )
        said.seek(0)
        assert done.returncode == 0, said.read()
