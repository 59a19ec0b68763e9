"""The arms of a study's file: which methods, which options, and what each searches where."""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from study.checked import Checked
from study.part import NAME, Part, Seed, Trials, not_in
from study.records import Value
from study.space import span_problem
from study.spec import METHOD_KEYS, SEARCH_KEYS, Arm, Method, Span
from study.yamlfile import Document, Place
from trainables import catalog

_SUGGESTED = Span()
"""Stands for the range of the catalog until the arm's methods are known."""


def _refused(text: str) -> PydanticCustomError:
    return PydanticCustomError("choice", "{text}", {"text": text})


def _subset(value: Any) -> str:
    """The one string that names the subset given as a word or as a list of words."""
    try:
        return catalog.subsets.canonical(value)
    except ValueError as error:
        raise _refused(str(error)) from None


Subset = Annotated[str, BeforeValidator(_subset)]


class _Choices(Part):
    """Variants that the search chooses from."""

    choices: Annotated[list[str], Field(min_length=1)]


class _Subsets(Part):
    """Subsets that the search chooses from."""

    choices: Annotated[list[Subset], Field(min_length=1)]


def _one_or_choices(value: Any) -> Any:
    if isinstance(value, str):
        return {"choices": [value]}
    if not isinstance(value, dict):
        text = f"must be a word, or choices: [WORD, ...] for the search, not {catalog.shown(value)}"
        raise _refused(text)
    return value


def _union_or_choices(value: Any) -> Any:
    if isinstance(value, (str, list)):
        return {"choices": [_subset(value)]}
    if not isinstance(value, dict):
        text = (
            "must be a word, a list of words (their union), or choices: [SUBSET, ...] for the "
            f"search, not {catalog.shown(value)}"
        )
        raise _refused(text)
    return value


class Entry(Part):
    """An arm as the file says it; options of its variants stand beside these keys."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)
    extra_keys = True

    variant: Annotated[_Choices, BeforeValidator(_one_or_choices)]
    perturb: Annotated[_Subsets, BeforeValidator(_union_or_choices)] | None = None
    search: dict[str, Any] = Field(default={})
    trials: Trials | None = None
    seed_offset: Seed = 0


class Cross(Part):
    """Variants and subsets whose product is added as arms."""

    variant: Annotated[list[str], Field(min_length=1)]
    perturb: Annotated[list[Subset], Field(min_length=1)]


class Arms(Checked):
    """Reads the arms of a file. search: that of the whole study; sampler: of its `tune`."""

    def __init__(
        self,
        document: Document,
        given: Mapping[str, Mapping[str, Any]],
        cross: Cross | None,
        search: Mapping[str, Any],
        sampler: str,
    ) -> None:
        super().__init__(document)
        self.given = given
        self.cross = cross
        self.shared = search
        self.sampler = sampler

    def arms(self) -> dict[str, Arm]:
        """Every arm by name, but for its number of trials where it has none of its own: 0 there."""
        entries = self.entries()
        self.check_search(entry for entry, _ in entries.values())
        return {name: self.arm(entry, place) for name, (entry, place) in entries.items()}

    def entries(self) -> dict[str, tuple[Entry, Place]]:
        """Arms as given, then the product of `cross`, each with its place in the file."""
        given: dict[str, tuple[Entry, Place]] = {
            name: (self.part(Entry, data, ("arms", name)), ("arms", name))
            for name, data in self.given.items()
        }
        if self.cross is not None:
            for variant, perturb in itertools.product(self.cross.variant, self.cross.perturb):
                name = f"{variant}_{catalog.subsets.slug(perturb)}"
                if name in given:
                    raise self.fail(f"makes the arm '{name}' a second time", "cross")
                if variant == "none":
                    text = "variant none perturbs nothing; name it under arms"
                    raise self.fail(text, "cross", "variant")
                if variant not in catalog.VARIANTS:
                    text = not_in("variant", variant, catalog.VARIANTS)
                    raise self.fail(text, "cross", "variant", self.cross.variant.index(variant))
                if re.fullmatch(NAME, name) is None:
                    text = f"makes an arm name above 64 characters of '{perturb}'; name it yourself"
                    raise self.fail(f"{text} under arms", "cross")
                entry = {"variant": variant, "perturb": perturb}
                given[name] = (Entry.model_validate(entry), ("cross",))
        if len(given) < 2:
            raise self.fail("at least two arms are needed to compare them", "arms")
        return given

    def arm(self, entry: Entry, place: Place) -> Arm:
        variants, perturbs = self.words(entry, place)
        options = self.options(entry, variants, place)
        methods = [
            Method(variant=variant, perturb=perturb, options=options[variant])
            for variant in variants
            for perturb in perturbs
        ]
        search = self.search(entry, methods, place)
        self.check_together(methods, search, place)
        if search.get("rho") is _SUGGESTED:
            self.check_suggested(methods, search, place)
        if len(methods) > 1 and search["rho"] is _SUGGESTED:
            methods = [method.model_copy(update={"rho": _suggested(method)}) for method in methods]
            search["rho"] = Span(low=0.0, high=1.0)
        elif search.get("rho") is _SUGGESTED:
            search["rho"] = _suggested(methods[0])
        return Arm(
            methods=methods,
            search=search,
            trials=entry.trials or 0,
            seed_offset=entry.seed_offset,
        )

    def check_together(
        self, methods: Sequence[Method], search: Mapping[str, Span], place: Place
    ) -> None:
        """Refuses options that exclude each other, also where the search may choose them."""
        for method in methods:
            keys = [k for k in catalog.CLASHING if k in search and method.takes(k)]
            for values in itertools.product(*(search[key].choices or () for key in keys)):
                options = {**method.options, **dict(zip(keys, values, strict=True))}
                if why := catalog.clash(options):
                    raise self.document.error(place, f"{method.variant}: {why}")

    def check_suggested(
        self, methods: Sequence[Method], search: Mapping[str, Span], place: Place
    ) -> None:
        """Refuses `rho: suggested` where no range is established."""
        if searched := [key for key in ("geometry", "ascent", "density") if key in search]:
            text = f"rho has no suggested range where {searched[0]} is searched; give low and high"
            raise self.document.error(place, text)
        for method in methods:
            kind = catalog.subsets.kind(method.perturb)
            if catalog.suggested(method.variant, method.options, kind) is None:
                text = (
                    f"no range of rho is established for {method.title}; give it its own: "
                    "search: {rho: {low: ..., high: ..., log: true}}"
                )
                raise self.document.error(place, text)

    def words(self, entry: Entry, place: Place) -> tuple[list[str], list[str]]:
        """The variants and subsets of an arm, each in the order of the file."""
        variants = entry.variant.choices
        self.known("variant", variants, catalog.VARIANTS, (*place, "variant"))
        if variants == ["none"]:
            if entry.perturb is not None:
                text = "variant none perturbs nothing; leave perturb out"
                raise self.document.error((*place, "perturb"), text)
            return variants, ["none"]
        if "none" in variants:
            text = "variant none perturbs nothing, so nothing of it is to choose; give it its arm"
            raise self.document.error((*place, "variant"), text)
        perturbs = ["all"] if entry.perturb is None else entry.perturb.choices
        self.once(perturbs, (*place, "perturb"))
        own = [name for name in variants if catalog.VARIANTS[name].perturb_all]
        if own and perturbs != ["all"]:
            text = f"{own[0]} chooses itself what to perturb; leave perturb out, and give density"
            raise self.document.error((*place, "perturb") if place[0] == "arms" else place, text)
        return variants, perturbs

    def known(
        self, what: str, words: Sequence[str], allowed: Collection[str], place: Place
    ) -> None:
        for word in words:
            if word not in allowed:
                raise self.document.error(place, not_in(what, word, allowed))
        self.once(words, place)

    def once(self, words: Sequence[str], place: Place) -> None:
        if len(set(words)) < len(words):
            raise self.document.error(place, "choices must name each word once")

    def options(
        self, entry: Entry, variants: Sequence[str], place: Place
    ) -> dict[str, dict[str, Value]]:
        """All options of each variant: as given, or by default. A given one holds for every
        variant that has it."""
        known = {name: catalog.VARIANTS[name].options for name in variants}
        resolved: dict[str, dict[str, Value]] = {
            # What is not set by default, as m, is not among them.
            name: {k: option.default for k, option in options.items() if option.default is not None}
            for name, options in known.items()
        }
        for key, value in (entry.model_extra or {}).items():
            having = [name for name in variants if key in known[name]]
            if not having:
                allowed = [
                    *Entry.model_fields,
                    *dict.fromkeys(k for o in known.values() for k in o),
                ]
                text = f"{not_in('key', key, allowed)} (variant {', '.join(variants)})"
                raise self.document.error((*place, key), text)
            for name in having:
                if problem := known[name][key].problem(value):
                    raise self.document.error((*place, key), problem)
                # 0 and 0.0 are one value and must make one hash.
                number = isinstance(value, (int, float)) and not isinstance(value, bool)
                whole = known[name][key].whole
                resolved[name][key] = (int(value) if whole else float(value)) if number else value
        return resolved

    def check_search(self, entries: Iterable[Entry]) -> None:
        """Refuses a key under the study's `search` that no arm can take."""
        options = {
            key
            for entry in entries
            for name in entry.variant.choices
            if name in catalog.VARIANTS
            for key in catalog.VARIANTS[name].options
        }
        allowed = [*SEARCH_KEYS, *sorted(options)]
        for key in self.shared:
            if key not in allowed:
                raise self.fail(not_in("search key", key, allowed), "search", key)

    def search(self, entry: Entry, methods: Sequence[Method], place: Place) -> dict[str, Span]:
        """The arm's search space: the study's, where it applies, under the arm's own; first what
        chooses the method, then rho."""
        variants = list(dict.fromkeys(method.variant for method in methods))
        perturbs = list(dict.fromkeys(method.perturb for method in methods))
        options = dict.fromkeys(key for name in variants for key in catalog.VARIANTS[name].options)
        has_rho = catalog.VARIANTS[variants[0]].geometry is not None
        allowed = [*SEARCH_KEYS, *options]
        given: dict[str, tuple[Any, Place]] = {}
        for key, value in self.shared.items():
            if key in allowed and not (key == "rho" and not has_rho):
                given[key] = (value, ("search", key))
        for key, value in entry.search.items():
            where = (*place, "search", key)
            if key not in allowed:
                raise self.document.error(where, not_in("search key", key, allowed))
            if key == "rho" and not has_rho:
                raise self.document.error(where, f"variant {variants[0]} has no rho")
            given[key] = (value, where)
        if has_rho and "rho" not in given:
            text = f"variant {variants[0]} needs a range: rho: suggested, or low and high"
            raise self.document.error((*place, "search"), text)
        spans: dict[str, Span] = {}
        for key, words in zip(METHOD_KEYS, (variants, perturbs), strict=True):
            if len(words) > 1:
                spans[key] = Span(choices=list(words))
        # By name, because the order decides who gets which draws and the hash does not see it.
        for key, (value, where) in sorted(given.items(), key=lambda i: (i[0] != "rho", i[0])):
            spans[key] = self.span(key, value, variants, where)
        return spans

    def span(self, key: str, value: Any, variants: Sequence[str], place: Place) -> Span:
        if value == "suggested":
            if key != "rho":
                raise self.document.error(place, "only rho has suggested ranges; give low and high")
            if self.sampler == "grid":
                text = "a grid needs points: give low, high, log and points, or choices"
                raise self.document.error(place, text)
            return _SUGGESTED
        if not isinstance(value, dict):
            text = "must be 'suggested' (rho only) or a mapping with low and high, or choices"
            raise self.document.error(place, text)
        span = self.part(Span, value, place)
        if "borrowed" in value:
            allowed = [name for name in Span.model_fields if name != "borrowed"]
            raise self.document.error((*place, "borrowed"), not_in("key", "borrowed", allowed))
        for variant in variants:
            option = catalog.VARIANTS[variant].options.get(key)
            if option is None and key not in SEARCH_KEYS:
                continue  # another of the arm's variants has it
            if problem := span_problem(key, span, option, self.sampler):
                raise self.document.error(place, problem)
        return span


def _suggested(method: Method) -> Span:
    kind = catalog.subsets.kind(method.perturb)
    suggested = catalog.suggested(method.variant, method.options, kind)
    assert suggested is not None
    return Span(
        low=suggested.low,
        high=suggested.high,
        log=suggested.log,
        borrowed=catalog.subsets.borrowed(method.perturb)
        or method.options.get("density") == "matched",
    )
