"""Which kind of worker the autoscaler starts: a spot one, an on-demand one where spot failed.

Ray's autoscaler knows which kinds the cloud could not give lately, but takes no notice by itself:
it would ask for the same spot node for ever.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ray.autoscaler._private.resource_demand_scheduler import _default_utilization_scorer


def score(
    node_resources: Mapping[str, float],
    resources: Sequence[Mapping[str, float]],
    node_type: str,
    *,
    node_availability_summary: Any,
) -> tuple[Any, ...] | None:
    """How well a kind of node fits what waits for resources, the highest is started; None: nothing
    fits. A kind that failed within the last half hour comes after all others.

    The signature is Ray's, see RAY_AUTOSCALER_UTILIZATION_SCORER in ray-cluster.yaml.
    """
    fit = _default_utilization_scorer(
        node_resources, resources, node_type, node_availability_summary=node_availability_summary
    )
    if fit is None:
        return None
    last = node_availability_summary.node_availabilities.get(node_type)
    return (last is None or last.is_available, *fit, "spot" in node_type)
