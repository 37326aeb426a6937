"""AC-Flow: losses by hand, its parent as its limit, its warm-up, and the closed form of its critic."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from thespis.algos.flow import ac_flow, orw_cfm_w2
from thespis.config import Schedule
from thespis.core import Batch, Box, Learner, Spec, replace
from thespis.nets import flow, timed

from . import reference as ref
from .reference import BATCH, SPEC

batch = pytest.fixture(ref.batch)


def learner(**numbers: object) -> Learner:
    return ac_flow.make(ac_flow.Config(**{"hidden": (12, 10), "critic_hidden": (6,), **numbers}), SPEC)


def begun(made: Learner) -> ac_flow.State:
    s = ref.aged(made.init())
    return replace(s, reference={k: p + 0.2 * torch.randn_like(p) for k, p in s.actor.params.items()})


def placed(batch: Batch) -> Batch:
    """With a point on the way to each sample."""
    x0, t = torch.randn_like(batch.action), torch.rand(BATCH, 1, dtype=ref.F64)
    return replace(batch, extra={"x": (1 - t) * x0 + t * batch.action, "t": t, "u": batch.action - x0})


def test_losses_row_by_row(batch: Batch) -> None:
    made = learner(tau=0.7, beta=0.4, advantage_clip=0.9)
    s, b = begun(made), placed(batch)
    field, critic = flow(SPEC, "it", (12, 10), 20), timed(2, 1, (6,), 1)
    weights, squares, errors, distance = [], 0.0, [], 0.0
    for i in range(BATCH):
        at = b.extra["x"][i : i + 1], b.extra["t"][i : i + 1], b.obs[i : i + 1, :1]
        advantage = float(b.reward[i] - critic.apply(s.critic.params, *at))
        squares += advantage**2
        weights.append(np.exp(0.7 * min(max(advantage, -0.9), 0.9)))
        v, before = (field.velocity(p, *at) for p in (s.actor.params, s.reference))
        errors.append(float((v - b.extra["u"][i]).square().sum()))
        distance += float((v - before).square().sum())
    loss, told = made.losses["critic"](s.critic.params, b)
    assert float(loss) == pytest.approx(squares / BATCH, rel=1e-10)
    assert float(told["explained"]) == pytest.approx(1 - squares / BATCH / b.reward.numpy().var(), rel=1e-6)
    loss, told = made.losses["actor"](s.actor.params, s, b)
    assert float(loss) == pytest.approx(np.dot(weights, errors) / sum(weights) + 0.4 * distance / BATCH, rel=1e-10)
    assert float(told["largest_weight"]) == pytest.approx(max(weights) / np.mean(weights), rel=1e-10)


def test_limit_without_a_critic_it_is_its_parent(batch: Batch) -> None:
    made, parent = learner(advantage_clip=1e6), orw_cfm_w2.make(orw_cfm_w2.Config(hidden=(12, 10)), SPEC)
    s = begun(made)
    s = replace(s, critic=replace(s.critic, params={k: torch.zeros_like(p) for k, p in s.critic.params.items()}))
    theirs = orw_cfm_w2.State(s.actor, s.reference, s.seen)
    torch.manual_seed(0)
    wanted, _ = parent.losses["actor"](s.actor.params, theirs, batch)
    torch.manual_seed(0)
    x0, t = torch.randn_like(batch.action), torch.rand_like(batch.action[:, :1])
    b = replace(batch, extra={"x": torch.lerp(x0, batch.action, t), "t": t, "u": batch.action - x0})
    assert float(made.losses["actor"](s.actor.params, s, b)[0]) == pytest.approx(float(wanted), rel=1e-12)


def test_the_field_stays_until_the_critic_has_learnt_alone(batch: Batch) -> None:
    made = learner(critic_only=3)
    s = ref.double(made.init())
    for i in range(5):
        after, _ = made.update(s, batch, 0)
        moved = [not p.equal(s.actor.params[k]) for k, p in after.actor.params.items()]
        assert all(moved) if i >= 3 else not any(moved), i
        assert all(not p.equal(s.critic.params[k]) for k, p in after.critic.params.items())
        s = after


def test_signature_the_critic_is_the_mean_reward_given_the_point() -> None:
    """x1 ~ N(0, s^2), r = x1 / s, w = (1 - t)^2 + t^2 s^2: E[r | x_t] = t s x_t / w. It explains t^2 s^2 / w of r's variance:
    nothing at t = 0, all at t = 1."""
    spec, std, g = Spec(Box(1), Box(1)), 0.5, torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    made = ac_flow.make(
        ac_flow.Config(hidden=(8,), critic_hidden=(48, 48), critic_lr=Schedule("linear:5e-3:1e-6:updates=500")), spec
    )
    s, critic = made.init(), timed(1, 0, (48, 48), 1)
    with torch.no_grad():
        for _ in range(500):
            z = torch.randn(512, 1, generator=g)
            s, _ = made.update(s, Batch(z, std * z, z[:, 0], torch.zeros(512), z), 0)
        told = []
        for when in (0.02, 0.5, 0.98):
            r, t = torch.randn(2_000, 1, generator=g), torch.full((2_000, 1), when)
            x = (1 - t) * torch.randn(2_000, 1, generator=g) + t * std * r
            v, var = critic.apply(s.critic.params, x, t, x[:, :0]), (1 - when) ** 2 + when**2 * std**2
            assert float((v - when * std * x / var).square().mean().sqrt()) < 0.12
            told.append(1 - float((r - v).square().mean()))
            assert told[-1] == pytest.approx(when**2 * std**2 / var, abs=0.08)
    assert told[0] < 0.05 < 0.9 < told[2]
