"""What a study must be like so that several of its trials can be trained as one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from study.checked import Checked
from study.spec import Arm, Method, Resources, Settings, Tune
from study.workload import Workload
from study.yamlfile import Document, Place
from trainables import catalog

_CHOSEN = ("ascent", "ascent_precision", "m", "bn_statistics")
"""Options that decide whether a method fits, and that a search may choose."""


class Batching(Checked):
    """Checks a file that gives engine.batched_trials."""

    def __init__(
        self,
        document: Document,
        engine: Settings,
        workload: Workload,
        resources: Resources,
        tune: Tune,
    ) -> None:
        super().__init__(document)
        self.engine = engine
        self.workload = workload
        self.resources = resources
        self.tune = tune

    def check(self, arms: Mapping[str, Arm]) -> None:
        """Raises SpecError for the first part of the study that cannot be batched."""
        if self.engine.batched_trials == 1:
            return
        for place, why in self.problems(arms):
            raise self.fail(f"{why} (engine.batched_trials)", *place)

    def problems(self, arms: Mapping[str, Arm]) -> Iterator[tuple[Place, str]]:
        """Each place that is in the way, and why."""
        workload, model = self.workload, self.workload.model
        if wrong := catalog.unbatched_model(model.name, model.norm):
            yield ("workload", "model", wrong[0]), wrong[1]
        if workload.data.stream:
            text = "each of the batched trials would decode every image; leave it out"
            yield ("workload", "data", "stream"), text
        if workload.precision != "float32":
            yield ("workload", "precision"), "trials are batched in float32 only"
        if workload.accumulate > 1:
            yield ("workload", "accumulate"), "a batch of batched trials stays whole; leave it out"
        if self.engine.compile:
            yield ("engine", "compile"), "batched trials are not compiled; leave it out"
        if self.resources.workers > 1:
            yield ("resources", "gpu"), "batched trials train on one GPU; give 1 or less"
        if self.tune.search_seeds > 1:
            yield ("tune", "search_seeds"), "batched trials have one search seed; leave it out"
        for name, arm in arms.items():
            if "batch_size" in arm.search:
                text = "batched trials have batches of one size; leave it out of the search"
                yield self.search_place(name, "batch_size"), text
            for method in arm.methods:
                for options in _chosen(arm, method):
                    if why := catalog.unbatched(method.variant, options):
                        yield ("arms", name), f"{method.variant} {why}"


def _chosen(arm: Arm, method: Method) -> Iterator[Mapping[str, Any]]:
    """The options of a method, with each value that the search may choose for one of them."""
    yield method.options
    for key in _CHOSEN:
        if method.takes(key) and (span := arm.search.get(key)) is not None:
            yield from ({**method.options, key: value} for value in span.choices or (span.low,))
