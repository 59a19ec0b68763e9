"""Databases named by a URL: their errors in one line."""

from __future__ import annotations

from study.tracking_uri import scrubbed

PATIENCE = 5
"""Seconds that a server may take to answer before a study starts."""

CONNECTION = {
    "connect_timeout": PATIENCE,
    "keepalives_idle": PATIENCE,
    "keepalives_interval": 2,
    "keepalives_count": 2,
    "tcp_user_timeout": 1000 * PATIENCE,
}
"""Arguments of a connection to PostgreSQL: a host that has vanished is noticed within seconds."""

_LENGTH = 300


def reason(error: BaseException, url: str) -> str:
    """What is behind an error, as its server or driver says it: one line, without the secrets of
    `url`."""
    return scrubbed(root(error), url)[:_LENGTH]


def root(error: BaseException) -> str:
    """The text of the first cause of an error in one line: libraries wrap it in pages of SQL."""
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split()) or type(error).__name__
