"""What can be measured on the weights of confirmed models."""

from __future__ import annotations

MEASURES = ("sharpness", "corruptions", "pgd", "line", "histograms")
HEADLINES = {
    "sharpness_worst": ("worst_l2_adaptive", "all"),
    "hessian_top": ("hessian_top", "all"),
}
"""MLflow's metrics of them: measure and part; of several radii the first."""
