"""Distributions as bins of value (Bellemare et al. 2017) or as quantiles (Dabney et al. 2018); noise held for random times."""

import torch
from torch import Tensor


def support(probs: Tensor, low: float, high: float) -> Tensor:
    """The values (n,) that the n bins of probs (..., n) stand for: evenly spaced, both ends among them."""
    return torch.linspace(low, high, probs.shape[-1], dtype=probs.dtype, device=probs.device)


def expectation(probs: Tensor, low: float, high: float) -> Tensor:
    """The mean (...) of probs (..., n) over [low, high]."""
    return probs @ support(probs, low, high)


def project(probs: Tensor, atoms: Tensor, low: float, high: float) -> Tensor:
    """Mass probs at atoms, both (..., n), as n evenly spaced bins over [low, high]: (..., n).

    An atom is clipped to the range and shared between the bins on its two sides, the nearer getting more: the mean stays.
    """
    last = probs.shape[-1] - 1
    at = ((atoms - low) * (last / (high - low))).clamp(0, last)
    left = at.floor().clamp(max=last - 1)
    right = probs * (at - left)
    index = left.long()
    return torch.zeros_like(probs).scatter_add(-1, index, probs - right).scatter_add(-1, index + 1, right)


def quantile_huber(quantiles: Tensor, samples: Tensor) -> Tensor:
    """The quantile regression loss (Dabney et al. 2018, eqs. 9, 10, bound 1), its mean over all pairs: a scalar.

    quantiles (..., B, n) stand for the levels (i + 1/2) / n; samples (B, m) are what each row's are fitted to.
    """
    n = quantiles.shape[-1]
    level = ((torch.arange(n, dtype=quantiles.dtype, device=quantiles.device) + 0.5) / n)[:, None]
    error = samples[:, None, :] - quantiles[..., None]  # (..., B, n, m)
    size = error.abs()
    huber = torch.where(size > 1, size - 0.5, 0.5 * error.square())
    return (torch.where(error < 0, 1 - level, level) * huber).mean()


def zeta(like: Tensor, exponent: float, longest: int) -> Tensor:
    """Whole numbers in 1 .. longest, shaped as `like`, each k with probability proportional to k^-exponent."""
    mass = torch.arange(1, longest + 1, device=like.device) ** -float(exponent)
    below = (mass.cumsum(0) / mass.sum())[:-1]  # P(at most k) for all but the longest
    return 1 + (torch.rand(*like.shape, 1, device=like.device) >= below).sum(-1)


def repeated_noise(memory: dict[str, Tensor], exponent: float, longest: int) -> dict[str, Tensor]:
    """The memory {"noise": (N, A), "left": (N,)} a step on: normal noise, drawn anew where no step of it is left.

    How many steps it is held for is drawn with it, by `zeta`.
    """
    over = memory["left"] == 0
    noise = torch.where(over[:, None], torch.randn_like(memory["noise"]), memory["noise"])
    return {"noise": noise, "left": torch.where(over, zeta(over, exponent, longest), memory["left"]) - 1}
