"""What the pass at w computed and the pass at w + e would compute again: all that runs before the
first perturbed parameter."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from trainables.sam.weights import cuda_devices, random_states


class Reuse:
    """Modules of a model that the perturbation cannot reach run once for both passes of a step.

    Such a module holds no perturbed parameter, and returns before one that does begins. In the pass
    at w + e it gives back the tensor that it gave at w, with the graph behind it, so that numbers
    and gradients are those of two whole passes. The first step of a set of perturbed parameters
    makes two whole passes, and only what gives the same bits in both is reused from there on.

    Not reused: what was changed in place since, what ran twice, and anything at all where the pass
    drew random numbers, because the second pass draws others.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._perturbed: frozenset[Tensor] = frozenset()
        self._owners: list[nn.Module] = []
        self._apart: list[nn.Module] = []
        self._between: set[Tensor] = set()
        self._early: set[nn.Module] = set()
        self._same: set[nn.Module] | None = None
        self._kept: dict[nn.Module, tuple[Tensor, int]] = {}
        self._devices: list[torch.device] = []

    def parameters(self, perturbed: Iterable[Tensor]) -> set[Tensor]:
        """Those that need a gradient in the pass at w, because the other pass goes on from it."""
        self._look_at(frozenset(perturbed))
        if not self._same:
            return set()
        return self._between.union(*(module.parameters() for module in self._early))

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Inside, the pass at w, after `parameters`."""
        kept: dict[nn.Module, tuple[Tensor, int]] = {}
        early: set[nn.Module] = set()
        unfit: set[nn.Module] = set()
        begun = False

        def begin(module: nn.Module, given: Any) -> None:
            nonlocal begun
            begun = True

        def end(module: nn.Module, given: Any, output: Any) -> None:
            if not begun:
                early.add(module)
            if begun or module in kept or not isinstance(output, Tensor):
                unfit.add(module)
            else:
                kept[module] = output, output._version

        self._kept = {}
        before = random_states(self._devices)
        with ExitStack() as hooks:
            for module in self._owners:
                hooks.enter_context(module.register_forward_pre_hook(begin))
            for module in self._apart if self._same is None else self._same:
                hooks.enter_context(module.register_forward_hook(end))
            yield
        drawn = not all(map(torch.equal, before, random_states(self._devices)))
        self._kept = {} if drawn else {m: out for m, out in kept.items() if m not in unfit}
        if self._same is None:
            self._early = early

    @contextmanager
    def replayed(self, norm: Tensor) -> Iterator[None]:
        """Inside, the pass at w + e over the samples of the pass that was recorded. norm: of e."""
        kept, self._kept = self._kept, {}
        outputs = {m: output for m, (output, version) in kept.items() if output._version == version}
        if self._same is None:
            with self._compared(outputs) as same:
                yield
            if norm > 0:  # waits for the device, in the first step only
                self._same = same
            return
        for module, output in outputs.items():
            vars(module)["forward"] = lambda *given, _output=output, **named: _output
        try:
            yield
        finally:
            for module in outputs:
                del vars(module)["forward"]

    def forget(self) -> None:
        """Lets go of what was recorded."""
        self._kept = {}

    @contextmanager
    def _compared(self, outputs: dict[nn.Module, Tensor]) -> Iterator[set[nn.Module]]:
        """Gives the modules that return the same bits inside as these, once they have."""
        same: set[nn.Module] = set()

        def end(module: nn.Module, given: Any, output: Any) -> None:
            if isinstance(output, Tensor) and torch.equal(output, outputs[module]):
                same.add(module)

        with ExitStack() as hooks:
            for module in outputs:
                hooks.enter_context(module.register_forward_hook(end))
            yield same

    def _look_at(self, perturbed: frozenset[Tensor]) -> None:
        """Finds the modules that hold perturbed parameters, and the largest that hold none."""
        if perturbed == self._perturbed:
            return
        self._perturbed, self._same, self._kept = perturbed, None, {}
        self._devices = cuda_devices(self._model.parameters())
        modules = list(self._model.modules())
        holding = {m for m in modules if not perturbed.isdisjoint(m.parameters())}
        self._owners = [m for m in modules if not perturbed.isdisjoint(m.parameters(recurse=False))]
        apart = [
            child
            for m in modules
            if m in holding
            for child in m.children()
            # One with a forward of its own already is somebody else's business.
            if child not in holding and "forward" not in vars(child)
        ]
        self._apart = list(dict.fromkeys(apart))
        # What a module that holds both kinds does by itself may stand before one that is reused.
        self._between = {p for m in holding for p in m.parameters(recurse=False)}
