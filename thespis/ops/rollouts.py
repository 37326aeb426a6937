"""What on-policy learners make of a rollout."""

import torch
from torch import Tensor

from thespis.core import Batch, Metrics, Params, replace, tree_map
from thespis.ops.advantage import gae
from thespis.ops.scale import moments


def whitened(x: Tensor, seen: Params, bound: float = 10.0) -> Tensor:
    """x (..., D) by the mean and spread of all that were `seen` (see `moments`), within `bound`; 0 where none was. What x has
    beyond their D numbers, an action mask, stays as it is."""
    dim = seen["mean"].shape[-1]
    y = ((x[..., :dim] - seen["mean"]) / (seen["var"] + 1e-8).sqrt()).clamp(-bound, bound)
    y = torch.where(seen["count"] < 1, 0.0, y)
    return y if dim == x.shape[-1] else torch.cat([y, x[..., dim:]], -1)


def first_moments(seen: Params, x: Tensor) -> Params:
    """`seen`, or where nothing was, the moments of x (..., D): a first rollout is normalised by its own."""
    own = moments(seen, x)
    return {k: torch.where(seen["count"] < 1, own[k], seen[k]) for k in own}


def with_advantages(rollout: Batch, value: Tensor, next_value: Tensor, decay: float) -> tuple[Batch, Metrics]:
    """The rows (T * N, ...) of a rollout (T, N, ...), with columns "advantage", "value", and "target", which is their sum.

    value and next_value (T, N) are what obs and next_obs were thought to be worth; the rest is as in `gae`. Where the rollout has
    a column "return_std", rewards are divided by it and brought within 10. Tells how much of the target's variance was foreseen.
    """
    reward = rollout.reward
    if "return_std" in rollout.extra:
        reward = (reward / (rollout.extra["return_std"].square() + 1e-8).sqrt()).clamp(-10, 10)
    advantage = gae(reward, rollout.discount, value, next_value, rollout.extra["ended"], decay)
    columns = {"advantage": advantage, "value": value, "target": advantage + value}
    explained = 1 - advantage.var(correction=0) / (columns["target"].var(correction=0) + 1e-8)
    return tree_map(lambda x: x.flatten(0, 1), replace(rollout, reward=reward, extra=columns)), {"explained": explained}
