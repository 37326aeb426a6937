"""Distributions over actions against torch.distributions, enumeration and counts."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import distributions as peer

from thespis import nets, ops
from thespis.core import Box, Discrete, Mixed, MultiDiscrete, Spec
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


# --------------------------------------------------------------------------------------------------- products, and masks


def test_a_mixed_action_is_a_gaussian_and_choices_that_are_independent():
    """Against torch's own parts: log-probabilities, entropies and divergences are sums."""
    pi = made(Mixed(2, (2, 3)))
    p, q = dists(pi)
    assert [x.shape[-1] for x in p] == [2, 2, 2, 3]

    def theirs(d):
        return [peer.Independent(peer.Normal(d[0], d[1].exp()), 1), peer.Categorical(logits=d[2]), peer.Categorical(logits=d[3])]

    vector, choices = torch.randn(6, 2, dtype=F64), [torch.tensor([0, 1, 0, 1, 1, 0]), torch.tensor([2, 0, 1, 1, 2, 0])]
    action = ops.joined(Mixed(2, (2, 3)), vector, choices)
    assert action.shape == (6, 4)
    parts = [x.log_prob(a) for x, a in zip(theirs(p), [vector, *choices], strict=True)]
    torch.testing.assert_close(pi.log_prob(p, action), sum(parts))
    torch.testing.assert_close(pi.entropy(p), sum(x.entropy() for x in theirs(p)))
    torch.testing.assert_close(pi.kl(p, q), sum(peer.kl_divergence(a, b) for a, b in zip(theirs(p), theirs(q), strict=True)))
    mode = pi.mode(p)
    assert mode[:, :2].equal(p[0])
    assert mode[:, 2:].equal(torch.stack([p[2].argmax(-1), p[3].argmax(-1)], -1).double())


def test_mixed_actions_are_drawn_as_often_as_they_are_likely():
    pi = made(Mixed(1, (3,)), log_std=-1.0)
    (p,) = dists(pi, 1)
    wide = tuple(x[:1].expand(40_000, -1) for x in p)
    torch.manual_seed(0)
    drawn = pi.sample(wide)
    often = np.bincount(drawn[:, 1].long(), minlength=3) / len(drawn)
    np.testing.assert_allclose(often, p[2][0].exp().numpy(), atol=5 * math.sqrt(0.25 / len(drawn)))
    assert float(drawn[:, 0].mean()) == pytest.approx(float(p[0][0, 0]), abs=5 * float(p[1][0, 0].exp()) / 200)
    assert float(drawn[:, 0].std()) == pytest.approx(float(p[1][0, 0].exp()), rel=0.03)


MASK = torch.tensor([[1, 0, 1, 1, 1], [0, 1, 1, 0, 0], [1, 1, 0, 1, 0], [1, 1, 1, 1, 1]], dtype=F64)


@pytest.mark.parametrize("action", [MultiDiscrete((2, 3)), Mixed(2, (2, 3))])
def test_what_a_mask_forbids_is_as_if_it_were_not_there(action):
    """Probabilities, entropy, divergence and gradients are those of the softmax over the allowed logits alone."""
    spec = Spec(Box(3 + 5), action, mask=5)
    pi = policy(spec, nets.mlp((8, 5, outputs(spec))))
    obs = torch.cat([torch.randn(4, 3, dtype=F64), MASK], -1)
    p1, p2 = ({k: x.double() + 0.3 * torch.randn(x.shape, dtype=F64) for k, x in pi.init().items()} for _ in range(2))
    p, q = pi.apply(p1, obs), pi.apply(p2, obs)
    dim = ops.sizes(action)[0]
    plain = policy(spec._replace(mask=0), nets.mlp((8, 5, outputs(spec))))
    for i in range(4):
        entropy, kl = 0.0, 0.0
        for d, first, n in ((0, 0, 2), (1, 2, 3)):
            free = MASK[i, first : first + n].bool()
            logits = [plain.apply(w, obs[i : i + 1])[2 * (dim > 0) + d][0][free].log_softmax(-1) for w in (p1, p2)]
            ours = [x[2 * (dim > 0) + d][i] for x in (p, q)]
            for x, wanted in zip(ours, logits, strict=True):
                torch.testing.assert_close(x[free], wanted)
                assert not x[~free].exp().any()
            entropy -= float((logits[0].exp() * logits[0]).sum())
            kl += float((logits[0].exp() * (logits[0] - logits[1])).sum())
        if not dim:
            assert float(pi.entropy(p)[i]) == pytest.approx(entropy)
            assert float(pi.kl(p, q)[i]) == pytest.approx(kl)
    slopes = torch.func.grad(lambda w: (pi.entropy(pi.apply(w, obs)) + pi.kl(pi.apply(w, obs), q)).sum())(p1)
    assert all(bool(x.isfinite().all()) for x in slopes.values())
    torch.manual_seed(0)
    for _ in range(500):
        choices = ops.parts(action, pi.sample(p))[1]
        for part, mask in zip(choices, MASK.split((2, 3), -1), strict=True):
            assert mask.gather(-1, part[:, None]).all()


def test_observations_are_whitened_and_their_masks_are_not():
    x = torch.tensor([[3.0, -1.0, 1.0, 0.0], [5.0, 1.0, 0.0, 1.0]])
    past = {"count": torch.tensor(0.0), "mean": torch.zeros(2), "var": torch.ones(2)}
    seen = ops.moments(past, x)
    assert seen["mean"].tolist() == [4, 0]
    torch.testing.assert_close(ops.whitened(x, seen), torch.tensor([[-1.0, -1, 1, 0], [1, 1, 0, 1]]))
    torch.testing.assert_close(ops.normalised(x, ops.mean_and_std(x[:, :2], 0)), torch.tensor([[-1.0, -1, 1, 0], [1, 1, 0, 1]]))


@pytest.mark.parametrize("kind", [Box(2), Discrete(4), MultiDiscrete((2, 3)), Mixed(2, (2, 3))])
def test_parts_of_an_action_are_joined_again(kind):
    dim, ns = ops.sizes(kind)
    vector, choices = torch.randn(5, dim), [torch.randint(n, (5,)) for n in ns]
    action = ops.joined(kind, vector, choices)
    again = ops.parts(kind, action)
    assert again[0].equal(vector) if dim else again[0].shape == (5, 0)
    assert all(a.equal(b) for a, b in zip(again[1], choices, strict=True))
    shown = ops.features(kind, action)
    assert shown.shape == (5, dim + sum(ns))
    for row, *taken in zip(shown, *choices, strict=True):
        hot = [float(k == c) for c, n in zip(taken, ns, strict=True) for k in range(n)]
        assert row[dim:].tolist() == hot
