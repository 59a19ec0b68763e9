"""Which gradient the base optimizer gets: one function for each kind of step, docs/variants.md.

An update takes a step and returns its outcome. `.grad` holds the gradient at the perturbed point;
what a variant makes of it is `Outcome.finish`, called with gradients averaged and unscaled.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from operator import itemgetter
from typing import TypeAlias

import torch
from torch import Tensor

from trainables.sam.both import aligned, both_passes, dot, inverse, spread
from trainables.sam.dynamic import drop_and_grow
from trainables.sam.geometry import Tensors, global_norm
from trainables.sam.passes import Slice, each
from trainables.sam.step import Memory, Outcome, Pairs, Step, over

Update: TypeAlias = Callable[[Step], Outcome]


def base(step: Step) -> Outcome:
    """u = g: a step of the base optimizer."""
    losses = []
    for chunk in step.each_chunk():
        share = step.share(chunk)
        losses.append(step.descend(chunk, share) * share)
    loss = torch.stack(losses).sum()
    return Outcome(loss, loss.new_zeros(()))


def perturbed(step: Step) -> Outcome:
    """u = g_p (Foret et al., arXiv 2010.01412, equation 3)."""
    return both_passes(step)[0]


def gsam(step: Step) -> Outcome:
    """u = g_p - alpha (g - <g, g_p> g_p / ||g_p||^2) (Zhuang et al., arXiv 2203.08065)."""
    outcome, g = both_passes(step, full=True)

    def finish(pairs: Pairs) -> Memory:
        clean, gp = aligned(step, g, pairs), [p for _, p in pairs]
        along = dot(clean, gp) * inverse(dot(gp, gp))
        alpha = step.options["alpha"]
        torch._foreach_mul_(gp, 1 + alpha * along)
        torch._foreach_sub_(gp, clean, alpha=alpha)
        return {}

    outcome.finish = finish
    return outcome


def looksam(step: Step) -> Outcome:
    """Every k-th step as SAM, keeping what of g_p is orthogonal to g; the others
    u = g + alpha ||g|| / ||g_v|| g_v (Liu et al., arXiv 2203.02714, algorithm 1)."""
    if step.number % step.options["k"] == 0:
        outcome, g = both_passes(step, full=True)

        def keep(pairs: Pairs) -> Memory:
            clean, gp = aligned(step, g, pairs), [p for _, p in pairs]
            along = dot(clean, gp) * inverse(dot(clean, clean))
            return step.known(
                "orthogonal",
                spread(step, pairs, torch._foreach_sub(gp, torch._foreach_mul(clean, along))),
            )

        outcome.finish = keep
        return outcome
    outcome = base(step)

    def reuse(pairs: Pairs) -> Memory:
        gradients = [g for _, g in pairs]
        kept = aligned(step, step.remembered("orthogonal", step.parts.learning)[0], pairs)
        length = global_norm(gradients) * inverse(global_norm(kept)) * step.options["alpha"]
        torch._foreach_add_(gradients, torch._foreach_mul(kept, length))
        return {}

    outcome.finish = reuse
    return outcome


def esam(step: Step) -> Outcome:
    """Random tensors are perturbed, and only the samples whose loss rose most are descended on
    (Du et al., arXiv 2110.03141, algorithm 1)."""
    beta, gamma = step.options["beta"], step.options["gamma"]
    before: list[Tensor] = []
    loss, g = step.gradient(step.slices, step.targets, keep=before)
    if any(losses.ndim == 0 for losses in before):
        raise ValueError("variant 'esam' needs one loss a sample; loss_fn returned their mean")
    drawn = torch.rand(len(step.targets), generator=step.parts.generator).tolist()
    kept = [x if u < beta else torch.zeros_like(x) for x, u in zip(g, drawn, strict=True)]
    shift, _ = step.perturbation(kept)
    torch._foreach_div_(shift, beta)
    parts: list[Slice] = []
    with step.moved(shift):
        for (part, count), old, new in zip(
            step.slices, before, step.look(step.slices), strict=True
        ):
            size = max(1, math.floor(gamma * count))
            # Stable, because a step may perturb no tensor at all, and then no loss rises.
            most = (new - old).sort(descending=True, stable=True).indices[:size]
            parts.append((each(part, itemgetter(most)), size))
        perturbed_loss = step.descend(parts)
    return Outcome(loss, global_norm(shift), perturbed_loss)


def ssam_d(step: Step) -> Outcome:
    """SAM on a mask that changes after the first step of some epochs (Mi et al., arXiv 2210.05177,
    algorithm 2); that of ssam_f changes between epochs only."""
    outcome = perturbed(step)
    if step.memory["refresh_due"]:
        assert outcome.ascent is not None
        assert step.epoch is not None
        epoch, epochs = step.epoch
        rate = step.options["drop_rate"] * (1 + math.cos(math.pi * epoch / epochs)) / 2
        masks = [t.mask for t in step.targets if t.mask is not None]
        outcome.memory["mask"] = drop_and_grow(
            masks, outcome.ascent, step.memory["size"], rate, step.parts.generator
        )
        outcome.memory["refresh_due"] = False
    return outcome


def lookbehind(step: Step) -> Outcome:
    """k ascent steps on the batch, each followed by a base step of the fast weights, then a part
    of the way there (Mordido et al., arXiv 2307.16704, algorithm 1)."""
    count, alpha = step.options["k"], step.options["alpha"]
    learning = step.parts.learning
    weights: list[Tensor] = [t.parameter for t in learning]
    loss, g = step.gradient(step.slices, learning)
    norms, descents = [], []
    total: Tensors = [torch.zeros_like(t.parameter) for t in step.targets]
    for _ in range(count):
        # The direction is that at the point reached so far, and so are the scales of the geometry.
        with step.moved(total):
            shift, norm = step.perturbation(over(g, learning, step.moving))
        total = torch._foreach_add(total, shift)
        norms.append(norm)
        with step.moved(total):
            perturbed_loss, g = step.gradient(step.slices, learning)
        descents.append(g)
    with torch.no_grad():
        slow = torch._foreach_clone(weights)

    def after(skipped: Tensor) -> None:
        way = torch._foreach_mul(torch._foreach_sub(weights, slow), alpha)
        torch._foreach_copy_(weights, torch._foreach_add(slow, way))

    # A norm that is not finite says so for all.
    norm = global_norm(total) + torch.stack(norms).sum() * 0
    return Outcome(loss, norm, perturbed_loss, descents=descents, after=after)


def sampa(step: Step) -> Outcome:
    """Both gradients at points known beforehand (Xie et al., arXiv 2410.10683, algorithm 1)."""
    learning, weight = step.parts.learning, step.options["lambda_"]
    q, _ = step.remembered("auxiliary", learning)
    before: list[Slice] = step.memory.get("batch", step.slices)
    with step.moved_all([-t.group["lr"] for t in learning], q):
        loss, newest = step.gradient(step.slices, learning, which="first")
    shift, norm = step.perturbation(over(q, learning, step.moving))
    with step.moved(shift):
        perturbed_loss, g = step.gradient(before, learning, which="second")
    mixed = torch._foreach_add(
        torch._foreach_mul(g, 1 - weight), torch._foreach_mul(newest, weight)
    )
    memory = {**step.known("auxiliary", newest), "batch": step.slices}
    return Outcome(loss, norm, perturbed_loss, descents=[mixed], memory=memory)


def wsam(step: Step) -> Outcome:
    """A base step with g, then w - lr gamma / (1 - gamma) (g_p - g) (Yue et al., arXiv
    2305.15817, algorithm 2)."""
    outcome, g = both_passes(step, full=True)
    weight = step.options["gamma"] / (1 - step.options["gamma"])
    rates: dict[Tensor, float] = {t.parameter: t.group["lr"] for t in step.parts.learning}
    moves: Pairs = []

    def finish(pairs: Pairs) -> Memory:
        for (p, gp), clean in zip(pairs, aligned(step, g, pairs), strict=True):
            moves.append((p, (gp - clean).mul_(-rates[p] * weight)))
            gp.copy_(clean)
        return {}

    def after(skipped: Tensor) -> None:
        for p, move in moves:
            p.add_(torch.where(skipped > 0, 0.0, move))

    outcome.finish, outcome.after = finish, after
    return outcome


def stable_sam(step: Step) -> Outcome:
    """u = ||g|| / ||g_p|| g_p (Tan et al., arXiv 2401.07250, equation 4)."""
    outcome, g = both_passes(step, full=True)

    def finish(pairs: Pairs) -> Memory:
        gp = [p for _, p in pairs]
        torch._foreach_mul_(gp, global_norm(g) * inverse(global_norm(gp)))
        return {}

    outcome.finish = finish
    return outcome


def ae_sam(step: Step) -> Outcome:
    """SAM where ||g||^2 lies above its running mean by c standard deviations, else u = g (Jiang et
    al., arXiv 2304.14647, section 3). Reads that once from the device."""
    learning, delta = step.parts.learning, step.options["delta"]
    loss, g = step.gradient(step.slices, learning)
    square = global_norm(g).square()
    zero = torch.zeros_like(square)
    mean = delta * step.memory.get("mean", zero) + (1 - delta) * square
    spread = (square - mean).square()
    variance = delta * step.memory.get("variance", zero) + (1 - delta) * spread
    assert step.epoch is not None
    epoch, epochs = step.epoch
    progress = epoch / epochs
    threshold = progress * step.options["lambda_1"] + (1 - progress) * step.options["lambda_2"]
    memory = {"mean": mean, "variance": variance}
    if not bool(square >= mean + threshold * variance.sqrt()):
        step.hand_over(g)
        return Outcome(loss, square.new_zeros(()), memory=memory)
    shift, norm = step.perturbation(over(g, learning, step.moving))
    with step.moved(shift):
        perturbed_loss = step.descend(step.slices)
    ascent = over(g, learning, step.targets)
    return Outcome(loss, norm, perturbed_loss, ascent, memory=memory)


def ire(step: Step) -> Outcome:
    """After the base step, mu times its change again where g^2 is not among the largest (Wang et
    al., arXiv 2405.20763, algorithm 1)."""
    due = step.number % step.options["refresh"] == 0 or "flat" not in step.memory
    outcome, g = both_passes(step, full=due)
    start = step.options["ire_start"]
    if due:
        outcome.memory["flat"] = _flat(g, step.options["rank"])
    if start > 0 and step.epoch is not None and step.epoch[0] < start:
        return outcome
    weights: list[Tensor] = [t.parameter for t in step.parts.learning]
    flat = outcome.memory["flat"] if due else step.memory["flat"]
    with torch.no_grad():
        before = torch._foreach_clone(weights)

    def after(skipped: Tensor) -> None:
        changes = torch._foreach_sub(weights, before)
        longer = [torch.where(m, c, 0.0) for m, c in zip(flat, changes, strict=True)]
        torch._foreach_add_(weights, longer, alpha=step.options["mu"])

    outcome.after = after
    return outcome


UPDATES: Mapping[str, Update] = {
    "perturbed": perturbed,
    "gsam": gsam,
    "looksam": looksam,
    "esam": esam,
    "ssam_d": ssam_d,
    "lookbehind": lookbehind,
    "sampa": sampa,
    "wsam": wsam,
    "stable_sam": stable_sam,
    "ae_sam": ae_sam,
    "ire": ire,
}


def _flat(gradient: Tensors, rank: float) -> list[Tensor]:
    """Masks of the elements with a square not above the floor(rank N)-th largest."""
    squares = torch.cat([g.flatten() for g in gradient]).square()
    sharp = math.floor(rank * len(squares))
    if not sharp:
        return [torch.ones_like(g, dtype=torch.bool) for g in gradient]
    threshold = squares.topk(sharp).values[-1]
    return [g.square() <= threshold for g in gradient]
