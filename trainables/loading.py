"""The process that loads a study's data; Ray starts it, but nothing here knows it.

Apart from the trainable, because a process that imports ray.tune starts more than a second later.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trainables import data, folder
from trainables.catalog import is_own
from trainables.data import Facts
from trainables.streaming import AnyImages


class Loader:
    """Loads one data set. place: as of load_pool.

    One process for both parts: the second one, between two stages, waits for no import.
    """

    def __init__(self, place: Mapping[str, Any]) -> None:
        self._place = place

    def pool(self, configs: Mapping[str, Mapping[str, Any]]) -> tuple[AnyImages, Facts, str | None]:
        """The images that are not test, and whether each arm's model builds and perturbs something.

        configs: fields of training.Config by arm; models are built without memory, a user's own
        for real. The last value is the first problem as a line for the user, or None.
        """
        images, facts = load_pool(self._place)
        return images, facts, _first_problem(configs, facts)

    def test(self) -> tuple[AnyImages, tuple[str, ...]]:
        """The test images and the files left out; asked for only when the search stage is over."""
        place = dict(self._place)
        if place.pop("stream", False):
            return folder.stream_test(**_of_folder(place))
        return data.load_test(**place)


def load_pool(place: Mapping[str, Any]) -> tuple[AnyImages, Facts]:
    """The images of a data set that are not test, and what is known of them. place: arguments of
    data.load_pool, and `stream`: whether the images stay in their files."""
    place = dict(place)
    if place.pop("stream", False):
        return folder.stream_pool(**_of_folder(place))
    return data.load_pool(**place)


def _of_folder(place: Mapping[str, Any]) -> dict[str, Any]:
    return {key: place.get(key) for key in ("name", "root", "image_size", "stand_in")}


def _first_problem(configs: Mapping[str, Mapping[str, Any]], facts: Facts) -> str | None:
    import torch

    from trainables.config import Config
    from trainables.optimization import perturbed_share
    from trainables.training import build

    for arm, fields in configs.items():
        config = Config(**fields)
        try:
            # A user's code may read values while it builds, and those of meta tensors do not exist.
            with torch.device("cpu" if is_own(config.model) else "meta"):
                perturbed_share(config, build(config, facts))
        except ValueError as error:
            return f"arm {arm}: {error}"
    return None
