"""Images as patches."""

from __future__ import annotations


def check_patches(name: str, image_size: int, patch: int) -> None:
    """Raises ValueError where the patches of the model `name` do not fill the image."""
    if image_size % patch:
        raise ValueError(
            f"{name} cuts images into {patch}x{patch} patches, which do not fill "
            f"{image_size}x{image_size}; choose an image_size that is a multiple of {patch}"
        )
