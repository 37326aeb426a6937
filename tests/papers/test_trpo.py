"""TRPO's step against an explicit Fisher matrix; the natural gradient as its limit; its bound, counted; a probe of learning."""

from __future__ import annotations

import math
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import Tensor

import thespis
from thespis.algos.onpolicy import ppo, trpo
from thespis.core import Batch, Box, Discrete, Learner, MultiDiscrete, Params, Spec, replace

from . import reference as ref
from .reference import ACTION, BATCH, F64, OBS, SPEC, Weights, density, spread_kl, tanh_net


def learner(spec: Spec = SPEC, **numbers: Any) -> Learner:
    return trpo.make(trpo.Config(**{"hidden": (2,), "normalise_obs": False, **numbers}), spec)


def state(made: Learner, size: float = 1.0) -> trpo.State:
    """With a policy that is not near the start's."""
    s = ref.aged(made.init())
    return replace(s, actor={k: x + size * torch.randn_like(x) for k, x in s.actor.items()})


def prepared(made: Learner, s: trpo.State, b: Batch) -> tuple[trpo.State, Batch, dict[str, Tensor]]:
    assert made.prepare
    return made.prepare(s, b)


def standard(b: Batch) -> np.ndarray:
    a = b.extra["advantage"].numpy()
    return (a - a.mean()) / (a.std() + 1e-8)


def surrogate(w: Weights, b: Batch) -> float:
    old = b.extra["logp"].numpy()
    ratios = [math.exp(density(w, o, a) - p) for o, a, p in zip(b.obs.numpy(), b.action.numpy(), old, strict=True)]
    return -float(np.mean(ratios * standard(b)))


def flat(p: Params | Weights) -> np.ndarray:
    return np.concatenate([np.asarray(x).ravel() for x in p.values()])


def named(like: Params, theta: np.ndarray) -> Params:
    parts = torch.as_tensor(theta).split([x.numel() for x in like.values()])
    return {k: part.view_as(x) for (k, x), part in zip(like.items(), parts, strict=True)}


def fisher(p: Params, obs: Tensor) -> np.ndarray:
    """E[score score^T] of a Gaussian: J^T diag(1 / sigma^2) J for the means' Jacobian J, and 2 for each log sigma."""
    w = ref.weights(p)
    total = np.zeros((len(flat(w)),) * 2)
    for o in obs.numpy():
        jacobian = []
        for i in range(ACTION):
            jacobian.append(flat(ref.slopes(lambda i=i, o=o: float(tanh_net(w, o)[i]), w)))  # type: ignore[misc]
        j = np.stack(jacobian)
        total += j.T @ np.diag(np.exp(-2 * w["log_std"])) @ j / len(obs)
    spread = np.concatenate([np.full(x.numel(), 2.0 * (k == "log_std")) for k, x in p.items()])
    return total + np.diag(spread)


def test_the_surrogate_and_its_gradient_are_those_by_hand_and_at_the_old_policy_ppos() -> None:
    made = learner()
    s = state(made)
    _, b, _ = prepared(made, s, ref.rollout())
    p = {k: x + 0.1 * torch.randn_like(x) for k, x in s.actor.items()}
    w = ref.weights(p)
    assert float(made.losses["actor"](p, b)[0]) == pytest.approx(surrogate(w, b), rel=1e-9)
    ref.assert_slopes(ref.weights(ref.gradient(made.losses["actor"], p, b)), w, lambda: surrogate(w, b))
    peer = ppo.make(ppo.Config(hidden=(2,)), SPEC)
    ref.assert_same(ref.gradient(made.losses["actor"], s.actor, b), ref.gradient(peer.losses["actor"], s.actor, b))


@pytest.mark.parametrize("damping", [0.1, 0.01])
@pytest.mark.parametrize("iterations", [1, 60])
def test_the_step_is_that_by_hand(damping: float, iterations: int) -> None:
    """With the Fisher matrix written out: solved, or its first step of descent; then as long as max_kl allows, or half, ..."""
    made = learner(damping=damping, cg_iterations=iterations)
    s = state(made, 0.4)
    after, b, told = prepared(made, s, ref.rollout())
    w = ref.weights(s.actor)
    g = flat(ref.slopes(lambda: surrogate(w, b), w))
    f = fisher(s.actor, b.obs) + damping * np.eye(len(g))
    direction = -np.linalg.solve(f, g) if iterations > 1 else -g * (g @ g) / (g @ f @ g)
    step = direction * math.sqrt(2 * 0.01 / (direction @ f @ direction))
    for i in range(10):
        near = named(s.actor, flat(w) + 0.5**i * step)
        kl = float(np.mean([spread_kl(w, ref.weights(near), o) for o in b.obs.numpy()]))
        if kl <= 0.01 and surrogate(ref.weights(near), b) < surrogate(w, b):
            break
    ref.assert_same(after.actor, near, rtol=1e-4, atol=1e-6)
    assert float(told["kl"]) == pytest.approx(kl, rel=1e-4)
    assert float(told["gain"]) == pytest.approx(surrogate(w, b) - surrogate(ref.weights(near), b), rel=1e-3)
    assert told["accepted"] == 1


def bandit(made: Learner) -> tuple[trpo.State, Batch]:
    """One state, many draws of a linear policy: obs is 0, so the mean is the bias; the value is 0, the advantage a reward."""
    s = ref.aged(made.init())
    actor = {
        "w0": s.actor["w0"], "b0": torch.tensor([0.3, -0.2], dtype=F64), "log_std": torch.tensor([0.4, -0.6], dtype=F64)
    }  # fmt: skip
    critic = replace(s.critic, params={k: torch.zeros_like(x) for k, x in s.critic.params.items()})
    action = actor["b0"] + actor["log_std"].exp() * torch.randn(200, ACTION, dtype=F64)
    reward = -(action - torch.tensor([1.0, 0.5], dtype=F64)).square().sum(-1)
    return replace(s, actor=actor, critic=critic), ref.rewarded(reward, torch.zeros(200, OBS, dtype=F64), action)


def test_as_max_kl_vanishes_it_is_the_natural_gradient_of_a_gaussian_in_closed_form() -> None:
    """mean(A (a - mu)) for the mean, mean(A (noise^2 - 1)) / 2 for the log of the spread; 2 max_kl is its squared length in F."""
    made = learner(hidden=(), damping=1e-4, max_kl=1e-10)  # the damping keeps the longest step just within the region
    s, b = bandit(made)
    after, rows, told = prepared(made, s, b)
    sigma = s.actor["log_std"].exp().numpy()
    noise = (rows.action.numpy() - s.actor["b0"].numpy()) / sigma
    mean = (standard(rows)[:, None] * noise * sigma).mean(0)
    spread = (standard(rows)[:, None] * (noise**2 - 1)).mean(0) / 2
    size = math.sqrt(2e-10 / ((mean / sigma) ** 2 + 2 * spread**2).sum())
    np.testing.assert_allclose(after.actor["b0"] - s.actor["b0"], size * mean, rtol=1e-3)
    np.testing.assert_allclose(after.actor["log_std"] - s.actor["log_std"], size * spread, rtol=1e-3)
    assert after.actor["w0"].equal(s.actor["w0"])
    assert float(told["kl"]) == pytest.approx(1e-10, rel=1e-3)


@pytest.mark.parametrize("max_kl", [0.01, 1.0])
def test_no_step_of_many_leaves_the_region_and_each_gains(max_kl: float) -> None:
    """In a wide region the quadratic model errs, so that the line search is what keeps the bound."""
    made, rash = (learner(max_kl=max_kl, damping=1e-3, halvings=n) for n in (10, 1))
    over = worse = stayed = missed = 0
    for _ in range(25):
        s = state(made, 0.6)
        after, b, told = prepared(made, s, ref.rollout())
        w, w2 = ref.weights(s.actor), ref.weights(after.actor)
        kl = float(np.mean([spread_kl(w, w2, o) for o in b.obs.numpy()]))
        assert float(told["kl"]) == pytest.approx(kl, rel=1e-6, abs=1e-12)
        over += kl > max_kl * (1 + 1e-9)
        worse += surrogate(w2, b) > surrogate(w, b)
        stayed += bool(told["accepted"] == 0)
        again = ref.rewarded(b.extra["target"], b.obs, b.action)
        unhalved, _, told = prepared(rash, s, again)
        assert bool(told["accepted"] == 0) == (not ref.moved(s, unhalved))
        missed += bool(told["accepted"] == 0)
    assert (over, worse) == (0, 0)
    assert stayed <= 2, "almost all find a step"
    assert missed > 3, "and many do not at full length"


def test_where_nothing_is_to_be_gained_the_policy_stays() -> None:
    made = learner(hidden=())
    s, b = bandit(made)
    after, _, told = prepared(made, s, replace(b, reward=torch.ones_like(b.reward)))
    ref.assert_same(after.actor, s.actor, 0, 0)
    assert (float(told["kl"]), float(told["accepted"])) == (0, 0)
    assert all(x.isfinite() for x in told.values())


def test_the_values_loss_is_that_by_hand_and_only_they_move_in_an_update() -> None:
    made = learner(normalise_obs=True)
    s = state(made)
    ready, b, _ = prepared(made, s, ref.rollout())
    assert ref.moved(s, ready) == {"actor", "seen"}
    w = ref.weights(s.critic.params)

    def by_hand() -> float:
        return float(np.mean([0.5 * (tanh_net(w, o)[0] - y) ** 2 for o, y in zip(b.obs.numpy(), b.extra["target"], strict=True)]))

    assert float(made.losses["critic"](s.critic.params, b)[0]) == pytest.approx(by_hand(), rel=1e-9)
    grads = ref.gradient(made.losses["critic"], s.critic.params, b)
    ref.assert_slopes(ref.weights(grads), w, by_hand)
    after, _ = made.update(ready, b, 0)
    assert ref.moved(ready, after) == {"critic"}
    ref.assert_same(after.critic, ref.adam(s.critic, grads, 1e-3))


@pytest.mark.parametrize("action", [Discrete(4), MultiDiscrete((2, 3))])
def test_choices_too_stay_within_the_region(action: Any) -> None:
    made = learner(Spec(Box(OBS), action))
    s = state(made)
    did = torch.randint(2, (BATCH,) if isinstance(action, Discrete) else (BATCH, 2))
    after, b, told = prepared(made, s, ref.rollout(did))
    ns, kl = [action.n] if isinstance(action, Discrete) else list(action.ns), 0.0
    for o in b.obs.numpy():
        for x, y in zip(
            *(np.split(tanh_net(ref.weights(p), o), np.cumsum(ns)[:-1]) for p in (s.actor, after.actor)), strict=True
        ):
            p, q = np.exp(x) / np.exp(x).sum(), np.exp(y) / np.exp(y).sum()
            kl += float((p * np.log(p / q)).sum()) / BATCH
    assert 0 < kl <= 0.01
    assert float(told["kl"]) == pytest.approx(kl)
    assert made.act(made.policy(after), b.obs, True).shape == did.shape


def test_defaults_are_those_of_paper_and_code() -> None:
    ref.assert_defaults(
        trpo, max_kl=0.01, damping=0.1, cg_iterations=10, halvings=10, lr=1e-3, hidden=(32, 32), rollout=1024, epochs=5, lam=0.98,
        batch_size=64, gamma=0.99,
    )  # fmt: skip


@pytest.mark.parametrize("discrete", [False, True])
def test_it_finds_the_best_action_for_each_observation(tmp_path: Any, discrete: bool) -> None:
    """-4 (a - s/2)^2 for s = -1 or 1: the known answer is s/2, or the choice of that sign."""
    name = "thespis/ActionObservation-v0"
    env = (lambda: gym.make(name, discrete=True)) if discrete else name
    result = thespis.train(
        "trpo", env=env, out=tmp_path / "run", steps=10_000, num_envs=4, rollout=50, hidden=(8,), max_kl=0.05, lr=3e-3,
        eval_every=10_000, eval_episodes=2, log_every=5_000, compile_after=-1, sinks=(), panel=False, normalise_obs=False,
    )  # fmt: skip
    policy = thespis.load(result)
    for s in (-1, 1):
        act = policy.act(np.array([s], np.float32))
        assert act == (s > 0) if discrete else float(act[0]) == pytest.approx(s / 2, abs=0.12)
