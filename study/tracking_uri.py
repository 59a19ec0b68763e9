"""Where MLflow keeps its runs: tracking URIs, made absolute, checked, and shown without secrets."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

VARIABLE = "MLFLOW_TRACKING_URI"
"""MLflow's own environment variable: the store to use where no flag names one."""

_SQLITE = "sqlite:///"
_DATABASES = ("postgresql", "mysql", "mssql")
_ALLOWED = "allowed: sqlite:///FILE, http(s)://HOST:PORT, postgresql://, mysql://, mssql://"
_DRIVERS = {"postgresql": "'sam-study[server]'"}
_MASK = "***"


def default_uri(cwd: Path) -> str:
    """The tracking store of the folder `cwd`: the SQLite file mlflow.db in it."""
    return f"{_SQLITE}{cwd.absolute() / 'mlflow.db'}"


def absolute_uri(uri: str, cwd: Path) -> str:
    """`uri` with the file of a relative sqlite URI taken from `cwd`; others as they are."""
    path = sqlite_path(uri)
    if path is None or path.is_absolute():
        return uri
    return uri.replace(_SQLITE + str(path), _SQLITE + str(cwd.absolute() / path), 1)


def sqlite_path(uri: str) -> Path | None:
    """The file of a sqlite URI, None for other stores."""
    if not uri.startswith(_SQLITE):
        return None
    return Path(uri.removeprefix(_SQLITE).partition("?")[0])


def check_uri(uri: str) -> str | None:
    """Why `uri` can never work as a tracking store, or None. Imports no mlflow, opens nothing."""
    scheme, colon, _ = uri.partition(":")
    shown = f"tracking URI {masked(uri)!r}"
    if not colon or scheme == "file":
        return f"{shown}: MLflow gave up its store of plain files; write sqlite:///FILE.db instead"
    if scheme == "sqlite":
        return _sqlite_problem(uri, shown)
    if scheme in ("http", "https"):
        return _http_problem(uri, shown)
    if scheme.partition("+")[0] in _DATABASES and "://" in uri:
        return database_problem(uri, shown)
    return f"{shown}: unknown kind of store; {_ALLOWED}"


def database_problem(uri: str, shown: str) -> str | None:
    """Why the database at `uri`, called `shown`, can never be opened, or None; opens nothing."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        make_url(uri).get_dialect().import_dbapi()
    except ImportError as error:
        install = _DRIVERS.get(uri.partition(":")[0], "it")
        return f"{shown}: its database driver is not installed: {error}; pip install {install}"
    except (ArgumentError, ValueError):
        return f"{shown}: not a database URL; write for example postgresql://USER@HOST:PORT/NAME"
    return None


def masked(uri: str) -> str:
    """`uri` without user name, password and query, fit to be shown and written down."""
    scheme, separator, rest = uri.partition("://")
    if scheme == "sqlite" or not separator:
        return uri
    # up to the last @: a password may itself hold /, ? or @
    if "@" in rest:
        rest = f"{_MASK}@{rest.rpartition('@')[2]}"
    place, mark, _ = rest.partition("?")
    return f"{scheme}://{place}{'?' + _MASK if mark else ''}"


def is_masked(uri: str) -> bool:
    """Whether `masked` took something out of `uri`, so that it cannot be opened again."""
    return f"{_MASK}@" in uri or uri.endswith(f"?{_MASK}")


def scrubbed(text: str, uri: str) -> str:
    """`text`, such as an error message, without the secrets of `uri`."""
    shown = masked(uri)
    if shown == uri:
        return text
    rest = uri.partition("://")[2]
    user = rest.rpartition("@")[0]
    name, _, password = user.partition(":")
    if name == user and not uri.startswith("http"):
        user = ""  # the name of a database's user alone is no secret, a token for a server is
    query = rest.rpartition("@")[2].partition("?")[2]
    values = [value for _, value in parse_qsl(query)]
    for secret in (user, password, unquote(password), query, *values):
        if secret:
            text = text.replace(secret, _MASK)
    return text


def _sqlite_problem(uri: str, shown: str) -> str | None:
    path = sqlite_path(uri)
    if path is None or str(path) in (".", ":memory:") or str(path).startswith("file:"):
        return f"{shown}: must name a file: sqlite:///FILE.db, or sqlite:////ABSOLUTE/FILE.db"
    if path.is_dir():
        return f"{shown}: {path} is a folder; write sqlite:///{path / 'mlflow.db'}"
    if path.is_file():
        with path.open("rb") as file:
            start = file.read(16)
        if start and start != b"SQLite format 3\0":
            return f"{shown}: {path} is a file but no SQLite database; name another"
    return None


def _http_problem(uri: str, shown: str) -> str | None:
    try:
        parts = urlsplit(uri)
        _ = parts.port
    except ValueError as error:
        return f"{shown}: {error}"
    if not parts.hostname:
        return f"{shown}: no host; write for example http://127.0.0.1:5000"
    return None
