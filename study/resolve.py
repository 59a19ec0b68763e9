"""From what a study's YAML file says to the spec that will run."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from study import yamlfile
from study.records import Value
from study.space import grid, span_problem
from study.spec import (
    EPOCH_PRUNERS,
    METHOD_KEYS,
    SEARCH_KEYS,
    Arm,
    Confirm,
    Count,
    Method,
    Name,
    Part,
    Resources,
    Seed,
    Span,
    Spec,
    Tune,
    Verdict,
    Workload,
    not_in,
)
from study.yamlfile import Document, Place, SpecError
from trainables import catalog

P = TypeVar("P", bound=Part)

_SUGGESTED = Span()
"""Stands for the range of the catalog until the arm's methods are known."""


class _Choices(Part):
    """Words that the search chooses from."""

    choices: Annotated[list[str], Field(min_length=1)]


def _one_or_choices(value: Any) -> Any:
    if isinstance(value, str):
        return {"choices": [value]}
    if not isinstance(value, dict):
        text = f"must be a word, or choices: [WORD, ...] for the search, not {value!r}"
        raise PydanticCustomError("choice", "{text}", {"text": text})
    return value


class _ArmEntry(Part):
    """An arm as the file says it; options of its variants stand beside these keys."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)
    extra_keys = True

    variant: Annotated[_Choices, BeforeValidator(_one_or_choices)]
    perturb: Annotated[_Choices, BeforeValidator(_one_or_choices)] | None = None
    search: dict[str, Any] = Field(default={})
    trials: Count | None = None
    seed_offset: Seed = 0


class _Cross(Part):
    variant: Annotated[list[str], Field(min_length=1)]
    perturb: Annotated[list[str], Field(min_length=1)]


class _File(Part):
    study: Name
    question: str = ""
    workload: Workload
    arms: dict[Name, dict[str, Any]] = Field(default={})
    cross: _Cross | None = None
    search: dict[str, Any] = Field(default={})
    tune: Tune
    confirm: Confirm
    verdict: Verdict
    resources: Resources = Resources()


def load(path: Path, assignments: Iterable[str] = ()) -> Spec:
    """The resolved spec of the YAML file `path` with each of --set applied.

    Raises SpecError, one line: file, line, what is wrong, what is allowed, the nearest valid word.
    """
    return resolve(yamlfile.override(yamlfile.read(path), assignments))


def resolve(document: Document) -> Spec:
    """The spec that a document means. Raises SpecError at the place that is wrong."""
    return _Resolver(document).spec()


class _Resolver:
    """Checks what holds between keys, and fills in what the file leaves open."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.file = self.part(_File, document.data, ())

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

    def spec(self) -> Spec:
        file, entries = self.file, self.entries()
        self.check_search(entry for entry, _ in entries.values())
        arms = {name: self.arm(entry, place) for name, (entry, place) in entries.items()}
        workload = self.workload()
        self.budget(arms)
        self.pruner()
        self.verdict(arms)
        return Spec(
            study=file.study,
            question=file.question,
            workload=workload,
            arms=self.budgets(arms),
            tune=file.tune,
            confirm=file.confirm,
            verdict=file.verdict,
            resources=file.resources,
        )

    def workload(self) -> Workload:
        workload = self.file.workload
        data, facts = workload.data, catalog.data_set(workload.data.name)
        if data.augment and data.augment not in facts.augment:
            text = not_in(f"augmentation for {data.name}", data.augment, facts.augment)
            raise self.fail(text, "workload", "data", "augment")
        if facts.needs_root and not data.root:
            text = f"{data.name} reads {facts.title}: give its path, --set workload.data.root=PATH"
            raise self.fail(text, "workload", "data", "root")
        for key in ("root", "image_size"):
            if key in data.model_fields_set and key not in facts.takes:
                text = f"{data.name} takes no {key}; leave it out"
                raise self.fail(text, "workload", "data", key)
        wanted = (data.train_size or 1) + data.validation_size
        images = self.images()
        if facts.pool is not None and wanted > facts.pool:
            text = (
                f"train_size and validation_size ask for {wanted} images; {data.name} has "
                f"{facts.pool} that are not test images"
            )
            raise self.fail(text, "workload", "data", "validation_size")
        if images is not None and workload.batch_size > images:
            text = f"{workload.batch_size} is more than the {images} training images"
            raise self.fail(text, "workload", "batch_size")
        model = workload.model
        allowed = catalog.model_options(model.name)
        if allowed is not None and "width" in model.model_fields_set and "width" not in allowed:
            text = f"{model.name} takes no width; leave it out"
            raise self.fail(text, "workload", "model", "width")
        if allowed is not None and "width" in allowed and model.width is None:
            model = model.model_copy(update={"width": 16})
        augment = data.augment or facts.augment[0]
        return workload.model_copy(
            update={"data": data.model_copy(update={"augment": augment}), "model": model}
        )

    def images(self) -> int | None:
        """Training images of a trial, None where only the data set itself tells."""
        data = self.file.workload.data
        pool = catalog.data_set(data.name).pool
        if data.train_size is not None or pool is None:
            return data.train_size
        return pool - data.validation_size

    def entries(self) -> dict[str, tuple[_ArmEntry, Place]]:
        """Arms as given, then the product of `cross`, each with its place in the file."""
        file = self.file
        given: dict[str, tuple[_ArmEntry, Place]] = {
            name: (self.part(_ArmEntry, data, ("arms", name)), ("arms", name))
            for name, data in file.arms.items()
        }
        if file.cross is not None:
            for variant, perturb in itertools.product(file.cross.variant, file.cross.perturb):
                name = f"{variant}_{perturb}"
                if name in given:
                    raise self.fail(f"makes the arm '{name}' a second time", "cross")
                if variant == "none":
                    text = "variant none perturbs nothing; name it under arms"
                    raise self.fail(text, "cross", "variant")
                if variant not in catalog.VARIANTS:
                    text = not_in("variant", variant, catalog.VARIANTS)
                    raise self.fail(text, "cross", "variant", file.cross.variant.index(variant))
                if perturb not in catalog.SUBSETS:
                    text = not_in("subset", perturb, catalog.SUBSETS)
                    raise self.fail(text, "cross", "perturb", file.cross.perturb.index(perturb))
                entry = {"variant": variant, "perturb": perturb}
                given[name] = (_ArmEntry.model_validate(entry), ("cross",))
        if len(given) < 2:
            raise self.fail("at least two arms are needed to compare them", "arms")
        return given

    def arm(self, entry: _ArmEntry, place: Place) -> Arm:
        variants, perturbs = self.words(entry, place)
        options = self.options(entry, variants, place)
        methods = [
            Method(variant=variant, perturb=perturb, options=options[variant])
            for variant in variants
            for perturb in perturbs
        ]
        search = self.search(entry, methods, place)
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

    def words(self, entry: _ArmEntry, place: Place) -> tuple[list[str], list[str]]:
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
        self.known("subset", perturbs, catalog.SUBSETS, (*place, "perturb"))
        return variants, perturbs

    def known(
        self, what: str, words: Sequence[str], allowed: Collection[str], place: Place
    ) -> None:
        for word in words:
            if word not in allowed:
                raise self.document.error(place, not_in(what, word, allowed))
        if len(set(words)) < len(words):
            raise self.document.error(place, "choices must name each word once")

    def options(
        self, entry: _ArmEntry, variants: Sequence[str], place: Place
    ) -> dict[str, dict[str, Value]]:
        """All options of each variant: as given, or by default. A given one holds for every
        variant that has it."""
        known = {name: catalog.VARIANTS[name].options for name in variants}
        resolved: dict[str, dict[str, Value]] = {
            name: {key: option.default for key, option in options.items()}
            for name, options in known.items()
        }
        for key, value in (entry.model_extra or {}).items():
            having = [name for name in variants if key in known[name]]
            if not having:
                allowed = [
                    *_ArmEntry.model_fields,
                    *dict.fromkeys(k for o in known.values() for k in o),
                ]
                text = f"{not_in('key', key, allowed)} (variant {', '.join(variants)})"
                raise self.document.error((*place, key), text)
            for name in having:
                if problem := known[name][key].problem(value):
                    raise self.document.error((*place, key), problem)
                # 0 and 0.0 are one value and must make one hash.
                default = resolved[name][key]
                resolved[name][key] = float(value) if isinstance(default, float) else value
        return resolved

    def check_search(self, entries: Iterable[_ArmEntry]) -> None:
        """Refuses a key under the study's `search` that no arm can take."""
        options = {
            key
            for entry in entries
            for name in entry.variant.choices
            if name in catalog.VARIANTS
            for key in catalog.VARIANTS[name].options
        }
        allowed = [*SEARCH_KEYS, *sorted(options)]
        for key in self.file.search:
            if key not in allowed:
                raise self.fail(not_in("search key", key, allowed), "search", key)

    def search(self, entry: _ArmEntry, methods: Sequence[Method], place: Place) -> dict[str, Span]:
        """The arm's search space: the study's, where it applies, under the arm's own; first what
        chooses the method, then rho."""
        variants = list(dict.fromkeys(method.variant for method in methods))
        perturbs = list(dict.fromkeys(method.perturb for method in methods))
        options = dict.fromkeys(key for method in methods for key in method.options)
        has_rho = catalog.VARIANTS[variants[0]].geometry is not None
        allowed = [*SEARCH_KEYS, *options]
        given: dict[str, tuple[Any, Place]] = {}
        for key, value in self.file.search.items():
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
            if self.file.tune.sampler == "grid":
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
            if problem := span_problem(key, span, option, self.file.tune.sampler):
                raise self.document.error(place, problem)
        return span

    def budgets(self, arms: dict[str, Arm]) -> dict[str, Arm]:
        """Arms with their number of search trials."""
        tune = self.file.tune
        if tune.sampler != "grid":
            if tune.trials_per_arm is None:
                raise self.fail("trials_per_arm is missing; give the budget of an arm", "tune")
            budget = tune.trials_per_arm
            return {n: a.model_copy(update={"trials": a.trials or budget}) for n, a in arms.items()}
        sizes = {name: len(grid(arm)) for name, arm in arms.items()}
        for name, arm in arms.items():
            asked, place = arm.trials, ("arms", name, "trials")
            if not asked and tune.trials_per_arm is not None:
                asked, place = tune.trials_per_arm, ("tune", "trials_per_arm", "")
            if arm.search and asked and asked != sizes[name]:
                text = f"the grid of arm {name} has {sizes[name]} points, not {asked}; leave it out"
                raise self.fail(text, *(key for key in place if key))
        widest = max(sizes.values())
        return {
            name: arm.model_copy(
                update={"trials": sizes[name] if arm.search else arm.trials or widest}
            )
            for name, arm in arms.items()
        }

    def budget(self, arms: Mapping[str, Arm]) -> None:
        """Checks what a budget or a search of batch sizes asks of the arms and the data."""
        if (budget := self.file.workload.budget) is not None:
            if budget.of not in arms:
                raise self.fail(not_in("arm", budget.of, arms), "workload", "budget", "of")
            searched = [name for name, arm in arms.items() if "batch_size" in arm.search]
            if budget.match == "gradient_evaluations" and searched:
                text = (
                    f"gradient evaluations count batches, and the search of {searched[0]} changes "
                    "batch_size; match epochs, or leave batch_size out of the search"
                )
                raise self.fail(text, "workload", "budget", "match")
            if len({method.cost for method in arms[budget.of].methods}) > 1:
                text = f"the methods of {budget.of} differ in cost; name an arm with one method"
                raise self.fail(text, "workload", "budget", "of")
        images = self.images()
        for name, arm in arms.items():
            span = arm.search.get("batch_size")
            if span is None or images is None:
                continue
            largest = max(span.choices) if span.choices else span.high
            if float(largest or 0) > images:
                own = name in self.file.arms and "batch_size" in self.file.arms[name].get(
                    "search", {}
                )
                place = ("arms", name, "search") if own else ("search",)
                text = f"{largest:g} is more than the {images} training images"
                raise self.fail(text, *place, "batch_size")

    def pruner(self) -> None:
        tune = self.file.tune
        if tune.pruner in EPOCH_PRUNERS and tune.search_seeds > 1:
            text = (
                f"{tune.pruner} judges single epochs; with search_seeds {tune.search_seeds} give "
                "wilcoxon, which judges seeds, or none"
            )
            raise self.fail(text, "tune", "pruner")
        if tune.pruner == "wilcoxon" and tune.search_seeds < 2:
            text = "wilcoxon compares configurations seed by seed; give search_seeds, 3 or more"
            raise self.fail(text, "tune", "pruner")

    def verdict(self, arms: Collection[str]) -> None:
        verdict = self.file.verdict
        if verdict.baseline not in arms:
            text = not_in("arm", verdict.baseline, arms)
            raise self.fail(text, "verdict", "baseline")
        seen = [{arm, verdict.baseline} for arm in arms if arm != verdict.baseline]
        for i, pair in enumerate(verdict.also):
            for arm in pair:
                if arm not in arms:
                    raise self.fail(not_in("arm", arm, arms), "verdict", "also", i)
            if len(set(pair)) < 2 or set(pair) in seen:
                text = f"{pair[0]} against {pair[1]} is planned already, or an arm with itself"
                raise self.fail(text, "verdict", "also", i)
            seen.append(set(pair))


def _suggested(method: Method) -> Span:
    kind = catalog.SUBSETS[method.perturb]
    suggested = catalog.VARIANTS[method.variant].rho[kind]
    return Span(
        low=suggested.low,
        high=suggested.high,
        log=suggested.log,
        borrowed=kind == "sparse" and method.perturb != "norm",
    )


_MESSAGES: Mapping[str, str] = {
    "missing": "is missing",
    "int_type": "must be a whole number, not {input!r}",
    "int_from_float": "must be a whole number, not {input!r}",
    "float_type": "must be a number, not {input!r}",
    "finite_number": "must be a finite number",
    "string_type": "must be text, not {input!r}",
    "bool_type": "must be true or false, not {input!r}",
    "list_type": "must be a list, not {input!r}",
    "dict_type": "must be a mapping, not {input!r}",
    "greater_than": "must be above {gt:g}, not {input!r}",
    "greater_than_equal": "must be at least {ge:g}, not {input!r}",
    "less_than": "must be below {lt:g}, not {input!r}",
    "less_than_equal": "must be at most {le:g}, not {input!r}",
    "too_short": "needs at least {min_length} entries, not {actual_length}",
    "too_long": "takes at most {max_length} entries, not {actual_length}",
    "string_pattern_mismatch": (
        "must be a name of letters, digits, '_' and '-' (at most 64, no path), not {input!r}"
    ),
}


def _message(error: ErrorDetails) -> str:
    template = _MESSAGES.get(error["type"])
    if template is None:
        return error["msg"]
    return template.format(input=error["input"], **error.get("ctx", {}))
