"""The strict mapping that every part of a study is, and the types its values have."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from study.records import Value
from trainables import catalog

NAME = r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}"


def one_of(what: str, allowed: Collection[str]) -> AfterValidator:
    """A validator that refuses other words, naming the allowed ones and the nearest."""

    def check(word: str) -> str:
        if word not in allowed:
            raise PydanticCustomError("choice", "{text}", {"text": not_in(what, word, allowed)})
        return word

    return AfterValidator(check)


def not_in(what: str, word: object, allowed: Collection[str]) -> str:
    """What to tell of a word that is none of those allowed."""
    told = f"unknown {what} {catalog.shown(word)}; allowed: {', '.join(allowed)}"
    return told + catalog.nearest(word, allowed)


def _scalar(value: object) -> object:
    if not isinstance(value, (bool, int, float, str)):
        text = f"must be a number, a word, true or false, not {catalog.shown(value)}"
        raise PydanticCustomError("scalar", "{text}", {"text": text})
    return value


Name = Annotated[str, Field(pattern=f"^{NAME}$")]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Share = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(ge=1, le=10**9)]
Trials = Annotated[int, Field(ge=1, le=100_000)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Scalar = Annotated[Value, BeforeValidator(_scalar)]


class Part(BaseModel):
    """A mapping of the file with known keys only."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    extra_keys: ClassVar[bool] = False

    @model_validator(mode="before")
    @classmethod
    def _keys(cls, data: Any) -> Any:
        if isinstance(data, BaseModel):
            return data
        allowed = list(cls.model_fields)
        if not isinstance(data, dict):
            text = f"must be a mapping with the keys {', '.join(allowed)}"
            raise PydanticCustomError("mapping", "{text}", {"text": text})
        for key in data:
            if key not in allowed and not cls.extra_keys:
                text = not_in("key", key, allowed)
                raise PydanticCustomError("key", "{text}", {"text": text, "key": key})
        return data
