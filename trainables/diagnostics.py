"""What a training measures in every step besides its metrics, as means over an epoch."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import torch
from torch import Tensor, nn

from trainables.sam import LastStep
from trainables.sam.subsets import norm_parameters


class Diagnostics:
    """Sums on the device that are read once an epoch.

    chosen: words of catalog.DIAGNOSTICS. loss_rise: mean loss at w + e minus that at w. cosine:
    between the gradients at w and at w + e over what is perturbed (gradient_cosine).
    gradient_norms: l2 norm of the gradient that the base optimizer got, of the parameters of
    normalization layers (gradient_norm_norm_layers) and of all others (gradient_norm_other).
    """

    def __init__(self, chosen: Collection[str], model: nn.Module) -> None:
        self._chosen = chosen
        of_norm = norm_parameters(model)
        trained = [p for p in model.parameters() if p.requires_grad]
        self._parts = {
            "gradient_norm_norm_layers": [p for p in trained if p in of_norm],
            "gradient_norm_other": [p for p in trained if p not in of_norm],
        }
        self._device = trained[0].device
        self._sums: dict[str, Tensor] = {}

    def add(self, loss: Tensor, step: LastStep) -> None:
        """Counts a step that was just taken; loss: the mean at w. A skipped one counts nowhere."""
        if not self._chosen:
            return
        skipped = step.skipped > 0
        for name, value in self._measured(loss, step):
            pair = torch.stack((value, torch.ones_like(value))).double().masked_fill(skipped, 0)
            self._sums[name] = self._sums[name] + pair if name in self._sums else pair

    def read(self) -> dict[str, float]:
        """The means of all steps since the last call; what no step had is missing."""
        pairs = {name: pair.tolist() for name, pair in self._sums.items()}
        self._sums = {}
        return {name: total / count for name, (total, count) in pairs.items() if count}

    def state_dict(self) -> dict[str, Tensor]:
        """The sums so far."""
        return dict(self._sums)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Goes on from a state."""
        self._sums = {name: pair.to(self._device) for name, pair in state.items()}

    def _measured(self, loss: Tensor, step: LastStep) -> Iterator[tuple[str, Tensor]]:
        if "loss_rise" in self._chosen and step.perturbed_loss is not None:
            yield "loss_rise", step.perturbed_loss - loss
        if "cosine" in self._chosen and step.cosine is not None:
            yield "gradient_cosine", step.cosine
        if "gradient_norms" in self._chosen:
            for name, parameters in self._parts.items():
                if grads := [p.grad for p in parameters if p.grad is not None]:
                    yield name, nn.utils.get_total_norm(grads)
