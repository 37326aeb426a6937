"""Distributions over actions against torch.distributions, enumeration and counts."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import distributions as peer

from thespis import nets
from thespis.core import Box, Discrete, MultiDiscrete, Spec
from thespis.nets import outputs, policy

F64 = torch.float64


def made(action, log_std=0.0):
    spec = Spec(Box(3), action)
    return policy(spec, nets.mlp((3, 5, outputs(spec))), log_std)


def dists(pi, count=2):
    """Two distributions in each of six states."""
    obs = torch.randn(6, 3, dtype=F64)
    out = []
    for _ in range(count):
        p = {k: x.double() + 0.3 * torch.randn(x.shape, dtype=F64) for k, x in pi.init().items()}
        out.append(pi.apply(p, obs))
    return out


def test_one_output_a_mean_or_a_choice():
    assert [outputs(Spec(Box(3), a)) for a in (Box(2), Discrete(4), MultiDiscrete((2, 3)))] == [2, 4, 5]


def test_a_gaussian_is_torchs():
    pi = made(Box(2))
    p, q = dists(pi)
    ours, theirs = peer.Independent(peer.Normal(p[0], p[1].exp()), 1), peer.Independent(peer.Normal(q[0], q[1].exp()), 1)
    action = torch.randn(6, 2, dtype=F64)
    torch.testing.assert_close(pi.log_prob(p, action), ours.log_prob(action))
    torch.testing.assert_close(pi.entropy(p), ours.entropy())
    torch.testing.assert_close(pi.kl(p, q), peer.kl_divergence(ours, theirs))
    assert pi.mode(p).equal(p[0])
    torch.manual_seed(3)
    sample = pi.sample(p)
    torch.manual_seed(3)
    torch.testing.assert_close(sample, p[0] + p[1].exp() * torch.randn_like(p[0]))


def test_the_spread_starts_where_it_is_said_to_and_is_the_same_in_every_state():
    pi = made(Box(2), -0.5)
    mean, log_std = pi.apply(pi.init(), torch.randn(4, 3))
    assert mean.shape == log_std.shape == (4, 2)
    assert (log_std == -0.5).all()


@pytest.mark.parametrize("action", [Discrete(4), MultiDiscrete((2, 3))])
def test_choices_by_enumeration(action):
    pi = made(action)
    p, q = dists(pi)
    ns = action.ns if isinstance(action, MultiDiscrete) else (action.n,)
    every = [
        torch.tensor(a if len(ns) > 1 else a[0]).expand(6, *([len(ns)] if len(ns) > 1 else []))
        for a in itertools.product(*map(range, ns))
    ]
    logp, logq = (torch.stack([pi.log_prob(d, a) for a in every]) for d in (p, q))
    torch.testing.assert_close(logp.exp().sum(0), torch.ones(6, dtype=F64))
    torch.testing.assert_close(pi.entropy(p), -(logp.exp() * logp).sum(0))
    torch.testing.assert_close(pi.kl(p, q), (logp.exp() * (logp - logq)).sum(0))
    torch.testing.assert_close(pi.log_prob(p, pi.mode(p)), logp.amax(0))
    for i, n in enumerate(ns):  # each by torch's own
        theirs = peer.Categorical(logits=p[i])
        torch.testing.assert_close(p[i], theirs.logits)
        assert p[i].shape == (6, n)


@pytest.mark.parametrize("action", [Discrete(3), MultiDiscrete((2, 3))])
def test_choices_are_drawn_as_often_as_they_are_likely(action):
    pi = made(action)
    (p,) = dists(pi, 1)
    wide = tuple(x[:1].expand(40_000, -1) for x in p)
    torch.manual_seed(0)
    drawn = pi.sample(wide).reshape(40_000, -1).numpy()
    for i, logp in enumerate(p):
        often = np.bincount(drawn[:, i], minlength=logp.shape[-1]) / len(drawn)
        np.testing.assert_allclose(often, logp[0].exp().numpy(), atol=5 * math.sqrt(0.25 / len(drawn)))
