"""Tokens, groups and turns: weights that make a loss a sum, the clipped gain, k3, statistics of groups, lambda over turns."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor


def per_token(mask: Tensor) -> Tensor:
    """(R, T) weights that make a sum the mean over all written tokens."""
    return mask / mask.sum().clamp(min=1)


def per_sequence(mask: Tensor) -> Tensor:
    """(R, T) weights that make a sum the mean over rows of the mean over a row's written tokens; rows of none do not count."""
    count = mask.sum(-1, keepdim=True)
    return mask / count.clamp(min=1) / (count > 0).sum().clamp(min=1)


def per_constant(mask: Tensor, length: int = 1) -> Tensor:
    """(R, T) weights that make a sum the mean over rows of the sum over a row's written tokens, divided by `length`."""
    return mask / (length * max(len(mask), 1))


def clipped(logp: Tensor, old: Tensor, advantage: Tensor, low: float, high: float) -> tuple[Tensor, Tensor]:
    """PPO's gain of every token, min(ratio A, clip(ratio, 1 - low, 1 + high) A), and where the clip holds (bool).

    Source: arXiv:1707.06347, eq. 7; with two bounds arXiv:2503.14476, eq. 10. All arguments and results (R, T).
    """
    ratio = (logp - old).exp()
    free, bound = ratio * advantage, ratio.clamp(1 - low, 1 + high) * advantage
    return torch.minimum(free, bound), bound < free


def k3(logp: Tensor, reference: Tensor) -> Tensor:
    """KL(policy, reference) of every token by one sample of the policy: r - log r - 1 with r = reference / policy; never below 0.

    Source: arXiv:2402.03300, eq. 4.
    """
    log_ratio = reference - logp
    return log_ratio.exp() - log_ratio - 1


def by_group(x: Tensor, group: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (by n, not n - 1) over those of the same group, at the place of each: (N,), (N,)."""
    mean = _sums(x, group)[group] / _sums(torch.ones_like(x), group)[group]
    square = _sums((x - mean).square(), group) / _sums(torch.ones_like(x), group).clamp(min=1)
    return mean, square.sqrt()[group]


def of_others(x: Tensor, group: Tensor) -> Tensor:
    """The mean over the others of the same group, at the place of each (N,); 0 where there are none.

    Source: arXiv:2402.14740, eq. 8.
    """
    count = _sums(torch.ones_like(x), group)[group]
    return (_sums(x, group)[group] - x) / (count - 1).clamp(min=1)


def _sums(x: Tensor, group: Tensor) -> Tensor:
    return torch.zeros(int(group.max()) + 1 if len(group) else 0, dtype=x.dtype).index_add(0, group, x)


def over_turn(x: Tensor, turn: Tensor, how: Literal["sum", "amax"] = "sum") -> Tensor:
    """At each sampled token the sum, or the largest, of x over the tokens of its turn; 0 elsewhere.

    x (R, T); `turn` (R, T) numbers the turns of a row from 0 on, and is -1 where nothing was sampled.
    """
    index = turn.long() + 1
    size = int(index.max()) + 1 if index.numel() else 1
    found = x.new_zeros(len(x), size).scatter_reduce(1, index, x, how, include_self=False)
    return torch.where(index > 0, found.gather(1, index), 0)


def lambda_advantage(reward: Tensor, discount: Tensor, ended: Tensor, value: Tensor, lam: float) -> Tensor:
    """Generalised advantages (N,) over turns, an episode's one after the other.

    `value` (N,) is of the state before each turn. A turn that ended its episode is followed by nothing: where it was cut off
    (discount above 0) its own value stands for what would have followed, as nothing else is known of it.
    Source: arXiv:1506.02438, eq. 16.
    """
    after = torch.where(ended, value, torch.cat([value[1:], value[-1:]]))
    delta, out = reward + discount * after - value, torch.zeros_like(value)
    ahead = torch.zeros((), dtype=value.dtype)
    for i in reversed(range(len(value))):
        ahead = delta[i] + torch.where(ended[i], torch.zeros_like(ahead), discount[i] * lam * ahead)
        out[i] = ahead
    return out
