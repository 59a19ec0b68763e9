"""Seeded generators of input that nobody should give, for tests and for `make faults`."""

from tests.hostile.images import Folder, image_folders
from tests.hostile.specs import HostileSpec, specs

__all__ = ["Folder", "HostileSpec", "image_folders", "specs"]
