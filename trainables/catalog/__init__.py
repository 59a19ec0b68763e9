"""Facts that both packages read, without torch: variants, subsets, models, data sets, optimizers.

Everything that a spec may name is declared here once; `study.spec` checks against it and
`trainables` builds from it.
"""

from __future__ import annotations

from trainables.catalog import augmentations, subsets
from trainables.catalog.datasets import DATA_NAMES, DATASETS, DataSet, data_set
from trainables.catalog.geometries import GEOMETRIES, Geometry, Range
from trainables.catalog.measures import HEADLINES, MEASURES
from trainables.catalog.methods import (
    CLASHING,
    approximations,
    clash,
    cost,
    geometry,
    steady,
    suggested,
    unbatched,
    undivided,
)
from trainables.catalog.models import (
    MODEL_NAMES,
    MODELS,
    NORMS,
    model_options,
    unbatched_model,
    wrong_option,
)
from trainables.catalog.nearest import nearest, shown
from trainables.catalog.optimizers import DIAGNOSTICS, OPTIMIZERS, SCHEDULES, Choice
from trainables.catalog.options import Option
from trainables.catalog.own import OWN, is_own
from trainables.catalog.settings import channels_last, eval_batch
from trainables.catalog.subsets import Kind
from trainables.catalog.variants import VARIANTS, Variant

__all__ = [
    "CLASHING",
    "DATASETS",
    "DATA_NAMES",
    "DIAGNOSTICS",
    "GEOMETRIES",
    "HEADLINES",
    "MEASURES",
    "MODELS",
    "MODEL_NAMES",
    "NORMS",
    "OPTIMIZERS",
    "OWN",
    "SCHEDULES",
    "VARIANTS",
    "Choice",
    "DataSet",
    "Geometry",
    "Kind",
    "Option",
    "Range",
    "Variant",
    "approximations",
    "augmentations",
    "channels_last",
    "clash",
    "cost",
    "data_set",
    "eval_batch",
    "geometry",
    "is_own",
    "model_options",
    "nearest",
    "shown",
    "steady",
    "subsets",
    "suggested",
    "unbatched",
    "unbatched_model",
    "undivided",
    "wrong_option",
]
