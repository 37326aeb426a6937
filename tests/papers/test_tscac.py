"""TSCAC: its closed form on three actions against a search over all policies, its losses against numpy in float64."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch

from thespis.algos.constrained import tscac
from thespis.core import Batch, Box, Discrete, Fault, Learner, Spec, replace

from . import reference as ref
from .reference import BATCH, F64, OBS, members, net, weights

REWARDS = ("watch", "like", "comment", "hate")
SPEC = Spec(Box(OBS), Discrete(3), REWARDS)


def learner(**numbers: Any) -> Learner:
    return tscac.make(tscac.Config(**{"hidden": (12, 10), **numbers}), SPEC)


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max())
    return np.asarray(e / e.sum())


@pytest.fixture
def batch() -> Batch:
    b, action = ref.batch(), torch.arange(BATCH) % 3
    reward, discount = torch.randn(BATCH, 4, dtype=F64), b.discount[:, None] * torch.tensor([1.0, 0.9, 0.8, 0.7])
    return replace(b, action=action, reward=reward, discount=discount)


def state(made: Learner) -> tscac.State:
    s: tscac.State = ref.aged(made.init())
    return replace(s, scale={"reward": torch.tensor([2.0, 0.5, 0.25, 4.0], dtype=F64)[: len(s.scale["reward"])]})


def test_critics_each_follow_their_own_policy(batch: Batch) -> None:
    made = learner(auxiliaries=("like", "hate"))
    s, total = state(made), 0.0
    policies = [weights(s.actor.params), *members(s.auxiliary.params)]
    for n, (column, pi) in enumerate(zip((0, 1, 3), policies, strict=True)):
        for obs, action, reward, discount, next_obs in ref.rows(batch):
            ahead = softmax(net(pi, next_obs)) @ net(weights(s.target, n), next_obs)
            target = reward[column] / float(s.scale["reward"][n]) + discount[column] * ahead
            total += (net(weights(s.critic.params, n), obs)[action] - target) ** 2
    assert float(made.losses["critic"](s.critic.params, s, batch)[0]) == pytest.approx(total / BATCH, rel=1e-10)


def test_stage_1_is_the_gain_less_the_divergence_from_who_acted(batch: Batch) -> None:
    made = learner(anchor=0.7)
    s = state(made)
    w, total, cloned = members(s.auxiliary.params), 0.0, weights(s.behaviour.params)
    for n, obs in itertools.product(range(3), batch.obs.numpy()):
        pi, near = softmax(net(w[n], obs)), softmax(net(cloned, obs))
        total += 0.7 * (pi * np.log(pi / near)).sum() - pi @ net(weights(s.critic.params, n + 1), obs)
    assert float(made.losses["auxiliary"](s.auxiliary.params, s, batch)[0]) == pytest.approx(total / BATCH, rel=1e-9)


def stage_2(made: Learner, s: tscac.State, obs: np.ndarray) -> np.ndarray:
    """The policy that stage 2 wants: the loss's slope in the logits is what the actor has less that."""
    row = torch.tensor(obs)[None]
    b = Batch(row, torch.zeros(1, dtype=torch.int64), torch.zeros(1, 4), torch.zeros(1, 4), row)
    slope = ref.gradient(made.losses["actor"], s.actor.params, s, b)
    last = max(k for k in slope if k.startswith("b"))  # the bias of the last layer
    return np.asarray(softmax(net(weights(s.actor.params), obs)) - slope[last].numpy())


def test_stage_2_is_the_best_policy_within_its_divergences() -> None:
    """On three actions: of a grid over all policies none earns more without being further from an auxiliary policy, and
    none has a higher Lagrangian. Watch's critic and two auxiliary policies are as they came."""
    torch.manual_seed(3)
    made = learner(auxiliaries=("like", "comment"), temperature=0.4)
    s = state(made)
    grid = np.array([(i, j, 100 - i - j) for i in range(1, 99) for j in range(1, 100 - i)]) / 100
    for obs in np.random.default_rng(0).normal(size=(3, OBS)):
        best, gain = stage_2(made, s, obs), net(weights(s.critic.params, 0), obs)
        near = [softmax(net(w, obs)) for w in members(s.auxiliary.params)]
        product = np.prod(near, 0) ** 0.5 * np.exp(gain / 0.4)
        np.testing.assert_allclose(best, product / product.sum(), rtol=1e-9)

        def apart(pi: np.ndarray, near: list[np.ndarray] = near) -> np.ndarray:  # (..., 2)
            return np.stack([(pi * np.log(pi / q)).sum(-1) for q in near], -1)

        lagrangian = grid @ gain - 0.2 * apart(grid).sum(-1)
        assert best @ gain - 0.2 * apart(best).sum() >= lagrangian.max() - 1e-12
        assert lagrangian.max() > best @ gain - 0.2 * apart(best).sum() - 5e-3  # the grid comes near it
        within = (apart(grid) <= apart(best)).all(-1)
        assert (grid[within] @ gain).max(initial=-np.inf) <= best @ gain + 1e-12


def test_an_update_steps_critics_then_stage_1_then_stage_2(batch: Batch) -> None:
    made = learner(lr=0.01, critic_lr=0.02, tau=0.1)
    s = state(made)
    after, _ = made.update(s, batch, 0)
    critic, _ = ref.step(s.critic, made.losses["critic"], 0.02, s, batch)
    behaviour, _ = ref.step(s.behaviour, made.losses["behaviour"], 0.01, s, batch)
    s = replace(s, critic=critic, behaviour=behaviour, target=ref.mixed(s.target, critic.params, 0.1))
    auxiliary, _ = ref.step(s.auxiliary, made.losses["auxiliary"], 0.01, s, batch)
    s = replace(s, auxiliary=auxiliary)
    actor, _ = ref.step(s.actor, made.losses["actor"], 0.01, s, batch)
    ref.assert_same(after, replace(s, actor=actor))


def test_signature_of_two_that_are_watched_alike_it_takes_the_one_that_is_liked() -> None:
    """One state, watch 1, 1 and 0.2, likes 0.1, 0.5 and 0.9: nearly all goes to the second."""
    torch.manual_seed(0)
    made = tscac.make(tscac.Config(hidden=(), lr=0.05, critic_lr=0.1, gamma=0.0), Spec(Box(1), Discrete(3), ("watch", "like")))
    action, one = torch.arange(12) % 3, torch.ones(12, 1)
    reward = torch.tensor([[1.0, 0.1], [1.0, 0.5], [0.2, 0.9]])[action]
    data = Batch(one, action, reward, torch.zeros(12, 2), one)
    s = made.given(made.init(), data)
    for _ in range(200):
        s, _ = made.update(s, data, 0)
    critic = net(weights(s.critic.params, 0), np.ones(1))
    np.testing.assert_allclose(critic, np.array([1, 1, 0.2]) / (2.2 / 3), atol=1e-2)
    pi = softmax(net(weights(s.actor.params), np.ones(1)))
    assert pi[1] > 0.75
    assert pi[2] < 0.05


def test_what_it_refuses() -> None:
    with pytest.raises(Fault, match="tscac: discrete actions are needed"):
        tscac.make(tscac.Config(), Spec(Box(OBS), Box(2), REWARDS))
    with pytest.raises(Fault, match="tscac: several rewards are needed"):
        tscac.make(tscac.Config(), Spec(Box(OBS), Discrete(3)))
    with pytest.raises(Fault, match="'lik' is no reward of the environment; allowed: watch, like"):
        tscac.make(tscac.Config(auxiliaries=("lik",)), SPEC)
