"""Pages of HTML, each one file without network, and writing files that readers see whole."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from study.plots import style

if TYPE_CHECKING:
    from markupsafe import Markup


def render(template: str, **values: Any) -> str:
    """The page of a template in templates/; text among the values is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("study"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**values)


def figure(svg: str) -> Markup:
    """A plot of ours for a page, in colours that follow the page from light to dark."""
    from markupsafe import Markup

    for name, colour in (
        ("ink", style.INK), ("muted", style.MUTED), ("faint", style.FAINT), ("paper", style.PAPER),
    ):  # fmt: skip
        svg = svg.replace(f": {colour}", f": var(--{name})")
    # matplotlib escapes the text in its SVG: this is markup of our own making.
    return Markup(svg)  # noqa: S704


def write(path: Path, text: str) -> None:
    """Writes the file beside its place, then moves it there: a reader sees the old or the new.

    text: gets a line end where it has none. Raises OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", newline="", dir=path.parent, prefix=f".{path.name}.", delete=False
    ) as file:
        beside = Path(file.name)
        try:
            file.write(text if text.endswith("\n") else text + "\n")
            file.close()
            beside.chmod(0o644)
            beside.replace(path)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise
