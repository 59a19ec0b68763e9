"""From what a study's YAML file says to the spec that will run."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from study import yamlfile
from study.arms import Arms, Cross
from study.batching import Batching
from study.checked import Checked
from study.optimization import Optimization
from study.part import Name, Part, Positive, not_in
from study.space import MAX_GRID, grid, grid_size
from study.spec import (
    CHECKPOINT,
    EPOCH_PRUNERS,
    RETRIES,
    STUCK_AFTER,
    Arm,
    Checkpoint,
    Confirm,
    Reference,
    Resources,
    Retries,
    Settings,
    Spec,
    Tune,
    Verdict,
)
from study.workload import Model, Workload
from study.yamlfile import Document
from trainables import catalog


class _File(Part):
    study: Name
    question: str = ""
    workload: Workload
    arms: dict[Name, dict[str, Any]] = Field(default={})
    cross: Cross | None = None
    search: dict[str, Any] = Field(default={})
    tune: Tune
    confirm: Confirm
    verdict: Verdict
    resources: Resources = Resources()
    engine: Settings = Settings()
    checkpoint: Checkpoint = CHECKPOINT
    retries: Retries = RETRIES
    stuck_after: Positive = STUCK_AFTER
    reference: Reference | None = None


def load(path: Path, assignments: Iterable[str] = ()) -> Spec:
    """The resolved spec of the YAML file `path` with each of --set applied.

    Raises SpecError, one line: file, line, what is wrong, what is allowed, the nearest valid word.
    """
    return resolve(yamlfile.override(yamlfile.read(path), assignments))


def resolve(document: Document) -> Spec:
    """The spec that a document means. Raises SpecError at the place that is wrong."""
    return _Resolver(document).spec()


class _Resolver(Checked):
    """Checks what holds between keys, and fills in what the file leaves open."""

    def __init__(self, document: Document) -> None:
        super().__init__(document)
        self.file = self.part(_File, document.data, ())

    def spec(self) -> Spec:
        file = self.file
        arms = Arms(self.document, file.arms, file.cross, file.search, file.tune.sampler).arms()
        optimization = Optimization(self.document, file.workload, file.resources)
        workload = self.workload().model_copy(update=optimization.resolved())
        optimization.check_search(arms)
        optimization.check_methods(arms)
        Batching(self.document, file.engine, file.workload, file.resources, file.tune).check(arms)
        self.check_budget(arms)
        self.check_pruner()
        self.check_verdict(arms)
        self.check_reference(arms)
        return Spec(
            study=file.study,
            question=file.question,
            workload=workload,
            arms=self.budgets(arms),
            tune=file.tune,
            confirm=file.confirm,
            verdict=file.verdict,
            resources=file.resources,
            engine=self.settings(),
            checkpoint=file.checkpoint,
            retries=file.retries,
            stuck_after=file.stuck_after,
            reference=file.reference,
        )

    def workload(self) -> Workload:
        workload = self.file.workload
        data, facts = workload.data, catalog.data_set(workload.data.name)
        fits = catalog.augmentations.fits
        if data.augment and not fits(data.augment, facts.augment, facts.extras):
            text = not_in(f"augmentation for {data.name}", data.augment, facts.augment)
            more = ", ".join(f"+{word}" for word in facts.extras)
            text += f"; any of them followed by some of {more} in this order, one policy at most"
            raise self.fail(text, "workload", "data", "augment")
        if facts.needs_root and not data.root:
            text = f"{data.name} reads {facts.title}: give its path, --set workload.data.root=PATH"
            raise self.fail(text, "workload", "data", "root")
        for key in ("root", "image_size", "stream"):
            if key in data.model_fields_set and key not in facts.takes:
                text = f"{data.name} takes no {key}; leave it out"
                raise self.fail(text, "workload", "data", key)
        if data.augment.startswith("resized_crop_flip") and not data.stream:
            text = "resized_crop_flip cuts out of image files as they are decoded: it needs "
            text += "stream: true"
            raise self.fail(text, "workload", "data", "augment")
        if data.stream and self.file.resources.workers > 1:
            text = "each of the GPUs of one trial would decode every image; with stream give gpu: 1"
            raise self.fail(text, "resources", "gpu")
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
        augment = data.augment or facts.augment[0]
        return workload.model_copy(
            update={"data": data.model_copy(update={"augment": augment}), "model": self.model()}
        )

    def model(self) -> Model:
        """The model with the defaults of the options that the file leaves open."""
        model = self.file.workload.model
        options = catalog.model_options(model.name)
        if options is None:
            return model
        given = model.model_dump(exclude={"name"}, exclude_unset=True)
        if wrong := catalog.wrong_option(model.name, given):
            key, text = wrong
            raise self.fail(text, "workload", "model", key)
        update = {key: value for key, value in options.items() if getattr(model, key) is None}
        return model.model_copy(update=update)

    def settings(self) -> Settings:
        """The engine settings with what the file leaves open."""
        settings, workload = self.file.engine, self.file.workload
        size = catalog.data_set(workload.data.name).size or workload.data.image_size
        found = {
            "channels_last": catalog.channels_last(workload.model.name),
            "eval_batch": catalog.eval_batch(size, self.file.resources.gpu > 0),
        }
        open_ = {key: value for key, value in found.items() if getattr(settings, key) is None}
        return settings.model_copy(update=open_)

    def images(self) -> int | None:
        """Training images of a trial, None where only the data set itself tells."""
        data = self.file.workload.data
        pool = catalog.data_set(data.name).pool
        if data.train_size is not None or pool is None:
            return data.train_size
        return pool - data.validation_size

    def budgets(self, arms: dict[str, Arm]) -> dict[str, Arm]:
        """Arms with their number of search trials."""
        tune = self.file.tune
        if tune.sampler != "grid":
            if tune.trials_per_arm is None:
                raise self.fail("trials_per_arm is missing; give the budget of an arm", "tune")
            budget = tune.trials_per_arm
            return {n: a.model_copy(update={"trials": a.trials or budget}) for n, a in arms.items()}
        for name, arm in arms.items():
            if (most := grid_size(arm)) > MAX_GRID:
                text = f"the grid of arm {name} has {most:,} points; at most {MAX_GRID:,} are run"
                raise self.fail(text, *self.search_place(name, next(iter(arm.search)))[:-1])
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

    def check_budget(self, arms: Mapping[str, Arm]) -> None:
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
            for name, arm in arms.items():
                for method in arm.methods:
                    steady = catalog.steady(method.variant, method.options)
                    if budget.match == "gradient_evaluations" and not steady:
                        text = f"{name} costs more in some steps than in others; match epochs"
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
                text = f"{largest:g} is more than the {images} training images"
                raise self.fail(text, *self.search_place(name, "batch_size"))

    def check_pruner(self) -> None:
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

    def check_verdict(self, arms: Collection[str]) -> None:
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

    def check_reference(self, arms: Collection[str]) -> None:
        reference = self.file.reference
        if reference is None:
            return
        for key in ("accuracy", "curve"):
            for arm in getattr(reference, key):
                if arm not in arms:
                    raise self.fail(not_in("arm", arm, arms), "reference", key, arm)
