"""TD3's losses against numpy in float64, its delayed steps, DDPG as its limit, and its two noises."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import thespis
from thespis.algos.continuous import td3
from thespis.core import Batch, Learner, replace

from . import reference as ref
from .reference import ACTION, BATCH, OBS, SPEC, Weights, members, net, weights

batch = pytest.fixture(ref.batch)


def learner(**numbers: Any) -> Learner:
    return td3.make(td3.Config(**{"hidden": (12, 10), **numbers}), SPEC)


def state(made: Learner) -> td3.State:
    """With slow actions from the middle to the edge of the box, and slow critics of which none is always the least."""
    s = ref.aged(made.init())
    for p in (s.actor_target, s.critic_target):
        p["w2"].mul_(8)
    ref.level(s.critic_target)
    return s


def mu(w: Weights, obs: np.ndarray) -> np.ndarray:
    return np.tanh(net(w, obs))


def critic_loss(critics: list[Weights], s: td3.State, b: Batch, noise: np.ndarray) -> float:
    """Algorithm 1, with noise that is clipped already."""
    total, least = 0.0, set()
    for e, (obs, action, reward, discount, next_obs) in zip(noise, ref.rows(b), strict=True):
        next_action = np.minimum(np.maximum(mu(weights(s.actor_target), next_obs) + e, -1), 1)
        values = [net(w, next_obs, next_action)[0] for w in members(s.critic_target)]
        least.add(int(np.argmin(values)))
        y = reward + discount * min(values)
        total += sum((net(w, obs, action)[0] - y) ** 2 for w in critics)
    assert len(least) >= min(2, len(critics)), "no minimum to see"
    return total / BATCH


def actor_loss(actor: Weights, first: Weights, b: Batch) -> float:
    return -np.mean([net(first, obs, mu(actor, obs))[0] for obs in b.obs.numpy()])


# ------------------------------------------------------------------------------------------------------------- the losses


@pytest.mark.parametrize("critics", [1, 2, 3])
def test_critic_loss_and_its_gradient(batch: Batch, critics: int) -> None:
    made = learner(critics=critics, target_noise=0.5, target_clip=0.4)
    s, (drawn,) = state(made), ref.draws(7, (BATCH, ACTION))
    noise, w = np.clip(0.5 * drawn, -0.4, 0.4), members(s.critic.params)
    crossed = np.abs(np.stack([mu(weights(s.actor_target), x) for x in batch.next_obs.numpy()]) + noise) > 1
    for seen in (np.abs(0.5 * drawn) > 0.4, crossed):
        assert seen.any()
        assert not seen.all()
    loss, metrics = ref.seeded(7, made.losses["critic"], s.critic.params, s, batch)
    assert float(loss) == pytest.approx(critic_loss(w, s, batch, noise), rel=1e-10)
    assert float(metrics["q"]) == pytest.approx(np.mean([net(c, o, a)[0] for c in w for o, a, *_ in ref.rows(batch)]), rel=1e-10)
    grads = ref.seeded(7, ref.gradient, made.losses["critic"], s.critic.params, s, batch)
    for i in range(critics):
        ref.assert_slopes(weights(grads, i), w[i], lambda: critic_loss(w, s, batch, noise))


def test_actor_climbs_the_first_critic(batch: Batch) -> None:
    made = learner()
    s = state(made)
    actor, first = weights(s.actor.params), members(s.critic.params)[0]
    assert float(made.losses["actor"](s.actor.params, s, batch)[0]) == pytest.approx(actor_loss(actor, first, batch), rel=1e-10)
    grads = ref.gradient(made.losses["actor"], s.actor.params, s, batch)
    ref.assert_slopes(weights(grads), actor, lambda: actor_loss(actor, first, batch))


def test_an_end_has_no_future(batch: Batch) -> None:
    made = learner()
    s = state(made)
    ref.assert_an_end_has_no_future(made.losses["critic"], s.critic.params, s, batch)


# ----------------------------------------------------------------------------------------------------- the order of steps


@pytest.mark.parametrize("delay", [1, 2, 3])
def test_actor_and_targets_wait_and_then_see_the_new_critics(batch: Batch, delay: int) -> None:
    made = learner(delay=delay, lr=0.01, tau=0.1)
    assert made.period == delay
    s = state(made)
    for k in range(delay):
        after, metrics = ref.seeded(k, made.update, s, batch, k)
        critic, told = ref.seeded(k, ref.step, s.critic, made.losses["critic"], 0.01, s, batch)
        wanted = replace(s, critic=critic)
        if k == delay - 1:
            actor, _ = ref.step(s.actor, made.losses["actor"], 0.01, wanted, batch)
            slow = ref.mixed(s.actor_target, actor.params, 0.1), ref.mixed(s.critic_target, critic.params, 0.1)
            wanted = td3.State(actor, critic, *slow)
            assert ref.moved(s, after) == {"actor", "critic", "actor_target", "critic_target"}
            assert set(metrics) == {"critic_loss", "q", "actor_loss"}
        else:
            assert ref.moved(s, after) == {"critic"}
            assert set(metrics) == {"critic_loss", "q"}
        ref.assert_same(after, wanted)
        assert float(metrics["q"]) == pytest.approx(float(told["q"]))
        s = after


def test_targets_start_as_copies() -> None:
    s = learner().init()
    ref.assert_same(s.actor_target, s.actor.params, 0, 0)
    ref.assert_same(s.critic_target, s.critic.params, 0, 0)
    assert not torch.equal(s.critic.params["w0"][0], s.critic.params["w0"][1])


# ------------------------------------------------------------------------------------------------------ limit: it is DDPG


def test_limit_the_preset_ddpg_is_a_step_of_ddpg(batch: Batch) -> None:
    """Lillicrap et al. 2016, algorithm 1, from whole gradients by central differences."""
    found = thespis.algorithms()["ddpg"]
    assert (found.module, found.config) == (td3, td3.PRESETS["ddpg"])
    cfg = replace(found.config, hidden=(8, 6), lr=0.01, tau=0.1)
    assert (cfg.critics, cfg.delay, cfg.target_noise) == (1, 1, 0.0)
    s = ref.aged(td3.make(cfg, SPEC).init())
    after, _ = td3.make(cfg, SPEC).update(s, batch, 0)

    (q,), (slow,) = members(s.critic.params), members(s.critic_target)
    y = [r + g * net(slow, n, mu(weights(s.actor_target), n))[0] for _, _, r, g, n in ref.rows(batch)]
    pairs = [(o, a) for o, a, *_ in ref.rows(batch)]
    down = ref.slopes(lambda: np.mean([(t - net(q, o, a)[0]) ** 2 for t, (o, a) in zip(y, pairs, strict=True)]), q)
    critic = ref.adam(s.critic, {k: g[None] for k, g in down.items()}, 0.01)
    (q,), actor = members(critic.params), weights(s.actor.params)
    up = ref.slopes(lambda: np.mean([net(q, o, mu(actor, o))[0] for o, _ in pairs]), actor)
    assert min(np.abs(g).max() for g in (*up.values(), *down.values())) > 1e-4
    new = ref.adam(s.actor, {k: -g for k, g in up.items()}, 0.01)
    slow_ones = ref.mixed(s.actor_target, new.params, 0.1), ref.mixed(s.critic_target, critic.params, 0.1)
    ref.assert_same(after, td3.State(new, critic, *slow_ones), rtol=1e-7, atol=1e-9)


# ----------------------------------------------------------------------------------------------------------------- acting


def test_exploration_noise_is_as_wide_as_told_and_stays_in_the_box(batch: Batch) -> None:
    made = learner(noise=0.1)
    s = state(made)
    greedy = made.act(made.policy(s), batch.obs, False)
    np.testing.assert_allclose(greedy.numpy(), [mu(weights(s.actor.params), x) for x in batch.obs.numpy()], rtol=1e-10)
    explored, (noise,) = ref.seeded(4, made.act, made.policy(s), batch.obs, True), ref.draws(4, (BATCH, ACTION))
    np.testing.assert_allclose(explored.numpy(), np.clip(greedy.numpy() + 0.1 * noise, -1, 1), rtol=1e-10)

    still = {k: torch.zeros_like(p) for k, p in s.actor.params.items()}  # the middle of the box, ten deviations from its edge
    many = made.act(still, torch.zeros(50_000, OBS, dtype=ref.F64), True)
    assert float(many.std()) == pytest.approx(0.1, rel=0.01)
    assert float(many.mean()) == pytest.approx(0, abs=0.002)
    wild = learner(noise=2.0).act(still, torch.zeros(1_000, OBS, dtype=ref.F64), True)
    assert (wild.min(), wild.max()) == (-1, 1)
    assert float((wild.abs() == 1).double().mean()) == pytest.approx(0.617, abs=0.04)  # 2 (1 - Phi(1 / 2))


def test_defaults_are_the_authors() -> None:
    ref.assert_defaults(
        td3, lr=3e-4, tau=0.005, hidden=(256, 256), critics=2, delay=2, noise=0.1, target_noise=0.2, target_clip=0.5, gamma=0.99,
        batch_size=256, warmup=25_000,
    )  # fmt: skip


def test_other_actions_are_refused() -> None:
    ref.assert_refuses_choices(td3)
