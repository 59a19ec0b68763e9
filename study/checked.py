"""A document of plain values, read part by part into strict types."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from study.part import Part
from study.yamlfile import Document, Place, SpecError
from trainables.catalog import shown

P = TypeVar("P", bound=Part)


class Checked:
    """Reads parts of a document; what is wrong is told with its place in the file."""

    def __init__(self, document: Document) -> None:
        self.document = document

    def part(self, kind: type[P], data: Any, place: Place) -> P:
        """`data` as `kind`, or a SpecError at its first wrong value."""
        try:
            return kind.model_validate(data)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            inner = tuple(key for key in first["loc"] if key != "[key]")
            key = first.get("ctx", {}).get("key")
            inner = (*inner, key) if key is not None else inner
            raise self.document.error((*place, *inner), _message(first)) from None

    def fail(self, message: str, *place: str | int) -> SpecError:
        return self.document.error(place, message)

    def search_place(self, arm: str, key: str) -> Place:
        """Where an arm's range of the hyperparameter `key` stands: in the arm, or for all arms."""
        own: Any = self.document.data.get("arms", {}).get(arm, {})
        return ("arms", arm, "search", key) if key in own.get("search", {}) else ("search", key)


_MESSAGES: Mapping[str, str] = {
    "missing": "is missing",
    "int_type": "must be a whole number, not {input}",
    "int_from_float": "must be a whole number, not {input}",
    "float_type": "must be a number, not {input}",
    "finite_number": "must be a finite number",
    "string_type": "must be text, not {input}",
    "bool_type": "must be true or false, not {input}",
    "list_type": "must be a list, not {input}",
    "dict_type": "must be a mapping, not {input}",
    "greater_than": "must be above {gt:g}, not {input}",
    "greater_than_equal": "must be at least {ge:g}, not {input}",
    "less_than": "must be below {lt:g}, not {input}",
    "less_than_equal": "must be at most {le:g}, not {input}",
    "too_short": "needs at least {min_length} entries, not {actual_length}",
    "too_long": "takes at most {max_length} entries, not {actual_length}",
    "string_pattern_mismatch": (
        "must be a name of letters, digits, '_' and '-' (at most 64, no path), not {input}"
    ),
}


def _message(error: ErrorDetails) -> str:
    template = _MESSAGES.get(error["type"])
    if template is None:
        return error["msg"]
    return template.format(input=shown(error["input"]), **error.get("ctx", {}))
