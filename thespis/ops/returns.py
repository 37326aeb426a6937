"""Targets made of rewards and values, and what becomes of the critics' errors."""

from torch import Tensor

from thespis.core import Batch, Metrics


def backup(reward: Tensor, discount: Tensor, value: Tensor) -> Tensor:
    """The one-step (or n-step) target r + discount * V(s'), all (B,). No gradient flows through it."""
    return (reward + discount * value).detach()


def squared(error: Tensor, b: Batch) -> tuple[Tensor, Metrics]:
    """error (..., B) squared. Where rows are drawn by priority: times their weights; and {"errors": its mean size (B,)}."""
    if "weight" not in b.extra:
        return error.square(), {}
    return error.square() * b.extra["weight"], {"errors": error.abs().reshape(-1, error.shape[-1]).mean(0)}
