"""DSAC's critic gradient against the paper's closed form in float64, its order of steps, sac's critic as its limit."""

from __future__ import annotations

import functools
import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from thespis.algos.continuous import dsac, sac
from thespis.core import Batch, Box, Learner, Spec, replace

from . import reference as ref
from .reference import ACTION, BATCH, OBS, SPEC, weights
from .reference import mean_and_spread as z

batch = pytest.fixture(ref.batch)
gaussian = functools.partial(ref.gaussian, high=0.5, activation=ref.gelu)
DRAWN = (BATCH, ACTION), (BATCH,)  # the next actions', then the returns'
SEED = next(i for i in itertools.count() if np.abs(ref.draws(i, *DRAWN)[1]).max() > 3)  # so that one is clipped


def learner(**numbers: Any) -> Learner:
    return dsac.make(dsac.Config(**{"hidden": (12, 10), **numbers}), SPEC)


def state(made: Learner) -> dsac.State:
    """With policies from narrow to clipped, and returns from narrow to wide."""
    s = ref.aged(made.init())
    for p in (s.actor.params, s.actor_target, s.critic.params, s.critic_target):
        p["w2"].mul_(6)
    for p in (s.actor.params, s.actor_target):
        p["b2"].add_(torch.tensor([0.3, -0.5, 0.4, -1.5]))
    return s


def targets(s: dsac.State, b: Batch, noise: np.ndarray, eps: np.ndarray) -> np.ndarray:
    """r + g (Z - alpha log pi): one draw of the slow critic's return at the slow actor's action."""
    out = []
    for e, x, (_, _, reward, discount, next_obs) in zip(noise, eps, ref.rows(b), strict=True):
        action, logp = ref.squash(*gaussian(weights(s.actor_target), next_obs), e)
        mean, std = z(weights(s.critic_target), next_obs, action)
        out.append(reward + discount * (mean + std * min(max(x, -3), 3) - 0.3 * logp))
    return np.array(out)


# ------------------------------------------------------------------------------------------------------------- the losses


@pytest.mark.parametrize(("bound", "bias"), [(20.0, 0.1), (1.0, 0.1), (1.5, 0.7)])
def test_critic_gradient_is_the_papers(batch: Batch, bound: float, bias: float) -> None:
    """In the mean -(y - Q) / (sigma^2 + e); in the spread -(clip(y - Q)^2 - sigma^2) / (sigma^3 + e)."""
    made = learner(bound=bound, bias=bias)
    s = state(made)
    y, w = targets(s, batch, *ref.draws(SEED, *DRAWN)), weights(s.critic.params)
    mean, std = np.array([z(w, o, a) for o, a, *_ in ref.rows(batch)]).T
    far = np.abs(y - mean) > bound
    assert far.any() == (bound < 20)
    assert not far.all()
    in_mean = -(y - mean) / (std**2 + bias)
    in_std = -(np.clip(y - mean, -bound, bound) ** 2 - std**2) / (std**3 + bias)

    def surrogate() -> float:
        zs = np.array([z(w, o, a) for o, a, *_ in ref.rows(batch)]).T
        return float(np.mean(in_mean * zs[0] + in_std * zs[1]))

    loss, metrics = ref.seeded(SEED, made.losses["critic"], s.critic.params, s, batch)
    assert float(loss) == pytest.approx(surrogate(), rel=1e-9)
    assert float(metrics["q"]) == pytest.approx(mean.mean(), rel=1e-9)
    assert float(metrics["q_std"]) == pytest.approx(std.mean(), rel=1e-9)
    grads = ref.seeded(SEED, ref.gradient, made.losses["critic"], s.critic.params, s, batch)
    assert float(grads["b2"][0]) == pytest.approx(in_mean.mean(), rel=1e-9)
    ref.assert_slopes(weights(grads), w, surrogate)


def test_actor_loss_and_its_gradient(batch: Batch) -> None:
    made = learner()
    s, (noise,) = state(made), ref.draws(8, DRAWN[0])
    w, critic = weights(s.actor.params), weights(s.critic.params)

    def by_hand() -> np.ndarray:
        drawn = [(obs, *ref.squash(*gaussian(w, obs), e)) for obs, e in zip(batch.obs.numpy(), noise, strict=True)]
        return np.mean([(0.3 * logp - z(critic, obs, action)[0], logp) for obs, action, logp in drawn], 0)

    loss, metrics = ref.seeded(8, made.losses["actor"], s.actor.params, s, batch)
    assert (float(loss), -float(metrics["entropy"])) == pytest.approx(tuple(by_hand()), rel=1e-9)
    grads = ref.seeded(8, ref.gradient, made.losses["actor"], s.actor.params, s, batch)
    ref.assert_slopes(weights(grads), w, lambda: by_hand()[0])


@pytest.mark.parametrize("log_alpha", [-1.2, 1.0])
def test_temperature_slope_does_not_depend_on_the_temperature(log_alpha: float) -> None:
    p, loss = {"x": torch.tensor(log_alpha, dtype=ref.F64)}, learner(entropy_per_dim=-0.5).losses["alpha"]
    assert float(loss(p, 0.7)[0]) == pytest.approx(log_alpha * (0.7 + 0.5 * ACTION))
    assert float(ref.gradient(loss, p, 0.7)["x"]) == pytest.approx(0.7 + 0.5 * ACTION)


def test_an_end_has_no_future(batch: Batch) -> None:
    made = learner()
    s = state(made)
    ref.assert_an_end_has_no_future(made.losses["critic"], s.critic.params, s, batch)


# ----------------------------------------------------------------------------------------------------- the order of steps


@pytest.mark.parametrize("delay", [1, 2, 3])
def test_all_but_the_critic_wait_and_every_gradient_is_at_the_old_parameters(batch: Batch, delay: int) -> None:
    made = learner(delay=delay, lr=0.01, alpha_lr=0.03, tau=0.1)
    assert made.period == delay
    s = state(made)
    for k in range(delay):
        after, metrics = ref.seeded(k, made.update, s, batch, k)
        critic, _ = ref.seeded(k, ref.step, s.critic, made.losses["critic"], 0.01, s, batch)
        wanted, names = replace(s, critic=critic), {"critic_loss", "q", "q_std"}
        if k == delay - 1:
            actor, told = ref.step(s.actor, made.losses["actor"], 0.01, s, batch)
            log_alpha, _ = ref.step(s.log_alpha, made.losses["alpha"], 0.03, told["entropy"])
            slow = ref.mixed(s.actor_target, actor.params, 0.1), ref.mixed(s.critic_target, critic.params, 0.1)
            wanted, names = dsac.State(actor, critic, *slow, log_alpha), names | {"actor_loss", "entropy", "alpha_loss", "alpha"}
            assert float(metrics["alpha"]) == pytest.approx(math.exp(float(log_alpha.params["x"])))
        else:
            assert ref.moved(s, after) == {"critic"}
        ref.assert_same(after, wanted)
        assert set(metrics) == names
        s = after


def test_the_state_starts_as_the_authors_code_does() -> None:
    s = learner().init()
    ref.assert_same(s.actor_target, s.actor.params, 0, 0)
    ref.assert_same(s.critic_target, s.critic.params, 0, 0)
    assert float(s.log_alpha.params["x"]) == pytest.approx(1)


# ------------------------------------------------------------------------------------------------------------ parent: sac


def own(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, 12), nn.GELU(), nn.Linear(12, 10), nn.GELU(), nn.Linear(10, outputs))


def test_with_unit_spread_and_targets_at_the_mean_its_critic_step_is_sacs_over_one_plus_bias(batch: Batch) -> None:
    parts = {"actor": lambda spec: own(OBS, 2 * ACTION)}
    made = dsac.make(dsac.Config(bias=0.25), SPEC, **parts, critic=lambda spec: own(OBS + ACTION, 2))
    parent = sac.make(sac.Config(critics=1, log_std=(-20.0, 0.5)), SPEC, **parts, critic=lambda spec: own(OBS + ACTION, 1))
    s = ref.aged(made.init())
    for p, spread in ((s.critic.params, 1.0), (s.critic_target, 1e-12)):  # the second output is a constant
        p["4.weight"][1], p["4.bias"][1] = 0, math.log(math.expm1(spread))
    q, slow = ({k: (p[:1] if k[0] == "4" else p)[None] for k, p in c.items()} for c in (s.critic.params, s.critic_target))
    theirs = sac.State(replace(s.actor, params=s.actor_target), replace(s.critic, params=q), slow, s.log_alpha)
    ours = ref.seeded(5, ref.gradient, made.losses["critic"], s.critic.params, s, batch)
    grads = ref.seeded(5, ref.gradient, parent.losses["critic"], q, theirs, batch)
    for name, g in grads.items():
        mine = ours[name][:1] if name[0] == "4" else ours[name]
        torch.testing.assert_close(mine[None], g / 1.25, rtol=1e-9, atol=1e-12, msg=lambda m, name=name: f"{name}: {m}")


# -------------------------------------------------------------------------------------------------------------- signature


def test_signature_the_spread_of_the_return_is_learnt() -> None:
    """One state and no future, reward ~ N(0.5, 1): the critic's mean and spread become the reward's."""
    made = dsac.make(dsac.Config(hidden=(8,), lr=1e-2), Spec(Box(1), Box(1)))
    s, told = made.init(), []
    x, end = torch.zeros(128, 1), torch.zeros(128)
    for _ in range(1_000):
        s, metrics = made.update(s, Batch(x, x, 0.5 + torch.randn(128), end, x), 0)
        told.append((float(metrics["q"]), float(metrics["q_std"])))
    mean, std = np.mean(told[500:], 0)
    assert mean == pytest.approx(0.5, abs=0.02)
    assert std == pytest.approx(1.0, abs=0.03)


# ----------------------------------------------------------------------------------------------------------------- acting


def test_act_is_the_mean_or_a_draw_of_the_policy(batch: Batch) -> None:
    made = learner()
    ref.assert_acts_as_a_tanh_gaussian(made, state(made), batch, gaussian)


def test_defaults_are_the_authors() -> None:
    ref.assert_defaults(
        dsac, lr=1e-4, alpha_lr=3e-4, tau=0.005, hidden=(256, 256, 256), delay=2, bound=20, bias=0.1, initial_alpha=math.e,
        entropy_per_dim=-1, log_std=(-20, 0.5), gamma=0.99, batch_size=256, warmup=10_000,
    )  # fmt: skip


def test_other_actions_are_refused() -> None:
    ref.assert_refuses_choices(dsac)
