"""Sharpness-aware minimization in plain PyTorch: one optimizer, each variant a preset."""

from __future__ import annotations

from trainables.catalog import VARIANTS
from trainables.sam.optimizer import LastStep, SharpnessAware
from trainables.sam.subsets import perturbed_parameters, register_norm

__all__ = ["VARIANTS", "LastStep", "SharpnessAware", "perturbed_parameters", "register_norm"]
