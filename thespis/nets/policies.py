"""A distribution over actions of any kind of space, from one network: a product of independent parts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, tanh

from thespis import ops
from thespis.core import Params, Spec
from thespis.nets.blocks import orthogonal
from thespis.nets.functions import Build, Net, custom

Dist = tuple[Tensor, ...]
"""(mean (B, dim), log std (B, dim)) of a Gaussian, where actions have a vector; then the log-probabilities of each choice,
(B, n) each. Between B and the last there may be more axes."""


class Policy(NamedTuple):
    """Independent parts: a Gaussian for the vector, its spread the same in every state and not squashed; a softmax a choice.

    A choice that the observation's action mask forbids has the probability 0.
    """

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
    """How many numbers the network gives for a state: a mean for each number of the vector, then a logit for each choice."""
    dim, ns = ops.sizes(spec.action)
    return dim + sum(ns)


def policy(spec: Spec, net: Net, log_std: float = 0.0) -> Policy:
    """`net`: obs -> outputs(spec). For a vector there is a parameter "log_std" beside the network's; it starts at `log_std`."""
    dim, ns = ops.sizes(spec.action)
    first = 2 if dim else 0  # where the choices begin in a Dist

    def init() -> Params:
        return {**net.init(), "log_std": torch.full((dim,), log_std)} if dim else net.init()

    def apply(p: Params, obs: Tensor) -> Dist:
        out, mask = net.apply({k: x for k, x in p.items() if k != "log_std"}, obs), ops.allowed(spec, obs)
        if mask is not None and out.dim() > obs.dim():
            mask = mask.unsqueeze(-2)
        mean, logits = out[..., :dim], ops.masked(out[..., dim:], mask) if ns else out[..., dim:]
        choices = tuple(part.log_softmax(-1) for part in logits.split(ns, -1)) if ns else ()
        return (mean, p["log_std"].expand_as(mean), *choices) if dim else choices

    def sample(d: Dist) -> Tensor:
        vector = d[0] + d[1].exp() * torch.randn_like(d[0]) if dim else None
        noisy = [logp - torch.empty_like(logp).exponential_().log() for logp in d[first:]]  # the largest of logits plus
        return ops.joined(spec.action, vector, [x.argmax(-1) for x in noisy])  # Gumbel noise is a sample of the softmax

    def mode(d: Dist) -> Tensor:
        return ops.joined(spec.action, d[0] if dim else None, [logp.argmax(-1) for logp in d[first:]])

    def log_prob(d: Dist, action: Tensor) -> Tensor:
        vector, choices = ops.parts(spec.action, action)
        each = [logp.gather(-1, a.expand(logp.shape[:-1])[..., None])[..., 0] for logp, a in zip(d[first:], choices, strict=True)]
        if dim:
            each.append(ops.normal_log_prob(d[0], d[1], vector))
        return _total(each)

    def entropy(d: Dist) -> Tensor:
        each = [-(logp.exp() * logp).sum(-1) for logp in d[first:]]
        return _total([*each, (d[1] + 0.5 * math.log(2 * math.pi * math.e)).sum(-1)] if dim else each)

    def kl(p: Dist, q: Dist) -> Tensor:
        each = [(a.exp() * (a - b)).sum(-1) for a, b in zip(p[first:], q[first:], strict=True)]
        if dim:
            ratio = (2 * (p[1] - q[1])).exp()
            each.append((0.5 * (ratio + (p[0] - q[0]).square() * (-2 * q[1]).exp() - 1) + q[1] - p[1]).sum(-1))
        return _total(each)

    return Policy(init, apply, sample, mode, log_prob, entropy, kl)


def _total(each: list[Tensor]) -> Tensor:
    return each[0] if len(each) == 1 else torch.stack(each).sum(0)


def actor_critic(
    spec: Spec, hidden: Sequence[int], actor: Build | None = None, critic: Build | None = None
) -> tuple[Policy, Net]:
    """A policy, and a network obs -> value (B,): tanh and orthogonal, as on-policy codes start them, or the user's modules."""
    obs, out = spec.obs.dim, outputs(spec)
    pi = policy(spec, custom(actor, spec, obs, out) or orthogonal((obs, *hidden, out), tanh, 0.01))
    net = custom(critic, spec, obs, 1) or orthogonal((obs, *hidden, 1), tanh, 1.0)
    return pi, Net(net.init, lambda p, x: net.apply(p, x)[..., 0])


def bounded(spec: Spec, net: Net, log_std: tuple[float, float] = (-5.0, 2.0), squash: bool = True) -> Policy:
    """As `policy`, for vectors that are given rather than drawn: the mean goes through a tanh where `squash`, the spread
    stays within e^log_std, and what is drawn, and the likeliest, within [-1, 1]."""
    plain = policy(spec, net)
    if not ops.sizes(spec.action)[0]:
        return plain

    def apply(p: Params, obs: Tensor) -> Dist:
        mean, spread, *choices = plain.apply(p, obs)
        return (tanh(mean) if squash else mean, spread.clamp(*log_std), *choices)

    def within(action: Tensor) -> Tensor:
        vector, choices = ops.parts(spec.action, action)
        return ops.joined(spec.action, vector.clamp(-1, 1), choices)

    return plain._replace(apply=apply, sample=lambda d: within(plain.sample(d)), mode=lambda d: within(plain.mode(d)))
