"""Every variant: from a run at the start of a step to the run after it."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from tests.reference.ascent import Run, ascend, mean, moved, plain
from tests.reference.geometry import Array, Arrays, inner, length, quotient
from tests.reference.problem import Batch


def none(run: Run, batch: Batch) -> None:
    """u = g"""
    run.descend(plain(run, batch))


def sam(run: Run, batch: Batch) -> None:
    """u = g_p"""
    _, g_p = ascend(run, batch)
    run.descend(g_p)


def gsam(run: Run, batch: Batch, alpha: float = 0.4) -> None:
    """u = g_p - alpha (g - <g, g_p> g_p / n(g_p)^2)"""
    g, g_p = ascend(run, batch)
    along = quotient(inner(g, g_p), length(g_p) ** 2)
    run.descend({k: g_p[k] - alpha * (g[k] - along * g_p[k]) for k in g})


def looksam(run: Run, batch: Batch, k: int = 5, alpha: float = 0.7) -> None:
    """Steps 0, k, ...: u = g_p, g_v = g_p - <g, g_p> g / n(g)^2; u = g + alpha n(g)/n(g_v) g_v"""
    if run.step % k == 0:
        g, g_p = ascend(run, batch)
        along = quotient(inner(g, g_p), length(g) ** 2)
        run.memory["g_v"] = {name: g_p[name] - along * g[name] for name in g}
        run.descend(g_p)
    else:
        g, g_v = plain(run, batch), run.memory["g_v"]
        share = alpha * quotient(length(g), length(g_v))
        run.descend({name: g[name] + share * g_v[name] for name in g})


def esam(run: Run, batch: Batch, beta: float = 0.6, gamma: float = 0.5) -> None:
    """e = that of S' divided by beta; u = gradient at w + e of the samples whose loss rose most"""
    kept = next(run.draws)
    before, g = run.problem.losses(run.w, batch), run.problem.gradient(run.w, batch)
    part = {k: mask for k, mask in run.subset.items() if k in kept}
    at = moved(run.w, run.perturbation(g, subset=part), 1 / beta)
    rise = run.problem.losses(at, batch) - before
    count = max(1, math.floor(gamma * len(rise)))
    chosen = np.sort(np.argsort(-rise, kind="stable")[:count])
    run.loss = float(before.mean())
    run.descend(run.problem.gradient(at, (batch[0][chosen], batch[1][chosen])))


def ssam_f(
    run: Run, batch: Batch, density: float = 0.5, refresh: int = 5, fisher_samples: int = 1024
) -> None:
    """sam on the elements with the largest sum of squared per-sample gradients"""
    if run.first_of_epoch and run.epoch % refresh == 0:
        singles = [(x[i : i + 1], y[i : i + 1]) for x, y in run.samples for i in range(len(x))]
        fisher = {k: np.zeros_like(w) for k, w in run.w.items()}
        for one in singles[:fisher_samples]:
            g = run.problem.gradient(run.w, one, evaluation=True)
            fisher = {k: fisher[k] + g[k] ** 2 for k in g}
        chosen = largest(flat(fisher), round(density * flat(fisher).size))
        run.memory["mask"] = unflat(chosen, run.w)
    _, g_p = ascend(run, batch, subset=run.memory["mask"])
    run.descend(g_p)


def ssam_d(
    run: Run, batch: Batch, density: float = 0.5, refresh: int = 5, drop_rate: float = 0.5
) -> None:
    """sam on a mask of k elements; after the first step of an epoch d of them are exchanged"""
    count = flat(run.w).size
    k = round(density * count)
    if "mask" not in run.memory:
        run.memory["mask"] = largest(next(run.draws), k)
    mask: Array = run.memory["mask"]
    g, g_p = ascend(run, batch, subset=unflat(mask, run.w))
    if run.first_of_epoch and run.epoch % refresh == 0:
        rate = drop_rate * (1 + math.cos(math.pi * run.epoch / run.epochs)) / 2
        d = min(math.floor(k * rate), count - k)
        stay = largest(np.where(mask == 1, np.abs(flat(g)), -1.0), k - d)
        come = largest(np.where(mask == 0, next(run.draws), -1.0), d)
        run.memory["mask"] = stay + come
    run.descend(g_p)


def lookbehind(run: Run, batch: Batch, k: int = 2, alpha: float = 0.5) -> None:
    """p_i = p_(i-1) + e at p_(i-1); f_i = base step from f_(i-1), grad L(p_i); w + alpha (f - w)"""
    run.loss = run.mean_loss([(run.w, batch)])
    p, f = run.w, run.w
    for _ in range(k):
        p = moved(p, run.perturbation(run.problem.gradient(p, batch), at=p))
        f = run.base.step(f, run.problem.gradient(p, batch), run.lr)
    run.w = {name: w + alpha * (f[name] - w) for name, w in run.w.items()}


def sampa(run: Run, batch: Batch, lambda_: float = 0.2) -> None:
    """e from q; y = w - lr q; q' = grad L(y); u = (1 - lambda) grad L(w + e) on B' + lambda q'"""
    zeros = {k: np.zeros_like(w) for k, w in run.w.items()}
    q, before = run.memory.get("q", zeros), run.memory.get("batch", batch)
    perturbed = run.problem.gradient(moved(run.w, run.perturbation(q)), before)
    y = moved(run.w, q, -run.lr)
    ahead = run.problem.gradient(y, batch)
    run.memory.update(q=ahead, batch=batch)
    run.loss = run.mean_loss([(y, batch)])
    run.descend({k: (1 - lambda_) * perturbed[k] + lambda_ * ahead[k] for k in ahead})


def fsam(run: Run, batch: Batch, sigma: float = 1.0, decay: float = 0.9) -> None:
    """a = g - sigma c, then c = decay c + (1 - decay) g; in the first step a = c = g"""
    c: Arrays | None = run.memory.get("c")

    def direction(g: Arrays, chunk: Batch) -> Arrays:
        return g if c is None else {k: g[k] - sigma * c[k] for k in g}

    g, g_p = ascend(run, batch, direction)
    run.memory["c"] = g if c is None else {k: decay * c[k] + (1 - decay) * g[k] for k in g}
    run.descend(g_p)


def vasso(run: Run, batch: Batch, theta: float = 0.9) -> None:
    """a = (1 - theta) a + theta g; in the first step a = g"""
    old: Arrays | None = run.memory.get("a")
    found: list[Arrays] = []

    def direction(g: Arrays, chunk: Batch) -> Arrays:
        found.append(g if old is None else {k: (1 - theta) * old[k] + theta * g[k] for k in g})
        return found[-1]

    _, g_p = ascend(run, batch, direction)
    run.memory["a"] = mean(found)
    run.descend(g_p)


def wsam(run: Run, batch: Batch, gamma: float = 0.9) -> None:
    """Base step with u = g, then w = w - lr gamma / (1 - gamma) (g_p - g)"""
    g, g_p = ascend(run, batch)
    run.descend(g)
    step = run.lr * gamma / (1 - gamma)
    run.w = {k: w - step * (g_p[k] - g[k]) for k, w in run.w.items()}


def stable_sam(run: Run, batch: Batch) -> None:
    """u = n(g) / n(g_p) g_p"""
    g, g_p = ascend(run, batch)
    run.descend({k: quotient(length(g), length(g_p)) * g_p[k] for k in g})


def ae_sam(
    run: Run, batch: Batch, delta: float = 0.9, lambda_1: float = -1.0, lambda_2: float = 1.0
) -> None:
    """u = g_p if n(g)^2 >= mu + c sqrt(s), else g; mu and s: running mean and variance of n(g)^2"""
    size = length(run.problem.gradient(run.w, batch)) ** 2
    mu = delta * run.memory.get("mu", 0.0) + (1 - delta) * size
    s = delta * run.memory.get("s", 0.0) + (1 - delta) * (size - mu) ** 2
    run.memory.update(mu=mu, s=s)
    p = run.epoch / run.epochs
    c = p * lambda_1 + (1 - p) * lambda_2
    if size >= mu + c * math.sqrt(s):
        run.descend(ascend(run, batch)[1])
    else:
        run.descend(plain(run, batch))


def ire(
    run: Run,
    batch: Batch,
    rank: float = 0.2,
    mu: float = 2.0,
    refresh: int = 10,
    ire_start: int = 0,
) -> None:
    """sam, then w = w + mu M dw; M: g^2 not above the floor(rank N)-th largest"""
    g, g_p = ascend(run, batch)
    if run.step % refresh == 0:
        squares = flat(g) ** 2
        place = math.floor(rank * squares.size)
        limit = np.sort(squares)[-place] if place else np.inf
        run.memory["flat"] = unflat((squares <= limit).astype(float), run.w)
    before = run.w
    run.descend(g_p)
    if run.epoch >= ire_start:
        mask = run.memory["flat"]
        run.w = {k: w + mu * mask[k] * (w - before[k]) for k, w in run.w.items()}


def flat(arrays: Arrays) -> Array:
    """All elements in one row, in the order of the model."""
    return np.concatenate([v.ravel() for v in arrays.values()])


def unflat(row: Array, like: Arrays) -> Arrays:
    """The row cut into arrays again."""
    ends = np.cumsum([v.size for v in like.values()])[:-1]
    parts = np.split(row, ends)
    return {k: part.reshape(v.shape) for (k, v), part in zip(like.items(), parts, strict=True)}


def largest(row: Array, count: int) -> Array:
    """1 at the `count` largest elements, 0 elsewhere; of equal ones the first."""
    mask = np.zeros(row.size)
    mask[np.argsort(-row, kind="stable")[:count]] = 1
    return mask


# What a variant does, and the options that it presets.
VARIANTS: dict[str, tuple[Callable[..., None], dict[str, object]]] = {
    "none": (none, {}),
    "sam": (sam, {}),
    "asam": (sam, {"geometry": "elementwise"}),
    "asam_linf": (sam, {"geometry": "elementwise_linf"}),
    "asam_layer": (sam, {"geometry": "layer"}),
    "asam_filter": (sam, {"geometry": "filter"}),
    "fisher_sam": (sam, {"geometry": "fisher"}),
    "gsam": (gsam, {"rho_schedule": "lr", "rho_end": 0.167}),
    "looksam": (looksam, {}),
    "esam": (esam, {}),
    "ssam_f": (ssam_f, {}),
    "ssam_d": (ssam_d, {}),
    "lookbehind": (lookbehind, {}),
    "sampa": (sampa, {}),
    "msam": (sam, {"ascent": "momentum"}),
    "fsam": (fsam, {}),
    "vasso": (vasso, {}),
    "wsam": (wsam, {}),
    "stable_sam": (stable_sam, {}),
    "ae_sam": (ae_sam, {}),
    "ire": (ire, {}),
}
