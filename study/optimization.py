"""What a workload says of optimization: checked between its keys, and filled in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from study.checked import Checked
from study.spec import Arm, Method, Resources
from study.workload import Optimizer, Schedule, Workload
from study.yamlfile import Document
from trainables import catalog

Chosen = TypeVar("Chosen", Optimizer, Schedule)


class Optimization(Checked):
    """Reads optimizer, schedule and precision of the workload of a file."""

    def __init__(self, document: Document, workload: Workload, resources: Resources) -> None:
        super().__init__(document)
        self.given = workload
        self.resources = resources

    def resolved(self) -> dict[str, Any]:
        """The parts of the workload that leave something open, by key, with nothing open.

        Raises SpecError for what does not fit together.
        """
        optimizer = self.filled("optimizer", self.given.optimizer, catalog.OPTIMIZERS)
        if optimizer.nesterov and not optimizer.momentum:
            raise self.fail(_NESTEROV, "workload", "optimizer", "nesterov")
        schedule = self.filled("schedule", self.given.schedule, catalog.SCHEDULES)
        self.check_schedule(schedule)
        batch, pieces = self.given.batch_size, self.given.accumulate
        if batch % pieces:
            text = f"{pieces} does not divide batch_size {batch}"
            raise self.fail(text, "workload", "accumulate")
        if batch % (pieces * self.resources.workers):
            text = f"{batch} cannot be cut into {self.parts()}"
            raise self.fail(text, "workload", "batch_size")
        if self.given.precision == "float16" and not self.resources.gpu:
            text = (
                "float16 gains nothing on a CPU, and resources.gpu is 0; give it a GPU, or "
                "bfloat16, whose range needs no scaled loss"
            )
            raise self.fail(text, "workload", "precision")
        return {"optimizer": optimizer, "schedule": schedule}

    def filled(self, key: str, part: Chosen, choices: Mapping[str, catalog.Choice]) -> Chosen:
        """The part with the defaults of the word that it chose; refuses what only others take."""
        own = choices[part.name].own
        others = {name for choice in choices.values() for name in choice.own if name not in own}
        takes = [name for name in type(part).model_fields if name not in others]
        for name in type(part).model_fields:
            if name in part.model_fields_set and name not in takes:
                text = f"{part.name} takes no {name}; it takes {', '.join(takes)}"
                raise self.fail(text, "workload", key, name)
        return part.model_copy(
            update={name: value for name, value in own.items() if getattr(part, name) is None}
        )

    def check_schedule(self, schedule: Schedule) -> None:
        """Checks that the warm-up ends before what comes after it."""
        epochs, warmup, milestones = self.given.epochs, schedule.warmup, schedule.milestones
        if schedule.per == "epoch" and not warmup.is_integer():
            text = f"{warmup:g} is no whole number of epochs; give per: step as well"
            raise self.fail(text, "workload", "schedule", "warmup")
        if warmup >= epochs:
            text = f"{warmup:g} is not below the {epochs} epochs"
            raise self.fail(text, "workload", "schedule", "warmup")
        if milestones is None:
            return
        if sorted(set(milestones)) != milestones:
            text = "milestones must rise"
        elif warmup > milestones[0] * epochs:
            text = f"the first milestone comes before the warm-up of {warmup:g} epochs is over"
        else:
            return
        raise self.fail(text, "workload", "schedule", "milestones")

    def parts(self) -> str:
        """Into what each batch is cut."""
        parts = f"equal parts for {self.resources.workers} workers (resources.gpu)"
        pieces = self.given.accumulate
        return parts if pieces == 1 else f"{parts}, each in {pieces} slices (accumulate)"

    def check_search(self, arms: Mapping[str, Arm]) -> None:
        """Refuses ranges that the optimizer has no use for, and batches that cannot be cut."""
        optimizer, pieces = self.given.optimizer, self.given.accumulate
        for name, arm in arms.items():
            if (span := arm.search.get("momentum")) is not None:
                place = self.search_place(name, "momentum")
                if "momentum" not in catalog.OPTIMIZERS[optimizer.name].own:
                    raise self.fail(f"{optimizer.name} has no momentum; leave it out", *place)
                if optimizer.nesterov and 0 in (span.choices or (span.low,)):
                    raise self.fail(_NESTEROV, *place)
            if (span := arm.search.get("batch_size")) is not None:
                sizes = span.choices or (span.low or 0, span.step or 1)
                if any(float(size) % pieces for size in sizes):
                    text = f"accumulate {pieces} must divide every batch size; give choices"
                    raise self.fail(text, *self.search_place(name, "batch_size"))
                if any(float(size) % (pieces * self.resources.workers) for size in sizes):
                    text = f"every batch size must be cut into {self.parts()}; give choices"
                    raise self.fail(text, *self.search_place(name, "batch_size"))

    def check_methods(self, arms: Mapping[str, Arm]) -> None:
        """Refuses methods that the optimizer, the precision or the batches have no use for."""
        optimizer = self.given.optimizer
        for name, arm in arms.items():
            for method in arm.methods:
                variant, place = catalog.VARIANTS[method.variant], ("arms", name)
                along_momentum = method.options.get("ascent", variant.ascent) == "momentum"
                if along_momentum and not (optimizer.name == "sgd" and optimizer.momentum):
                    text = f"{method.variant} perturbs along the momentum of sgd; give it one"
                    raise self.fail(text, *place)
                cheap = {*method.options, *arm.search} & {"ascent_precision"}
                if cheap and self.given.precision != "float32":
                    text = (
                        f"ascent_precision lowers that of one pass; with precision "
                        f"{self.given.precision} all have it lowered: give float32, or leave it out"
                    )
                    raise self.fail(text, *place)
                if self.given.precision == "float16" and not variant.takes_scaler:
                    text = f"{method.variant} takes no scaled loss; give precision bfloat16"
                    raise self.fail(text, *place)
                self.check_workers(name, arm, method)
            self.check_chunks(name, arm)

    def check_workers(self, name: str, arm: Arm, method: Method) -> None:
        """Refuses methods whose numbers would depend on how many workers a trial has."""
        options = {**method.options, **({"m": 1} if "m" in arm.search else {})}
        if self.resources.workers > 1 and (why := catalog.undivided(method.variant, options)):
            text = f"resources.gpu gives each worker a part of every batch, and {method.variant} "
            raise self.fail(f"{text}{why}", "arms", name)

    def check_chunks(self, name: str, arm: Arm) -> None:
        """Refuses samples a perturbation that do not divide a batch."""
        searched, batches = arm.search.get("m"), arm.search.get("batch_size")
        given = [method.options["m"] for method in arm.methods if "m" in method.options]
        place = self.search_place(name, "m") if searched else ("arms", name, "m")
        if (searched and not searched.choices) or (given and batches and not batches.choices):
            raise self.fail("m must divide every batch size; give choices for both", *place)
        sizes = batches.choices or [] if batches else [self.given.batch_size]
        for m in (searched.choices or []) if searched else given:
            for size in sizes:
                if float(size) % float(m):
                    raise self.fail(f"{m} does not divide batch_size {size}", *place)
                workers = self.resources.workers
                if (each := float(size) / workers) % float(m):
                    text = f"{m} does not divide the {each:g} of {size} samples that each of "
                    raise self.fail(f"{text}{workers} workers gets (resources.gpu)", *place)
            if self.given.accumulate > 1:
                raise self.fail("m cuts the batch already; leave accumulate out", *place)


_NESTEROV = "nesterov needs a momentum above 0"
