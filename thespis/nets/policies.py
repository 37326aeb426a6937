"""A distribution over actions of any kind of space, from one network."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, tanh

from thespis.core import Box, MultiDiscrete, Params, Spec
from thespis.nets.blocks import orthogonal
from thespis.nets.functions import Build, Net, own
from thespis.ops import normal_log_prob

Dist = tuple[Tensor, ...]
"""(mean (B, A), log std (B, A)) of a Gaussian; or the log-probabilities of each choice, (B, n) each"""


class Policy(NamedTuple):
    """A Gaussian for a Box, its spread the same in every state and not squashed; independent choices for the discrete spaces."""

    init: Callable[[], Params]
    apply: Callable[[Params, Tensor], Dist]
    """(parameters, obs (B, obs)) -> the distribution in each state"""
    sample: Callable[[Dist], Tensor]
    """-> actions (B, ...)"""
    mode: Callable[[Dist], Tensor]
    """-> the likeliest actions (B, ...)"""
    log_prob: Callable[[Dist, Tensor], Tensor]
    """(distribution, actions (B, ...)) -> (B,)"""
    entropy: Callable[[Dist], Tensor]
    """-> (B,), of a Gaussian the differential one"""
    kl: Callable[[Dist, Dist], Tensor]
    """(p, q) -> KL(p || q), (B,)"""


def outputs(spec: Spec) -> int:
    """How many numbers the network gives for a state: a mean for each dimension, or a logit for each choice."""
    kind = spec.action
    return kind.dim if isinstance(kind, Box) else sum(kind.ns) if isinstance(kind, MultiDiscrete) else kind.n


def policy(spec: Spec, net: Net, log_std: float = 0.0) -> Policy:
    """`net`: obs -> outputs(spec). Where actions are a Box, a parameter "log_std" beside the network's starts at `log_std`."""
    return _gaussian(spec.action.dim, net, log_std) if isinstance(spec.action, Box) else _choices(spec, net)


def actor_critic(
    spec: Spec, hidden: Sequence[int], actor: Build | None = None, critic: Build | None = None
) -> tuple[Policy, Net]:
    """A policy, and a network obs -> value (B,): tanh and orthogonal, as on-policy codes start them, or the user's modules."""
    obs, out = spec.obs.dim, outputs(spec)
    pi = policy(spec, own(actor, spec, obs, out) or orthogonal((obs, *hidden, out), tanh, 0.01))
    net = own(critic, spec, obs, 1) or orthogonal((obs, *hidden, 1), tanh, 1.0)
    return pi, Net(net.init, lambda p, x: net.apply(p, x)[..., 0])


def bounded(spec: Spec, net: Net, log_std: tuple[float, float] = (-5.0, 2.0), squash: bool = True) -> Policy:
    """As `policy`, for actions of a Box that are given rather than drawn: the mean goes through a tanh where `squash`, the spread
    stays within e^log_std, and what is drawn, and the likeliest, within [-1, 1]."""
    if not isinstance(spec.action, Box):
        return policy(spec, net)
    plain = _gaussian(spec.action.dim, net, 0.0)

    def apply(p: Params, obs: Tensor) -> Dist:
        mean, spread = plain.apply(p, obs)
        return tanh(mean) if squash else mean, spread.clamp(*log_std)

    return plain._replace(apply=apply, sample=lambda d: plain.sample(d).clamp(-1, 1), mode=lambda d: d[0].clamp(-1, 1))


def _gaussian(dim: int, net: Net, log_std: float) -> Policy:
    def init() -> Params:
        return {**net.init(), "log_std": torch.full((dim,), log_std)}

    def apply(p: Params, obs: Tensor) -> Dist:
        mean = net.apply({k: x for k, x in p.items() if k != "log_std"}, obs)
        return mean, p["log_std"].expand_as(mean)

    def log_prob(d: Dist, action: Tensor) -> Tensor:
        mean, log_std = d
        return normal_log_prob(mean, log_std, action)

    def entropy(d: Dist) -> Tensor:
        return (d[1] + 0.5 * math.log(2 * math.pi * math.e)).sum(-1)

    def kl(p: Dist, q: Dist) -> Tensor:
        ratio = (2 * (p[1] - q[1])).exp()
        return (0.5 * (ratio + (p[0] - q[0]).square() * (-2 * q[1]).exp() - 1) + q[1] - p[1]).sum(-1)

    return Policy(init, apply, lambda d: d[0] + d[1].exp() * torch.randn_like(d[0]), lambda d: d[0], log_prob, entropy, kl)


def _choices(spec: Spec, net: Net) -> Policy:
    several = isinstance(spec.action, MultiDiscrete)
    ns = spec.action.ns if isinstance(spec.action, MultiDiscrete) else (outputs(spec),)

    def apply(p: Params, obs: Tensor) -> Dist:
        return tuple(part.log_softmax(-1) for part in net.apply(p, obs).split(ns, -1))

    def pick(columns: list[Tensor]) -> Tensor:
        return torch.stack(columns, -1) if several else columns[0]

    def sample(d: Dist) -> Tensor:  # the largest of logits plus Gumbel noise is a sample of the softmax
        return pick([(logp - torch.empty_like(logp).exponential_().log()).argmax(-1) for logp in d])

    def log_prob(d: Dist, action: Tensor) -> Tensor:
        each = action.unbind(-1) if several else (action,)
        return torch.stack([logp.gather(-1, a[..., None])[..., 0] for logp, a in zip(d, each, strict=True)]).sum(0)

    def entropy(d: Dist) -> Tensor:
        return -torch.stack([(logp.exp() * logp).sum(-1) for logp in d]).sum(0)

    def kl(p: Dist, q: Dist) -> Tensor:
        return torch.stack([(a.exp() * (a - b)).sum(-1) for a, b in zip(p, q, strict=True)]).sum(0)

    return Policy(net.init, apply, sample, lambda d: pick([logp.argmax(-1) for logp in d]), log_prob, entropy, kl)
