"""Ways to train several trials of an arm, for benchmarks.batched_trials."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, grad_and_value, replace_all_batch_norm_modules_, vmap
from torch.optim import SGD

from trainables.batched.network import GroupedNetwork
from trainables.batched.step import Turn, lock_step
from trainables.models import make_model
from trainables.sam import SharpnessAware, perturbed_parameters

Step: TypeAlias = Callable[[bool], Tensor]
_CLASSES, _MOMENTUM, _SMOOTHING = 10, 0.9, 0.1


@dataclass(frozen=True)
class Setting:
    """What is trained: a resnet8 and the shape of a batch."""

    name: str
    width: int
    channels: int
    size: int
    batch: int = 64


class Bench:
    """N trials before their first step.

    images: [N, batch, C, H, W]; labels: [N, batch]; rho, lr, weight_decay: [N].
    """

    def __init__(self, setting: Setting, trials: int, device: str, dtype: torch.dtype) -> None:
        torch.manual_seed(0)
        self.models = []
        for _ in range(trials):
            shape = {"in_channels": setting.channels, "image_size": setting.size}
            model = make_model("resnet8", num_classes=_CLASSES, width=setting.width, **shape)
            model.to(device, dtype).to(memory_format=torch.channels_last)
            self.models.append(replace_all_batch_norm_modules_(model))
        batch = trials, setting.batch
        image = setting.channels, setting.size, setting.size
        self.images = torch.randn(*batch, *image, device=device, dtype=dtype)
        self.labels = torch.randint(0, _CLASSES, batch, device=device)
        self.rho = torch.linspace(0.1, 1, trials, device=device, dtype=dtype)
        self.lr = torch.linspace(0.1, 0.02, trials, device=device, dtype=dtype)
        self.weight_decay = torch.linspace(1e-4, 1e-3, trials, device=device, dtype=dtype)
        self.moved = [name for name, _ in perturbed_parameters(self.models[0], "norm")]

    def divided(self, named: Mapping[str, Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Parameters that the ascent moves, and the others."""
        rest = [p for name, p in named.items() if name not in self.moved]
        return [named[name] for name in self.moved], rest


def mean_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """[..., n, classes] and [..., n] to the mean over n, [...]."""
    losses = F.cross_entropy(
        logits.flatten(0, -2), labels.flatten(), reduction="none", label_smoothing=_SMOOTHING
    )
    return losses.view(labels.shape).mean(-1)


class Trials(Protocol):
    """N trials that train.

    steps: to be called one by one, with whether there is an ascent; together a step of SAM-ON or
    SGD of all trials. Each returns losses at w, [its trials].
    """

    steps: list[Step]

    def gradients(self) -> dict[str, Tensor]:
        """What the last step gave to SGD, by parameter, [N, ...]."""


class OneAfterAnother:
    """(i): plain PyTorch, a trial at a time."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.bases = [
            SGD(model.parameters(), float(lr), _MOMENTUM, weight_decay=float(decay), fused=True)
            for model, lr, decay in zip(bench.models, bench.lr, bench.weight_decay, strict=True)
        ]
        self.named = [dict(model.named_parameters()) for model in bench.models]
        self.steps: list[Step] = [partial(self.step, trial) for trial in range(len(bench.models))]

    def step(self, trial: int, ascent: bool) -> Tensor:
        """Of one trial."""
        bench, base, named = self.bench, self.bases[trial], self.named[trial]
        model, images, labels = bench.models[trial], bench.images[trial], bench.labels[trial]

        def losses() -> Tensor:
            return mean_losses(model(images), labels)

        base.zero_grad()
        if not ascent:
            at_w = losses()
            at_w.backward()  # type: ignore[no-untyped-call]
        else:
            moved, rest = bench.divided(named)
            at_w, direction = direction_of(losses, moved, rest)
            norm = torch.stack(torch._foreach_norm(direction)).norm()
            with shifted(moved, torch._foreach_mul(direction, bench.rho[trial] / norm)):
                losses().backward()  # type: ignore[no-untyped-call]
        base.step()
        return at_w.detach().view(1)

    def gradients(self) -> dict[str, Tensor]:
        return {
            name: torch.stack([named[name].grad for named in self.named])  # type: ignore[misc]
            for name in self.named[0]
        }


class Ours(OneAfterAnother):
    """A trial at a time by SharpnessAware, as the service does it."""

    def __init__(self, bench: Bench) -> None:
        super().__init__(bench)
        radii: list[float] = bench.rho.tolist()
        self.optimizers = [
            (SharpnessAware(model, base, "none"), SharpnessAware(model, base, "sam", "norm", rho))
            for model, base, rho in zip(bench.models, self.bases, radii, strict=True)
        ]

    def step(self, trial: int, ascent: bool) -> Tensor:
        bench = self.bench

        def losses(batch: tuple[Tensor, Tensor]) -> Tensor:
            images, labels = batch
            logits = bench.models[trial](images)
            return F.cross_entropy(logits, labels, reduction="none", label_smoothing=_SMOOTHING)

        batch = bench.images[trial], bench.labels[trial]
        return self.optimizers[trial][ascent].step(losses, batch).view(1)


class InLockStep(Ours):
    """All trials at once as the service does it with engine.batched_trials."""

    def __init__(self, bench: Bench) -> None:
        super().__init__(bench)
        self.network = GroupedNetwork(bench.models)
        self.steps = [self.step_all]

    def step_all(self, ascent: bool) -> Tensor:
        def losses(labels: Tensor, logits: Tensor) -> Tensor:
            return F.cross_entropy(logits, labels, reduction="none", label_smoothing=_SMOOTHING)

        bench = self.bench
        turns = {
            slot: Turn(optimizers[ascent], bench.images[slot], partial(losses, bench.labels[slot]))
            for slot, optimizers in enumerate(self.optimizers)
        }
        return torch.stack(list(lock_step(self.network, turns).values()))


class Stacked:
    """SGD with momentum over parameters [N, ...], each trial with its own lr and weight decay."""

    def __init__(self, params: dict[str, Tensor], bench: Bench) -> None:
        self.params = params
        self.weights = list(params.values())
        self.rates = [along(-bench.lr, w) for w in self.weights]
        self.decays = [along(bench.weight_decay, w) for w in self.weights]
        self.buffers = [torch.zeros_like(w) for w in self.weights]
        self.last: dict[str, Tensor] = {}

    @torch.no_grad()
    def update(self, gradients: dict[str, Tensor]) -> None:
        self.last = gradients
        torch._foreach_mul_(self.buffers, _MOMENTUM)
        torch._foreach_add_(self.buffers, [gradients[name] for name in self.params])
        torch._foreach_addcmul_(self.buffers, self.weights, self.decays)
        torch._foreach_addcmul_(self.weights, self.buffers, self.rates)

    def gradients(self) -> dict[str, Tensor]:
        return self.last


class Vmapped(Stacked):
    """(ii): a step of one trial as a function, over parameters stacked along a new axis."""

    def __init__(self, bench: Bench) -> None:
        every = [dict(model.named_parameters()) for model in bench.models]
        super().__init__(
            {name: stacked([named[name] for named in every]) for name in every[0]}, bench
        )
        self.bench = bench
        self.model = bench.models[0]
        self.descent = vmap(grad_and_value(self.loss))
        self.ascent_and_descent = vmap(self.one)
        self.steps: list[Step] = [self.step]

    def loss(self, params: dict[str, Tensor], images: Tensor, labels: Tensor) -> Tensor:
        """Of one trial."""
        return mean_losses(functional_call(self.model, params, (images,)), labels)

    def one(
        self, params: dict[str, Tensor], images: Tensor, labels: Tensor, rho: Tensor
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Of one trial: the gradient at w + e, and the loss at w."""

        def at(moved: dict[str, Tensor]) -> Tensor:
            return self.loss(params | moved, images, labels)

        moved = {name: params[name] for name in self.bench.moved}
        direction, loss = grad_and_value(at)(moved)
        scale = rho / torch.stack([g.norm() for g in direction.values()]).norm()
        there = {name: p + scale * direction[name] for name, p in moved.items()}
        return grad(self.loss)(params | there, images, labels), loss

    def step(self, ascent: bool) -> Tensor:
        bench = self.bench
        batch = self.params, bench.images, bench.labels
        gradients, losses = (
            self.ascent_and_descent(*batch, bench.rho) if ascent else self.descent(*batch)
        )
        self.update(gradients)
        return losses


class Grouped(Stacked):
    """(iii): one network that holds the channels of all trials, each convolution in N groups."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.model = grouped(bench.models)
        self.named = dict(self.model.named_parameters())
        super().__init__(self.apart({name: p.detach() for name, p in self.named.items()}), bench)
        # [batch, N C, H, W]; a loader would write batches in this order.
        side_by_side = bench.images.transpose(0, 1).flatten(1, 2)
        self.images = side_by_side.to(memory_format=torch.channels_last)
        self.steps: list[Step] = [self.step]

    def apart(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """[N C, ...] as [N, C, ...]."""
        count = len(self.bench.models)
        return {name: t.view(count, -1, *t.shape[1:]) for name, t in tensors.items()}

    def step(self, ascent: bool) -> Tensor:
        # The sum over trials has each trial's gradient, because a loss has only its own parameters.
        if not ascent:
            losses = self.losses()
            gradients = self.gradients_of(losses)
        else:
            moved, rest = self.bench.divided(self.named)
            losses, flat = direction_of(self.losses, moved, rest)
            direction = [g.view(len(self.bench.models), -1) for g in flat]
            norms = torch.stack([g.norm(dim=1) for g in direction]).norm(dim=0)
            scale = (self.bench.rho / norms).unsqueeze(1)
            with shifted(moved, [(g * scale).flatten() for g in direction]):
                gradients = self.gradients_of(self.losses())
        self.update(gradients)
        return losses.detach()

    def losses(self) -> Tensor:
        return mean_losses(self.model(self.images), self.bench.labels)

    def gradients_of(self, losses: Tensor) -> dict[str, Tensor]:
        gradients = torch.autograd.grad(losses.sum(), list(self.named.values()))
        return self.apart(dict(zip(self.named, gradients, strict=True)))


def grouped(models: list[nn.Module]) -> nn.Module:
    """A ResNet of N times the channels that computes what the models compute, [n, N C, H, W] to
    [N, n, classes]. Raises TypeError for a layer with parameters that it does not know."""
    count, whole = len(models), copy.deepcopy(models[0])
    for name, layer in models[0].named_modules():
        if not any(True for _ in layer.parameters(recurse=False)):
            continue
        new: nn.Module
        match layer:
            case nn.Conv2d(in_channels=inputs, out_channels=outputs):
                shape = layer.kernel_size, layer.stride, layer.padding
                new = nn.Conv2d(count * inputs, count * outputs, *shape, groups=count, bias=False)  # type: ignore[arg-type]
            case nn.BatchNorm2d():
                new = nn.BatchNorm2d(count * layer.num_features, track_running_stats=False)
            case nn.Linear():
                new = Heads(count, layer.in_features, layer.out_features)
            case _:
                raise TypeError(f"no grouped {type(layer).__name__} ({name})")
        new.to(next(layer.parameters()))
        with torch.no_grad():
            for key, p in new.named_parameters():
                p.copy_(torch.cat([model.get_parameter(f"{name}.{key}") for model in models]))
        whole.set_submodule(name, new)
    return whole.to(memory_format=torch.channels_last)


class Heads(nn.Module):
    """N linear layers, each of its own inputs: [n, N inputs] to [N, n, outputs]."""

    def __init__(self, count: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.count = count
        self.weight = nn.Parameter(torch.empty(count * outputs, inputs))
        self.bias = nn.Parameter(torch.empty(count * outputs))

    def forward(self, x: Tensor) -> Tensor:
        n, _ = x.shape
        outputs, inputs = self.weight.shape
        weight = self.weight.view(self.count, outputs // self.count, inputs)
        x = x.view(n, self.count, inputs)
        return torch.baddbmm(
            self.bias.view(self.count, 1, -1), x.transpose(0, 1), weight.transpose(1, 2)
        )


def stacked(tensors: list[nn.Parameter]) -> Tensor:
    """[N, ...], in memory N times the layout of one."""
    if tensors[0].dim() < 4:
        return torch.stack([p.detach() for p in tensors])
    return torch.stack([p.detach().permute(0, 2, 3, 1) for p in tensors]).permute(0, 1, 4, 2, 3)


def along(values: Tensor, like: Tensor) -> Tensor:
    """[N] as [N, 1, ...] with as many axes as `like`."""
    return values.view(-1, *[1] * (like.dim() - 1))


def direction_of(
    losses: Callable[[], Tensor], moved: list[Tensor], rest: list[Tensor]
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The losses, and the gradient of their sum over `moved` alone."""
    for p in rest:
        p.requires_grad_(False)
    found = losses()
    direction = torch.autograd.grad(found.sum(), moved)
    for p in rest:
        p.requires_grad_(True)
    return found, direction


@contextmanager
def shifted(moved: list[Tensor], shift: Sequence[Tensor]) -> Iterator[None]:
    """Inside, `moved` is at w + e; afterwards at the same bits as before."""
    copies = [p.detach().clone() for p in moved]
    with torch.no_grad():
        torch._foreach_add_(moved, list(shift))
    yield
    with torch.no_grad():
        torch._foreach_copy_(moved, copies)


FIRST = "one after another"
CONTESTANTS: dict[str, Callable[[Bench], Trials]] = {
    FIRST: OneAfterAnother,
    "the same by SharpnessAware": Ours,
    "vmap": Vmapped,
    "grouped": Grouped,
    "grouped, by batched_trials": InLockStep,
}
