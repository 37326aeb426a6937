"""ORW-CFM-W2: its loss by hand, plain flow matching as its limit, and closed forms between Gaussians."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from thespis.algos.flow import flow_matching, orw_cfm_w2
from thespis.config import Schedule
from thespis.core import Batch, Box, Learner, Params, Spec, replace, tree_map
from thespis.nets import condition, flow

from . import reference as ref
from .reference import BATCH, SPEC

batch = pytest.fixture(ref.batch)


def learner(**numbers: object) -> Learner:
    return orw_cfm_w2.make(orw_cfm_w2.Config(**{"hidden": (12, 10), **numbers}), SPEC)


def begun(made: Learner) -> orw_cfm_w2.State:
    """In float64, some way from its reference."""
    s = ref.aged(made.init())
    return replace(s, reference={k: p + 0.2 * torch.randn_like(p) for k, p in s.actor.params.items()})


def test_loss_row_by_row(batch: Batch) -> None:
    made = learner(tau=0.7, beta=0.4)
    s, field = begun(made), flow(SPEC, "it", (12, 10), 20)
    torch.manual_seed(3)
    loss, told = made.losses["actor"](s.actor.params, s, batch)
    torch.manual_seed(3)
    x0, t = torch.randn_like(batch.action), torch.rand(BATCH, 1, dtype=ref.F64)
    weights = np.exp(0.7 * batch.reward.numpy())
    errors, distance = 0.0, 0.0
    for i in range(BATCH):
        x, c = (1 - t[i]) * x0[i] + t[i] * batch.action[i], batch.obs[i : i + 1, :1]
        v, before = (field.velocity(p, x[None], t[i][None], c)[0] for p in (s.actor.params, s.reference))
        errors += weights[i] * float((v - (batch.action[i] - x0[i])).square().sum())
        distance += float((v - before).square().sum())
    assert float(loss) == pytest.approx(errors / weights.sum() + 0.4 * distance / BATCH, rel=1e-10)
    assert float(told["distance"]) == pytest.approx(distance / BATCH, rel=1e-10)
    assert float(told["largest_weight"]) == pytest.approx(weights.max() / weights.mean(), rel=1e-10)


@pytest.mark.parametrize("rewards", ["tau 0", "alike"])
def test_limit_weights_that_are_alike_are_flow_matching(batch: Batch, rewards: str) -> None:
    made = learner(tau=0.0 if rewards == "tau 0" else 2.0, beta=0.0, lr=0.01)
    parent = flow_matching.make(flow_matching.Config(hidden=(12, 10), lr=0.01), SPEC)
    s = begun(made)
    b = batch if rewards == "tau 0" else replace(batch, reward=torch.full_like(batch.reward, 1.3))
    torch.manual_seed(0)
    ours, _ = made.update(s, b, 0)
    torch.manual_seed(0)
    theirs, _ = parent.update(flow_matching.State(s.actor), b, 0)
    ref.assert_same(ours.actor, theirs.actor)


def test_rewards_are_standardised_by_all_that_came_and_the_reference_is_the_first_field() -> None:
    made = learner(reward_clip=0.8)
    s = ref.double(made.init())
    first, rollout = tree_map(torch.clone, s.actor.params), ref.rollout()
    s, rows, told = made.prepare(s, rollout)
    ref.assert_same(s.reference, first)
    r = rollout.reward.numpy()
    assert float(told["reward"]) == pytest.approx(r.mean())
    np.testing.assert_allclose(rows.reward, np.clip((r - r.mean()) / r.std(), -0.8, 0.8).ravel(), rtol=1e-5)
    assert rows.action.shape == (BATCH, 2)
    moved = replace(s, actor=replace(s.actor, params={k: p + 1 for k, p in first.items()}))
    second = replace(rollout, reward=rollout.reward + 3)
    after, rows, _ = made.prepare(moved, second)
    ref.assert_same(after.reference, first)
    both = np.concatenate([r.ravel(), r.ravel() + 3])
    np.testing.assert_allclose(rows.reward, np.clip((r.ravel() + 3 - both.mean()) / both.std(), -0.8, 0.8), rtol=1e-5)


def still(params: Params, push: float) -> Params:
    """The field that is `push` everywhere."""
    last = max(k for k in params if k[0] == "b")
    return {k: torch.full_like(p, push if k == last else 0.0) for k, p in params.items()}


def test_the_distance_is_w2s_square_where_fields_differ_by_a_constant() -> None:
    """Two Gaussians, one beside the other: W2 is how far; its bound by velocities is then exact."""
    made = learner(beta=1.0)
    s = ref.double(made.init())
    s = replace(s, reference=still(s.reference, 0.0), actor=replace(s.actor, params=still(s.actor.params, 0.3)))
    b = ref.batch()
    w2 = math.hypot(0.3, 0.3)
    assert float(made.losses["actor"](s.actor.params, s, b)[1]["distance"]) == pytest.approx(w2**2)
    obs = torch.cat([torch.zeros(5, 1), torch.linspace(-0.5, 0.5, 5)[:, None].expand(5, 2)], -1).double()
    there, here = (made.act({"actor": p}, obs, False) for p in (s.reference, s.actor.params))
    assert float((here - there).norm(dim=-1).mean()) == pytest.approx(w2)


def test_signature_samples_are_tilted_by_the_weight() -> None:
    """exp(tau r) of the standardised reward r = x / s tilts N(0, s^2) to N(tau s, s^2)."""
    spec, s0, tau, g = Spec(Box(1), Box(1)), 0.2, 1.0, torch.Generator().manual_seed(0)
    numbers = {"hidden": (48, 48), "lr": Schedule("linear:5e-3:1e-6:updates=500"), "tau": tau, "beta": 0.0, "ode_steps": 50}
    torch.manual_seed(0)
    made = orw_cfm_w2.make(orw_cfm_w2.Config(**numbers), spec)
    s = made.init()
    with torch.no_grad():
        for _ in range(500):
            z = torch.randn(512, 1, generator=g)
            s, _ = made.update(s, Batch(z, s0 * z, z[:, 0], torch.zeros(512), z), 0)
        z = torch.linspace(-1.5, 1.5, 100)[:, None]
        out = made.act(made.policy(s), z, False)
    np.testing.assert_allclose(out.numpy(), (tau * s0 + s0 * z).numpy(), atol=0.1)
    assert float(condition(spec, z).numel()) == 0
