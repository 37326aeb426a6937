"""Targets made of rewards and values."""

from torch import Tensor


def backup(reward: Tensor, discount: Tensor, value: Tensor) -> Tensor:
    """The one-step (or n-step) target r + discount * V(s'), all (B,). No gradient flows through it."""
    return (reward + discount * value).detach()
