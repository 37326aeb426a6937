"""RCPO from recorded data: losses against numpy in float64, multipliers by hand, and a floor that is kept."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from thespis.algos.constrained import rcpo
from thespis.core import Batch, Box, Discrete, Learner, Spec, replace

from . import reference as ref
from .reference import BATCH, F64, OBS, net, weights
from .test_tscac import REWARDS, batch, softmax

__all__ = ["batch"]

SPEC = Spec(Box(OBS), Discrete(3), REWARDS)


def learner(**numbers: Any) -> Learner:
    return rcpo.make(rcpo.Config(**{"hidden": (12, 10), "floors": ("like", "hate=-0.5"), **numbers}), SPEC)


def state(made: Learner) -> rcpo.State:
    s: rcpo.State = ref.aged(made.init())
    scale = {"reward": torch.tensor([2.0, 0.5, 4.0], dtype=F64), "floor": torch.tensor([0.8, -0.125], dtype=F64)}
    return replace(s, multiplier={"x": torch.tensor([0.6, 1.5], dtype=F64)}, scale=scale)


@pytest.mark.parametrize("critics", ["joint", "each"])
def test_losses(batch: Batch, critics: str) -> None:
    made = learner(critics=critics, temperature=0.3, cap=1.1)
    s, loss, gain = state(made), 0.0, 0.0
    total, weight, given = np.array([1.0, 0.6, 1.5]), 0.0, np.zeros(3)
    pi, near, size = weights(s.actor.params), weights(s.behaviour.params), s.scale["reward"].numpy()
    critic, target = ([weights(p, i) for i in range(1 if critics == "joint" else 3)] for p in (s.critic.params, s.target))
    for obs, action, reward, discount, next_obs in ref.rows(batch):
        r, d, after = reward[[0, 1, 3]] / size, discount[[0, 1, 3]], softmax(net(pi, next_obs))
        if critics == "joint":
            aims = [total @ r + d[0] * (after @ net(target[0], next_obs))]
        else:
            aims = [r[i] + d[i] * (after @ net(target[i], next_obs)) for i in range(3)]
        loss += sum((net(c, obs)[action] - aim) ** 2 for c, aim in zip(critic, aims, strict=True))
        here, cloned, values = softmax(net(pi, obs)), softmax(net(near, obs)), np.array([net(c, obs) for c in critic])
        gain += here @ (values[0] if critics == "joint" else total @ values) - 0.3 * (here * np.log(here / cloned)).sum()
        w = min(here[action] / cloned[action], 1.1)
        weight, given = weight + w, given + w * r
    assert float(made.losses["critic"](s.critic.params, s, batch)[0]) == pytest.approx(loss / BATCH, rel=1e-9)
    found, told = made.losses["actor"](s.actor.params, s, batch)
    assert float(found) == pytest.approx(-gain / BATCH, rel=1e-9)
    names = ("watch", "like", "hate")
    np.testing.assert_allclose([float(told[f"gives/{name}"]) for name in names], given / weight, rtol=1e-9)


def test_a_multiplier_grows_by_what_is_missing_and_stays_within_its_bounds(batch: Batch) -> None:
    made = learner(dual_step=0.1, most=1.52)
    s = state(made)
    after, told = made.update(s, batch, 0)
    wanted = np.array([0.6, 1.5]) + 0.1 * (np.array([0.8, -0.125]) - [float(told["gives/like"]), float(told["gives/hate"])])
    np.testing.assert_allclose(after.multiplier["x"].numpy(), np.clip(wanted, 0, 1.52), rtol=1e-9)
    assert torch.equal(learner(dual_step=0.0).update(s, batch, 0)[0].multiplier["x"], s.multiplier["x"])


def test_floors_are_as_given_or_as_recorded(batch: Batch) -> None:
    reward = batch.reward[:, [0, 1, 3]]
    scale = learner().given(ref.aged(learner().init()), batch).scale
    size = reward.abs().mean(0)
    torch.testing.assert_close(scale["reward"], size)
    torch.testing.assert_close(scale["floor"], torch.stack([reward[:, 1].mean() / size[1], -0.5 / size[2]]))


def test_signature_a_floor_is_kept_by_the_multiplier_that_it_takes() -> None:
    """One state: watch 1 and 0.5, likes 0 and 1, a floor of 0.6 likes. Both choices were equally common, so three in five are
    liked where log 1.5 = (l 1 / 0.5 - 0.5 / 0.75) / temperature for the multiplier l, in units of the recorded means."""
    torch.manual_seed(0)
    one, action = torch.ones(20, 1), torch.arange(20) % 2
    data = Batch(one, action, torch.tensor([[1.0, 0.0], [0.5, 1.0]])[action], torch.zeros(20, 2), one)
    cfg = rcpo.Config(hidden=(), lr=0.05, critic_lr=0.1, gamma=0.0, dual_step=0.02, floors=("like=0.6",), critics="each",
                      temperature=1.0)  # fmt: skip
    made = rcpo.make(cfg, Spec(Box(1), Discrete(2), ("watch", "like")))
    s, late = made.given(made.init(), data), []
    for i in range(250):
        s, _ = made.update(s, data, 0)
        if i >= 150:
            late.append([softmax(net(weights(s.actor.params), np.ones(1)))[1], float(s.multiplier["x"][0])])
    share, multiplier = np.mean(late, 0)
    assert share == pytest.approx(0.6, abs=0.03)
    assert multiplier == pytest.approx((np.log(1.5) + 0.5 / 0.75) / 2, rel=0.1)
