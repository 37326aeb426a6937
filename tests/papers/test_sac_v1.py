"""SAC's first version: three losses against numpy in float64, its order of steps, and sac's targets in other units."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from thespis.algos.continuous import sac, sac_v1
from thespis.core import Batch, Learner, replace, tree_map

from . import reference as ref
from .reference import ACTION, BATCH, SPEC, Weights, gaussian, members, net, weights

batch = pytest.fixture(ref.batch)
NOISE = (BATCH, ACTION)


def learner(**numbers: Any) -> Learner:
    return sac_v1.make(sac_v1.Config(**{"hidden": (12, 10), **numbers}), SPEC)


def state(made: Learner, shift: float = 1.0) -> sac_v1.State:
    """With policies from narrow to wide, and critics of which neither is always the smaller."""
    s = ref.aged(made.init())
    s.actor.params["b2"].add_(shift * torch.tensor([0.3, -0.5, 1.5, -2.5]))
    s.actor.params["w2"].mul_(4)
    s.critic.params["w2"].mul_(4)
    ref.level(s.critic.params)
    return s


def value_loss(value: Weights, s: sac_v1.State, b: Batch, noise: np.ndarray) -> float:
    """eq. 5: the value is that of the least critic, at the policy's own action, less its log-density."""
    total, least = 0.0, set()
    for obs, e in zip(b.obs.numpy(), noise, strict=True):
        action, logp = ref.squash(*gaussian(weights(s.actor.params), obs), e)
        qs = [net(w, obs, action)[0] for w in members(s.critic.params)]
        least.add(int(np.argmin(qs)))
        total += 0.5 * (net(value, obs)[0] - (min(qs) - logp)) ** 2
    assert len(least) == min(2, len(qs)), "no minimum to see"
    return total / BATCH


def critic_loss(critics: list[Weights], s: sac_v1.State, b: Batch, scale: float) -> float:
    """eqs. 7, 8"""
    total = 0.0
    for obs, action, reward, discount, next_obs in ref.rows(b):
        y = scale * reward + discount * net(weights(s.target), next_obs)[0]
        total += sum(0.5 * (net(w, obs, action)[0] - y) ** 2 for w in critics)
    return total / BATCH


def actor_loss(actor: Weights, first: Weights, b: Batch, noise: np.ndarray, moments: float) -> float:
    """eq. 12 and the official code's penalty"""
    total = 0.0
    for obs, e in zip(b.obs.numpy(), noise, strict=True):
        mean, log_std = gaussian(actor, obs)
        action, logp = ref.squash(mean, log_std, e)
        total += logp - net(first, obs, action)[0] + moments * 0.5 * np.mean(mean**2 + log_std**2)
    return total / BATCH


# ------------------------------------------------------------------------------------------------------------- the losses


@pytest.mark.parametrize("critics", [1, 2])
def test_value_loss_and_its_gradient(batch: Batch, critics: int) -> None:
    made = learner(critics=critics)
    s, (noise,) = state(made), ref.draws(7, NOISE)
    w = weights(s.value.params)
    loss, _ = ref.seeded(7, made.losses["value"], s.value.params, s, batch)
    assert float(loss) == pytest.approx(value_loss(w, s, batch, noise), rel=1e-10)
    grads = ref.seeded(7, ref.gradient, made.losses["value"], s.value.params, s, batch)
    ref.assert_slopes(weights(grads), w, lambda: value_loss(w, s, batch, noise))


@pytest.mark.parametrize("scale", [1.0, 20.0])
def test_critic_loss_and_its_gradient(batch: Batch, scale: float) -> None:
    made = learner(reward_scale=scale)
    s = state(made)
    w = members(s.critic.params)
    loss, metrics = made.losses["critic"](s.critic.params, s, batch)
    assert float(loss) == pytest.approx(critic_loss(w, s, batch, scale), rel=1e-10)
    assert float(metrics["q"]) == pytest.approx(np.mean([net(c, o, a)[0] for c in w for o, a, *_ in ref.rows(batch)]), rel=1e-10)
    grads = ref.gradient(made.losses["critic"], s.critic.params, s, batch)
    for i in range(2):
        ref.assert_slopes(weights(grads, i), w[i], lambda: critic_loss(w, s, batch, scale))


@pytest.mark.parametrize(("moments", "shift"), [(0.0, 1), (1e-3, 1), (0.3, 1), (0.3, 40)])
def test_actor_loss_and_its_gradient(batch: Batch, moments: float, shift: float) -> None:
    made = learner(moments=moments)
    s, (noise,) = state(made, shift), ref.draws(8, NOISE)  # shift 40: the log std is clipped on both sides, and penalised so
    w, first = weights(s.actor.params), members(s.critic.params)[0]
    loss, metrics = ref.seeded(8, made.losses["actor"], s.actor.params, s, batch)
    assert float(loss) == pytest.approx(actor_loss(w, first, batch, noise, moments), rel=1e-9)
    logps = [ref.squash(*gaussian(w, obs), e)[1] for obs, e in zip(batch.obs.numpy(), noise, strict=True)]
    assert float(metrics["entropy"]) == pytest.approx(-np.mean(logps), rel=1e-9)
    if shift == 1:
        grads = ref.seeded(8, ref.gradient, made.losses["actor"], s.actor.params, s, batch)
        ref.assert_slopes(weights(grads), w, lambda: actor_loss(w, first, batch, noise, moments))


def test_the_reward_scale_enters_the_critic_alone(batch: Batch) -> None:
    one, many = learner(reward_scale=1.0), learner(reward_scale=20.0)
    s = state(one)
    for name in ("value", "actor"):
        losses = [ref.seeded(1, made.losses[name], getattr(s, name).params, s, batch)[0] for made in (one, many)]
        assert losses[0] == losses[1]
    scaled = replace(batch, reward=20 * batch.reward)
    assert many.losses["critic"](s.critic.params, s, batch)[0] == one.losses["critic"](s.critic.params, s, scaled)[0]


def test_an_end_has_no_future(batch: Batch) -> None:
    made = learner()
    s = state(made)
    ref.assert_an_end_has_no_future(made.losses["critic"], s.critic.params, s, batch)


# ----------------------------------------------------------------------------------------------------- the order of steps


def test_all_gradients_are_at_the_old_parameters_and_the_target_follows_the_new_value(batch: Batch) -> None:
    made = learner(lr=0.01, tau=0.1)
    s = state(made)
    for i in range(3):
        after, metrics = ref.seeded(i, made.update, s, batch, 0)
        torch.manual_seed(i)
        value, critic, actor = (ref.step(getattr(s, n), made.losses[n], 0.01, s, batch)[0] for n in ("value", "critic", "actor"))
        ref.assert_same(after, sac_v1.State(actor, critic, value, ref.mixed(s.target, value.params, 0.1)))
        assert set(metrics) == {"value_loss", "critic_loss", "q", "actor_loss", "entropy"}
        s = after


def test_the_target_starts_as_a_copy() -> None:
    s = learner().init()
    ref.assert_same(s.target, s.value.params, 0, 0)
    assert not torch.equal(s.critic.params["w0"][0], s.critic.params["w0"][1])


# ------------------------------------------------------------------------------------------------------------ parent: sac

SCALE = 5.0


def sacs(s: sac_v1.State, critics: int) -> tuple[Learner, sac.State]:
    """sac at temperature 1 / SCALE, with this actor and with these critics in its units: divided by SCALE."""
    made = sac.make(sac.Config(hidden=(12, 10), critics=critics), SPEC)
    q = {k: p / SCALE if k in ("w2", "b2") else p for k, p in s.critic.params.items()}
    log_alpha = {"x": torch.tensor(-math.log(SCALE), dtype=ref.F64)}
    return made, sac.State(s.actor, replace(s.critic, params=q), q, replace(s.value, params=log_alpha))


def test_at_the_exact_value_its_targets_are_sacs_at_temperature_one_over_the_scale(batch: Batch) -> None:
    """With Q = scale Q_sac and V(s') = E[min Q - log pi]: scale r + g V(s') = scale (r + g E[min Q_sac - log pi / scale]).

    One transition, many draws: V(s') is where the value loss is flat, and the same draws give the mean of sac's targets.
    """
    one = tree_map(lambda x: x[:1].repeat_interleave(400, 0), batch)
    made = learner(reward_scale=SCALE)
    s = state(made)
    flat = {k: torch.zeros_like(p) for k, p in s.target.items()}
    slope = ref.seeded(3, ref.gradient, made.losses["value"], flat, s, replace(one, obs=one.next_obs))["b2"]
    assert float(slope.abs()) > 0.1
    s = replace(s, target=flat | {"b2": -slope})  # the half square has slope V - target: from V = 0 it is minus the mean
    parent, theirs = sacs(s, 2)
    ours = ref.gradient(made.losses["critic"], s.critic.params, s, one)
    grads = ref.seeded(3, ref.gradient, parent.losses["critic"], theirs.critic.params, theirs, one)
    for name, g in ours.items():  # the error is scale times sac's; below the last layer its slope is, too
        ratio = SCALE if name in ("w2", "b2") else SCALE**2
        torch.testing.assert_close(g, ratio * grads[name], rtol=1e-9, atol=1e-12)


def test_with_one_critic_and_free_moments_its_actor_is_sacs(batch: Batch) -> None:
    made = learner(critics=1, moments=0.0)
    s = state(made)
    parent, theirs = sacs(s, 1)
    ours = ref.seeded(2, ref.gradient, made.losses["actor"], s.actor.params, s, batch)
    grads = ref.seeded(2, ref.gradient, parent.losses["actor"], s.actor.params, theirs, batch)
    for name, g in ours.items():
        torch.testing.assert_close(g, SCALE * grads[name], rtol=1e-9, atol=1e-12)


# ----------------------------------------------------------------------------------------------------------------- acting


def test_act_is_the_mean_or_a_draw_of_the_policy(batch: Batch) -> None:
    made = learner()
    ref.assert_acts_as_a_tanh_gaussian(made, state(made), batch, gaussian)


def test_defaults_are_the_authors() -> None:
    ref.assert_defaults(
        sac_v1, lr=3e-4, tau=0.005, hidden=(256, 256), critics=2, reward_scale=5, moments=1e-3, log_std=(-20, 2), gamma=0.99,
        batch_size=256, warmup=1_000,
    )  # fmt: skip


def test_other_actions_are_refused() -> None:
    ref.assert_refuses_choices(sac_v1)
