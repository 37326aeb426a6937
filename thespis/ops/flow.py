"""Flows from noise to samples, in a straight line from t = 0 to t = 1 (Lipman et al. 2023, arXiv:2210.02747; Liu et al. 2023)."""

from collections.abc import Callable

import torch
from torch import Tensor


def noised(x1: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """For each sample x1 (B, D), with fresh noise x0 and a fresh time t: x_t = (1 - t) x0 + t x1 (B, D), t (B, 1), and the
    velocity x1 - x0 (B, D) of that line."""
    x0, t = torch.randn_like(x1), torch.rand_like(x1[..., :1])
    return torch.lerp(x0, x1, t), t, x1 - x0


def integrate(velocity: Callable[[Tensor, Tensor], Tensor], x: Tensor, steps: int) -> Tensor:
    """Where noise x (B, D) at t = 0 is at t = 1: so many Euler steps along `velocity`, (x (B, D), t (B, 1)) -> (B, D)."""
    for i in range(steps):
        x = x + velocity(x, torch.full_like(x[..., :1], i / steps)) / steps
    return x
