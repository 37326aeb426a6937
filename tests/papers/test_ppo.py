"""PPO's losses row by row in float64; the policy gradient as its limit; clipping as its signature; a probe of learning."""

from __future__ import annotations

import math
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import Tensor

import thespis
from thespis.algos.onpolicy import ppo
from thespis.core import Batch, Box, Discrete, Learner, MultiDiscrete, Spec, replace

from . import reference as ref
from .reference import ACTION, BATCH, F64, OBS, SPEC, Weights, density, rollout, tanh_net


def learner(spec: Spec = SPEC, **numbers: Any) -> Learner:
    return ppo.make(ppo.Config(**{"hidden": (6,), **numbers}), spec)


def prepared(made: Learner, **columns: Tensor) -> tuple[ppo.State, Batch]:
    """A state in the middle of its work, and rows that an older policy prepared."""
    s = ref.aged(made.init())
    s = replace(
        s,
        seen={"count": torch.tensor(50, dtype=F64), "mean": torch.randn(OBS, dtype=F64), "var": torch.rand(OBS, dtype=F64) + 0.5},
    )
    s.actor.params["log_std"].copy_(0.3 * torch.randn(ACTION, dtype=F64))
    assert made.prepare
    b = made.prepare(s, rollout())[1]
    return s, replace(b, extra={**b.extra, "logp": b.extra["logp"] + 0.4 * torch.randn(BATCH, dtype=F64), **columns})


def actor_by_hand(w: Weights, b: Batch, clip: float = 0.2, weight: float = 0.01) -> float:
    a = b.extra["advantage"].numpy()
    a = (a - a.mean()) / (a.std() + 1e-8)
    gains = []
    for i in range(BATCH):
        ratio = math.exp(density(w, b.obs[i].numpy(), b.action[i].numpy()) - float(b.extra["logp"][i]))
        gains.append(min(ratio * a[i], min(max(ratio, 1 - clip), 1 + clip) * a[i]))
    entropy = float((w["log_std"] + 0.5 * np.log(2 * np.pi * np.e)).sum())
    return -float(np.mean(gains)) - weight * entropy


def test_the_actors_loss_and_gradient_are_those_by_hand() -> None:
    made = learner(entropy_weight=0.01)
    s, b = prepared(made)
    loss, told = made.losses["actor"](s.actor.params, b)
    w = ref.weights(s.actor.params)
    assert float(loss) == pytest.approx(actor_by_hand(w, b), rel=1e-9)
    assert 0 < float(told["clipped"]) < 1, "some rows are clipped, some are not"
    ref.assert_slopes(
        {k: g.numpy() for k, g in ref.gradient(made.losses["actor"], s.actor.params, b).items()}, w, lambda: actor_by_hand(w, b)
    )


def test_the_kl_it_tells_is_the_mean_of_an_estimator_that_is_never_negative() -> None:
    made = learner()
    s, b = prepared(made)
    log_ratio = (
        np.array([density(ref.weights(s.actor.params), b.obs[i].numpy(), b.action[i].numpy()) for i in range(BATCH)])
        - b.extra["logp"].numpy()
    )
    assert float(made.losses["actor"](s.actor.params, b)[1]["kl"]) == pytest.approx(np.mean(np.exp(log_ratio) - 1 - log_ratio))


@pytest.mark.parametrize("value_clip", [None, 0.1])
def test_the_critics_loss_and_gradient_are_those_by_hand(value_clip: float | None) -> None:
    made = learner(value_clip=value_clip)
    s, b = prepared(made, value=torch.randn(BATCH, dtype=F64), target=torch.randn(BATCH, dtype=F64))
    w = ref.weights(s.critic.params)

    def by_hand() -> float:
        errors = []
        for i in range(BATCH):
            v, old, target = float(tanh_net(w, b.obs[i].numpy())[0]), float(b.extra["value"][i]), float(b.extra["target"][i])
            error = (v - target) ** 2
            if value_clip is not None:
                error = max(error, (old + min(max(v - old, -value_clip), value_clip) - target) ** 2)
            errors.append(error)
        return 0.5 * float(np.mean(errors))

    assert float(made.losses["critic"](s.critic.params, b)[0]) == pytest.approx(by_hand(), rel=1e-9)
    ref.assert_slopes({k: g.numpy() for k, g in ref.gradient(made.losses["critic"], s.critic.params, b).items()}, w, by_hand)


def test_what_a_rollout_is_turned_into() -> None:
    made, roll = learner(), rollout()
    s = replace(
        ref.aged(made.init()),
        seen={"count": torch.tensor(8, dtype=F64), "mean": torch.ones(OBS, dtype=F64), "var": torch.full((OBS,), 4, dtype=F64)},
    )
    assert made.prepare
    after, b, told = made.prepare(s, roll)
    w, v = ref.weights(s.actor.params), ref.weights(s.critic.params)
    shown = (roll.obs.numpy() - 1) / math.sqrt(4 + 1e-8)
    value = np.array([[tanh_net(v, shown[t, n])[0] for n in range(2)] for t in range(4)])
    following = np.array(
        [[tanh_net(v, (roll.next_obs[t, n].numpy() - 1) / math.sqrt(4 + 1e-8))[0] for n in range(2)] for t in range(4)]
    )
    error = roll.reward.numpy() / math.sqrt(2.5**2 + 1e-8) + roll.discount.numpy() * following - value
    advantage = np.zeros((5, 2))
    for t in reversed(range(4)):
        advantage[t] = error[t] + 0.99 * 0.95 * ~roll.extra["ended"][t].numpy() * advantage[t + 1]
    np.testing.assert_allclose(b.obs, shown.reshape(BATCH, OBS))
    np.testing.assert_allclose(b.extra["advantage"], advantage[:4].ravel())
    np.testing.assert_allclose(b.extra["target"], (advantage[:4] + value).ravel())
    assert float(told["explained"]) == pytest.approx(1 - advantage[:4].var() / (advantage[:4] + value).var())
    np.testing.assert_allclose(b.extra["logp"], [density(w, *x) for x in zip(b.obs.numpy(), b.action.numpy(), strict=True)])
    past = torch.cat(
        [roll.obs.reshape(BATCH, OBS), torch.tensor([[3.0], [-1.0]] * 4, dtype=F64).expand(8, OBS)]
    )  # of mean 1, variance 4
    torch.testing.assert_close(after.seen["mean"], past.mean(0))
    torch.testing.assert_close(after.seen["var"], past.var(0, correction=0))


def test_far_observations_and_rewards_are_brought_within_ten() -> None:
    made, roll = learner(), rollout()
    assert made.prepare
    s = ref.aged(made.init())
    s = replace(s, seen={**s.seen, "count": torch.tensor(50, dtype=F64)})
    _, b, _ = made.prepare(s, replace(roll, obs=roll.obs * 1e4, reward=roll.reward * 1e4))
    assert float(b.obs.abs().max()) == 10
    assert float(b.reward.abs().max()) == 10


def test_what_is_not_normalised_is_shown_as_it_is() -> None:
    made, roll = learner(normalise_obs=False, normalise_reward=False), rollout()
    assert made.prepare
    assert made.needs == frozenset()
    s = ref.aged(made.init())
    del roll.extra["return_std"]  # which it did not ask for
    after, b, _ = made.prepare(s, roll)
    assert b.obs.equal(roll.obs.flatten(0, 1))
    assert b.reward.equal(roll.reward.flatten())
    ref.assert_same(after, s)


def test_at_the_old_policy_it_is_the_policy_gradient() -> None:
    """Its parent: minus the mean of A grad log pi."""
    made = learner(normalise_advantage=False)
    s, b = prepared(made)
    assert made.prepare
    logp = torch.tensor(
        [density(ref.weights(s.actor.params), *x) for x in zip(b.obs.numpy(), b.action.numpy(), strict=True)], dtype=F64
    )
    b = replace(b, extra={**b.extra, "logp": logp})
    got = ref.gradient(made.losses["actor"], s.actor.params, b)
    w = ref.weights(s.actor.params)
    wanted = ref.slopes(
        lambda: (
            -float(
                np.mean(
                    [
                        a * density(w, *x)
                        for a, *x in zip(b.extra["advantage"].numpy(), b.obs.numpy(), b.action.numpy(), strict=True)
                    ]
                )
            )
        ),
        w,
    )
    for k, g in got.items():
        np.testing.assert_allclose(g.numpy(), wanted[k], rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(("shift", "sign", "still"), [(-0.5, 1, True), (0.5, -1, True), (-0.5, -1, False), (0.5, 1, False)])
def test_beyond_the_clip_there_is_nothing_to_gain(shift: float, sign: int, still: bool) -> None:
    """A ratio of e^0.5 with an advantage above 0, or of e^-0.5 with one below, has no gradient; the way back has."""
    made = learner(normalise_advantage=False)
    s, b = prepared(made, advantage=torch.full((BATCH,), float(sign), dtype=F64))
    logp = torch.tensor(
        [density(ref.weights(s.actor.params), *x) for x in zip(b.obs.numpy(), b.action.numpy(), strict=True)], dtype=F64
    )
    b = replace(b, extra={**b.extra, "logp": logp + shift})
    steep = max(float(g.abs().max()) for g in ref.gradient(made.losses["actor"], s.actor.params, b).values())
    assert (steep == 0) == still


def test_one_update_is_a_shortened_step_of_adam_of_each() -> None:
    made = learner(max_norm=0.05)
    s, b = prepared(made)
    after, _ = made.update(s, b, 0)
    for name in ("actor", "critic"):
        group = getattr(s, name)
        grads = ref.gradient(made.losses[name], group.params, b)
        ref.assert_same(getattr(after, name), ref.adam(group, ref.shortened(grads, 0.05), 3e-4, eps=1e-5))
    assert after.seen is s.seen


def test_acts_by_the_mean_or_draws() -> None:
    made = learner()
    s, b = prepared(made)
    (noise,) = ref.draws(4, (BATCH, ACTION))
    w = ref.weights(s.actor.params)
    drawn, mean = (ref.seeded(4, made.act, made.policy(s), b.obs, explore) for explore in (True, False))
    for i in range(BATCH):
        m = tanh_net(w, ((b.obs[i] - s.seen["mean"]) / (s.seen["var"] + 1e-8).sqrt()).numpy())
        np.testing.assert_allclose(mean[i], m)
        np.testing.assert_allclose(drawn[i], m + np.exp(w["log_std"]) * noise[i])


@pytest.mark.parametrize("action", [Discrete(4), MultiDiscrete((2, 3))])
def test_choices_in_the_loss_and_in_the_world(action: Any) -> None:
    made = learner(Spec(Box(OBS), action))
    s = ref.aged(made.init())
    assert made.prepare
    did = torch.randint(2, (BATCH,) if isinstance(action, Discrete) else (BATCH, 2))
    b = made.prepare(s, rollout(did))[1]
    w = ref.weights(s.actor.params)
    for i in range(BATCH):
        logits = tanh_net(w, b.obs[i].numpy())
        parts = [logits] if isinstance(action, Discrete) else [logits[:2], logits[2:]]
        logp = sum(x[int(a)] - np.log(np.exp(x).sum()) for x, a in zip(parts, np.atleast_1d(did[i].numpy()), strict=True))
        assert float(b.extra["logp"][i]) == pytest.approx(logp)
    assert made.act(made.policy(s), b.obs, True).shape == did.shape


def test_defaults_are_the_papers() -> None:
    ref.assert_defaults(
        ppo, lr=3e-4, clip=0.2, rollout=2048, epochs=10, batch_size=64, gamma=0.99, lam=0.95, hidden=(64, 64), adam_eps=1e-5
    )


@pytest.mark.parametrize("discrete", [False, True])
def test_it_finds_the_best_action_for_each_observation(tmp_path: Any, discrete: bool) -> None:
    """-4 (a - s/2)^2 for s = -1 or 1: the known answer is s/2, or the choice of that sign."""
    name = "thespis/ActionObservation-v0"
    env = (lambda: gym.make(name, discrete=True)) if discrete else name
    result = thespis.train(
        "ppo", env=env, out=tmp_path / "run", steps=6_000, num_envs=4, rollout=64, batch_size=64, lr=3e-3, hidden=(16,), epochs=8,
        eval_every=6_000, eval_episodes=2, log_every=2_000, compile_after=-1, sinks=(), panel=False, normalise_obs=False,
    )  # fmt: skip
    policy = thespis.load(result)
    for s in (-1, 1):
        act = policy.act(np.array([s], np.float32))
        assert act == (s > 0) if discrete else float(act[0]) == pytest.approx(s / 2, abs=0.12)
