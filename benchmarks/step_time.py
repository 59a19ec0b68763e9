"""Time and memory of a training step, ours against plain PyTorch and pytorch_optimizer's SAM.

    python -m benchmarks.step_time [--models resnet20 vit_tiny] [--rounds 30] [--threads 2]
                                   [--memory] [--json FILE]

Steps of all contestants take turns in one process on one batch that lies on the device, so that
whatever else the machine does falls on all of them. A ratio is that of two steps of one round; told
are the medians over rounds with 95 % bootstrap intervals. Runs on a GPU where there is one.

--memory: no times, but for each contestant, in a process of its own after some steps, the most that
a step held beyond model and batch, and what stays between two steps, gradients dropped, beyond what
stays of SGD. Counted is what PyTorch's allocator gave and got back: on a CPU by the memory events
of torch.profiler, which see every one, also of what autograd keeps and of oneDNN; on a GPU by
torch.cuda.max_memory_allocated. So the same at every run, whatever else the machine does.
"""

from __future__ import annotations

import argparse
import gc
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from pytorch_optimizer import SAM
from torch import Tensor
from torch.optim import SGD
from torch.profiler import ProfilerActivity, profile, record_function

from benchmarks.measured import apart, interval
from trainables.catalog import channels_last
from trainables.models import make_model
from trainables.sam import SharpnessAware, perturbed_parameters

Step = Callable[[], object]
_RHO = 0.5
_WARM = 3
_SHAPES = {"resnet20": (128, 32), "resnet56": (128, 32), "wrn16_4": (64, 32), "vit_tiny": (32, 64)}
"""Images of a batch and their size, by model."""


@dataclass(frozen=True)
class Row:
    """Time of a contestant. ratio, low, high: to the step of SGD; to_two_pass: to the plain
    SAM-ON."""

    model: str
    contestant: str
    milliseconds: float
    ratio: float
    low: float
    high: float
    to_two_pass: float
    n: int


@dataclass(frozen=True)
class Held:
    """Memory of a contestant in bytes. peak: at most in a step, beyond model and batch; kept:
    between two steps, beyond that of SGD."""

    model: str
    contestant: str
    peak: int
    kept: int


class Bench:
    """A model, its batch and its base optimizer, the same for every contestant."""

    def __init__(self, name: str, device: str) -> None:
        torch.manual_seed(0)
        samples, size = _SHAPES[name]
        self.model = make_model(name, num_classes=10, in_channels=3, image_size=size).to(device)
        if channels_last(name):
            self.model.to(memory_format=torch.channels_last)
        self.base = SGD(self.model.parameters(), 0.1, momentum=0.9, weight_decay=5e-4)
        self.images = torch.randn(samples, 3, size, size, device=device)
        self.labels = torch.randint(0, 10, (samples,), device=device)

    def loss(self, network: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Mean loss of the batch."""
        logits = (network or self.model)(self.images)
        return F.cross_entropy(logits, self.labels, label_smoothing=0.1)


def sgd(bench: Bench) -> Step:
    """A step of SGD as everybody writes it."""

    def step() -> None:
        bench.base.zero_grad()
        bench.loss().backward()  # type: ignore[no-untyped-call]
        bench.base.step()

    return step


def two_pass(bench: Bench, perturb: str = "norm") -> Step:
    """SAM in two whole passes with a copy of every weight, as its users and SAM-ON's authors do."""
    moved = [p for _, p in perturbed_parameters(bench.model, perturb)]
    every = list(bench.model.parameters())

    def step() -> None:
        bench.base.zero_grad()
        bench.loss().backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            norm = torch.stack([p.grad.norm() for p in moved if p.grad is not None]).norm()
            copies = [p.clone() for p in every]
            for p in moved:
                if p.grad is not None:
                    p.add_(p.grad * (_RHO / (norm + 1e-12)))
        bench.base.zero_grad()
        bench.loss().backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            for p, copy in zip(every, copies, strict=True):
                p.copy_(copy)
        bench.base.step()

    return step


def two_pass_defaults(bench: Bench) -> Step:
    """`two_pass` in the memory format that PyTorch starts from."""
    bench.model.to(memory_format=torch.contiguous_format)
    return two_pass(bench)


def pytorch_optimizer(bench: Bench) -> Step:
    """SAM of the package pytorch_optimizer, on every parameter."""
    settings: Any = {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4}
    optimizer = SAM(bench.model.parameters(), SGD, rho=_RHO, **settings)

    def closure() -> Any:
        optimizer.zero_grad()
        loss = bench.loss()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    def step() -> None:
        closure()
        optimizer.step(closure)

    return step


def ours(
    variant: str, perturb: str = "all", *, compiled: bool = False, **options: Any
) -> Callable[[Bench], Step]:
    """A step of SharpnessAware."""

    def make(bench: Bench) -> Step:
        rho = None if variant == "none" else _RHO
        optimizer = SharpnessAware(bench.model, bench.base, variant, perturb, rho, **options)
        network: Any = torch.compile(bench.model) if compiled else bench.model

        def losses(batch: tuple[Tensor, Tensor]) -> Tensor:
            images, labels = batch
            return F.cross_entropy(network(images), labels, reduction="none", label_smoothing=0.1)

        return lambda: optimizer.step(losses, (bench.images, bench.labels))

    return make


CONTESTANTS: dict[str, Callable[[Bench], Step]] = {
    "SGD, plain": sgd,
    "SGD, ours": ours("none"),
    "SAM-all, plain two-pass": lambda bench: two_pass(bench, "all"),
    "SAM-all, pytorch_optimizer": pytorch_optimizer,
    "SAM-all, ours": ours("sam"),
    "SAM-ON, plain two-pass": two_pass,
    "SAM-ON, plain, PyTorch's defaults": two_pass_defaults,
    "SAM-ON, ours, exact": ours("sam", "norm"),
    "SAM-ON, ours, compiled": ours("sam", "norm", compiled=True),
    "SAM-ON, fraction:0.25": ours("sam", "norm", ascent="fraction:0.25"),
    "SAM-ON, previous": ours("sam", "norm", ascent="previous"),
    "SAM-ON, every 5": ours("sam", "norm", every=5),
    "SAM-ON, ascent in bfloat16": ours("sam", "norm", ascent_precision="bfloat16"),
    "norm_last:0.25, ours, exact": ours("sam", "norm_last:0.25"),
}
_FIRST, _TWO_PASS = "SGD, plain", "SAM-ON, plain two-pass"


def timed(model: str, rounds: int, device: str) -> list[Row]:
    """Every contestant on one model."""
    steps = {name: make(Bench(model, device)) for name, make in CONTESTANTS.items()}
    for step in steps.values():
        for _ in range(_WARM):
            step()
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            repeats = _repeats(name)
            _wait(device)
            begun = time.perf_counter()
            for _ in range(repeats):
                step()
            _wait(device)
            seconds[name].append((time.perf_counter() - begun) / repeats)
    first, plain = np.array(seconds[_FIRST]), np.array(seconds[_TWO_PASS])
    rows = []
    for name, values in seconds.items():
        ratios = np.array(values) / first
        low, high = interval(ratios.tolist())
        rows.append(
            Row(
                model,
                name,
                1000 * float(np.median(values)),
                float(np.median(ratios)),
                low,
                high,
                float(np.median(np.array(values) / plain)),
                rounds,
            )
        )
    return rows


def _repeats(contestant: str) -> int:
    """Of how many steps one is measured: of five where only one in five perturbs."""
    return 5 if contestant.endswith("every 5") else 1


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def held(model: str, device: str, threads: int) -> list[Held]:
    """Memory of every contestant on one model."""
    measure = _on_cpu if device == "cpu" else _on_cuda
    found = {name: apart(measure, model, name, threads) for name in CONTESTANTS}
    _, of_sgd = found[_FIRST]
    return [Held(model, name, peak, kept - of_sgd) for name, (peak, kept) in found.items()]


def _on_cuda(model: str, contestant: str, threads: int) -> tuple[int, int]:
    """Bytes beyond model and batch: the most in a step, and after it without gradients."""
    torch.set_num_threads(threads)
    bench = Bench(model, "cuda")
    before = torch.cuda.memory_allocated()
    step = _warm(bench, contestant)
    torch.cuda.reset_peak_memory_stats()
    for _ in range(_repeats(contestant)):
        step()
    peak = torch.cuda.max_memory_allocated()
    bench.base.zero_grad()
    gc.collect()
    return peak - before, torch.cuda.memory_allocated() - before


def _on_cpu(model: str, contestant: str, threads: int) -> tuple[int, int]:
    """As `_on_cuda`."""
    torch.set_num_threads(threads)
    # From the start, because the profiler counts no release of what it did not see allocated.
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        with record_function("build"):
            bench = Bench(model, "cpu")
        step = _warm(bench, contestant)
        with record_function("measure"):
            for _ in range(_repeats(contestant)):
                step()
        with record_function("drop"):
            bench.base.zero_grad()
            gc.collect()
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        profiler.export_chrome_trace(file.name)
        events = json.loads(Path(file.name).read_text())["traceEvents"]
    spans = {
        event["name"]: (event["ts"], event["ts"] + event["dur"])
        for event in events
        if event.get("name") in ("build", "measure", "drop") and event.get("ph") == "X"
    }
    totals = sorted(
        (event["ts"], event["args"]["Total Allocated"])
        for event in events
        if event.get("name") == "[memory]"
    )

    def until(end: float) -> int:
        return int([total for at, total in totals if at <= end][-1])

    start, end = spans["measure"]
    peak = max([until(start), *(total for at, total in totals if start <= at <= end)])
    before = until(spans["build"][1])
    return peak - before, until(spans["drop"][1]) - before


def _warm(bench: Bench, contestant: str) -> Step:
    """The step of the contestant, after some of them."""
    step = CONTESTANTS[contestant](bench)
    for _ in range(_WARM):
        step()
    gc.collect()
    return step


def _heading(model: str) -> int:
    """Prints what follows; the bytes of the parameters of the normalization layers."""
    samples, size = _SHAPES[model]
    network = make_model(model, num_classes=10, in_channels=3, image_size=size)
    of_norm = 4 * sum(p.numel() for _, p in perturbed_parameters(network, "norm"))
    print(f"\n{model}, batch {samples}, {size}x{size}; norm holds {of_norm:,} bytes")
    return of_norm


def show(rows: list[Row]) -> None:
    """Prints the times of a model."""
    _heading(rows[0].model)
    print(f"{'':34}{'ms':>8}  {'/ SGD (95 %)':22}{'/ two-pass':>11}")
    for row in rows:
        ratio = f"{row.ratio:.3f} ({row.low:.3f} to {row.high:.3f})"
        print(f"{row.contestant:34}{row.milliseconds:8.1f}  {ratio:22}{row.to_two_pass:11.3f}")
    print(f"n = {rows[0].n} rounds")


def show_held(rows: list[Held]) -> None:
    """Prints the memory of a model."""
    of_norm = _heading(rows[0].model)
    print(f"{'':34}{'peak MB':>9}{'/ SGD':>8}{'kept B':>12}{'/ norm':>8}")
    for row in rows:
        print(
            f"{row.contestant:34}{row.peak / 1e6:9.1f}{row.peak / rows[0].peak:8.3f}"
            f"{row.kept:12,}{row.kept / of_norm:8.2f}"
        )


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--models", nargs="+", choices=list(_SHAPES), default=list(_SHAPES))
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(options.threads)
    print(f"torch {torch.__version__}, {device}, {options.threads} threads")
    rows: list[Row | Held] = []
    for model in options.models:
        if options.memory:
            show_held(found := held(model, device, options.threads))
            rows += found
        else:
            show(timed_rows := timed(model, options.rounds, device))
            rows += timed_rows
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
