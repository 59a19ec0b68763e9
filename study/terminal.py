"""Where commands write: a terminal, a file or a pipe, whatever letters it can take."""

from __future__ import annotations

import codecs
import os
import sys

from rich.console import Console

_WORDS = {"±": "+-", "×": "x", "…": "...", "–": "-", "—": "-", "−": "-", "→": "->", "≥": ">="}
_PLAIN = "study.plain"


class Output(Console):
    """Prints text as it is, without markup. A reader that goes away, such as `head`, ends nothing:
    what a study prints is not its result."""

    def __init__(self) -> None:
        super().__init__(highlight=False, markup=False)

    def on_broken_pipe(self) -> None:
        """From now on nothing is printed."""
        self.quiet = True
        discard()


def prepare() -> None:
    """Makes standard output and error say in other words what their encoding has no letter for."""
    codecs.register_error(_PLAIN, _in_other_words)
    for stream in (sys.stdout, sys.stderr):
        if reconfigure := getattr(stream, "reconfigure", None):  # None where it was closed
            reconfigure(errors=_PLAIN)


def discard() -> None:
    """Whatever is still written to standard output goes nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def _in_other_words(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    return "".join(_WORDS.get(letter, "?") for letter in text), error.end
