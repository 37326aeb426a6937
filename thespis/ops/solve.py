"""Linear systems of which only products are known."""

from collections.abc import Callable

import torch
from torch import Tensor


def conjugate_gradient(product: Callable[[Tensor], Tensor], b: Tensor, iterations: int) -> Tensor:
    """x (D,) such that product(x) is b, or near it (Hestenes & Stiefel 1952).

    product: (D,) -> (D,) is linear, symmetric and positive definite. D iterations are exact but for rounding; those after the
    residual is gone change nothing.
    """
    x, residual, direction, squared = torch.zeros_like(b), b, b, b @ b
    for _ in range(iterations):
        ahead = product(direction)
        size = _ratio(squared, direction @ ahead)
        x, residual = x + size * direction, residual - size * ahead
        before, squared = squared, residual @ residual
        direction = residual + _ratio(squared, before) * direction
    return x


def _ratio(x: Tensor, y: Tensor) -> Tensor:
    return torch.where(y > 0, x / y, 0.0)
