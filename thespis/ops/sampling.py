"""How likely each of many rows is to be among the few that are asked about, and draws by chances."""

from __future__ import annotations

import torch
from torch import Tensor

LEAST = 1e-9


def robust_chances(gain: Tensor, free: Tensor, budget: int, wrong: Tensor) -> Tensor:
    """The chances pi (n,) of rows to be asked, where an adversary chooses which `wrong` answers are wrong: those that maximise

        min over eta in {-1, 1}^n with `wrong` entries -1 of sum_i pi_i gain_i eta_i, with 0 <= pi <= 1, sum_i pi_i <= budget.

    gain (n,) within (0, 1]; free (n,): 1 where a row may be asked, else 0, and then its chance is 0; wrong: () and may be a
    fraction. Where no chances are worth more than 0, and where all that is free fits into the budget, the even ones.

    By the dual of the adversary's sum, pi_i gain_i = min(gain_i, t) on the rows of largest gain. For one question and no bound
    at 1 that is pi_i = (1 / gain_i) / H_k on the first k, H_k = sum_{i <= k} 1 / gain_i, of value (k - 2 wrong) / H_k, the
    largest over k (RAD, arXiv:2210.01213); without wrong answers it is the `budget` rows of largest gain.
    """
    many = free.sum()
    gain, order = torch.where(free > 0, gain.clamp(min=LEAST), LEAST / 2).sort(descending=True, stable=True)
    place = torch.arange(len(gain), device=gain.device)
    held = place < many
    inverse, total = (torch.cat([x[:1] * 0, x.cumsum(0)]) for x in (1 / gain, gain))  # H_k and G_k, k = 0 .. n
    asks = many.clamp(max=budget)
    # Where the first j rows are below 1 and those after them at it, a row is worth its place while gain > (j - 2 wrong) / H_j.
    count = place + 1
    kept = torch.searchsorted(-gain, -(count - 2 * wrong) / inverse[1:])
    after = torch.cat([gain[1:], gain[:1] * 0])
    bounds = [((asks - (k - count).clamp(min=0)) / inverse[1:]).maximum(after).minimum(gain) for k in (kept, many)]
    levels = torch.cat([asks / inverse[1:], *bounds, gain])
    value = _worth(levels, gain, inverse, total, asks, many) - 2 * wrong * levels
    value = torch.where(held.repeat(4), value, -torch.inf)
    worth, best = value.max(0)
    chance = _chances(levels.gather(0, best[None]), gain, inverse, asks)
    even = torch.where(held, asks / many.clamp(min=1), 0.0)
    chance = torch.where((worth > 0) & (many > budget) & held, chance, even)
    return torch.zeros_like(gain).scatter(0, order, chance)


def _chances(level: Tensor, gain: Tensor, inverse: Tensor, asks: Tensor) -> Tensor:
    """Of sorted rows, each at most level / gain and 1, in order until the budget is spent."""
    most = (level / gain).clamp(max=1)
    return torch.minimum(most, (asks - (most.cumsum(0) - most)).clamp(min=0))


def _worth(levels: Tensor, gain: Tensor, inverse: Tensor, total: Tensor, asks: Tensor, many: Tensor) -> Tensor:
    """sum_i pi_i gain_i of these chances at each of many levels."""
    last = len(gain) - 1
    below = torch.searchsorted(-gain, -levels)  # rows whose gain is above the level: they stay below 1
    spent = levels * inverse[below]
    # the budget ends among them
    k = torch.searchsorted(inverse, asks / levels, right=True) - 1
    early = levels * k + (asks - levels * inverse[k]) * gain[k.clamp(max=last)]
    # or after them
    more = (asks - spent).clamp(min=0).minimum(many - below)
    stop = (below + more.floor().long()).clamp(max=last + 1)
    late = levels * below + total[stop] - total[below] + (more - more.floor()) * gain[stop.clamp(max=last)]
    return torch.where(spent >= asks, early, late)


def systematic(chance: Tensor) -> Tensor:
    """A draw without replacement (Madow 1949): each row with its own chance, (n,) of 0 and 1; their number is the sum of the
    chances, rounded up or down."""
    order = torch.rand_like(chance).argsort()
    ends = chance[order].cumsum(0) + torch.rand_like(chance[:1])
    drawn = torch.cat([ends[:1].floor(), ends[1:].floor() - ends[:-1].floor()])
    return torch.zeros_like(chance).scatter(0, order, drawn.clamp(max=1))


def choice(chances: Tensor, n: int) -> Tensor:
    """n places (n,), drawn by chances (K,), with replacement; the first where all are 0."""
    total = chances.cumsum(0)
    point = torch.rand(n, device=chances.device, dtype=chances.dtype) * total[-1]
    return (total <= point[:, None]).sum(-1).clamp(max=len(chances) - 1) * (total[-1] > 0)
