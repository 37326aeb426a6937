"""Differential privacy of noised sums: what a step spends, what steps come to, and the gradients that a step needs.

A dataset's neighbour has one example more or one less. Each step takes each example by chance `rate`, alone of the others
(Poisson sampling), clips its gradient and adds normal noise of `sigma` times the sensitivity to the sum.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

__all__ = ["ORDERS", "clipped_sum", "epsilon", "multiplier", "per_example", "renyi"]

ORDERS = (*(1 + i / 10 for i in range(1, 100)), *map(float, range(11, 64)), 128.0, 256.0)
"""orders of Renyi divergences; at the best of them the bound is the tightest"""
POINTS = 4096


def renyi(sigma: Tensor, rate: Tensor, orders: Sequence[float] = ORDERS) -> Tensor:
    """What a step spends at each order, (...) and (...) -> (..., orders) in float64: what several steps spend is their sum.

    The Renyi divergence of the sampled Gaussian mechanism (Mironov, Talwar, Zhang 2019, arXiv:1908.10530, section 3), by the
    trapezoidal rule, so that any order above 1 will do. Exact to 1e-9 where order / sigma is at most 1,500.
    """
    sigma, rate = (torch.as_tensor(x, dtype=torch.float64)[..., None, None] for x in (sigma, rate))
    a = torch.tensor(orders, dtype=torch.float64)[:, None]
    width = (a + 24 * sigma) / (POINTS - 1)
    x = width * torch.arange(POINTS, dtype=torch.float64) - 12 * sigma
    ratio = torch.logaddexp((1 - rate).log(), rate.log() + (2 * x - 1) / (2 * sigma**2))
    area = (a * ratio - x**2 / (2 * sigma**2)).logsumexp(-1, keepdim=True) + (width / sigma).log() - math.log(2 * math.pi) / 2
    return (area / (a - 1))[..., 0].clamp(min=0)


def epsilon(spent: Tensor, delta: float, orders: Sequence[float] = ORDERS) -> Tensor:
    """(..., orders) -> (...): the epsilon at `delta` of what was spent, at the best order (Canonne, Kamath, Steinke 2020,
    arXiv:2004.00010, proposition 12)."""
    a = torch.tensor(orders, dtype=torch.float64)
    return (spent + (-1 / a).log1p() - (delta * a).log() / (a - 1)).amin(-1).clamp(min=0)


def multiplier(target: float, delta: float, rate: float, steps: int, orders: Sequence[float] = ORDERS) -> Tensor:
    """The least noise multiplier, from 0.3 to 100, by which `steps` equal steps spend `target` at `delta` and no more: ()."""
    low, high = torch.tensor(0.3, dtype=torch.float64), torch.tensor(100.0, dtype=torch.float64)
    for _ in range(30):
        middle = (low * high).sqrt()
        enough = epsilon(steps * renyi(middle, torch.tensor(rate), orders), delta, orders) <= target
        low, high = torch.where(enough, low, middle), torch.where(enough, middle, high)
    return high


def per_example(loss: Callable[..., Tensor], params: dict[str, Tensor], *rows: Tensor) -> dict[str, Tensor]:
    """loss(params, *row) -> () of one example; its gradient for each example of `rows` (B, ...): (B, ...) of each parameter."""
    n = len(rows[0])
    copies = {k: p.detach().expand(n, *p.shape).requires_grad_() for k, p in params.items()}  # one each, of the same memory
    return dict(zip(copies, torch.autograd.grad(torch.func.vmap(loss)(copies, *rows).sum(), list(copies.values())), strict=True))


def clipped_sum(gradients: Sequence[Tensor], thresholds: Tensor, sigma: Tensor, noise: Sequence[Tensor]) -> list[Tensor]:
    """The noised sums of L blocks of gradients, (B, d_l) each -> (d_l) each.

    Each example's block is clipped to its own threshold, (L,). One example moves the L sums, each over its threshold, by sqrt(L)
    at most: so block l gets sigma sqrt(L) thresholds[l] times `noise` (d_l), standard normal, and `sigma` () is the multiplier
    of all of them together. Per-layer clipping: McMahan et al. 2018, arXiv:1710.06963.
    """
    size = sigma * math.sqrt(len(gradients))
    return [
        ((bound / g.norm(dim=1).clamp(min=1e-12)).clamp(max=1) @ g) + size * bound * z
        for g, bound, z in zip(gradients, thresholds, noise, strict=True)
    ]
