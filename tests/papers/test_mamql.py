"""MAMQL's loss against float64 by hand, a row and an agent at a time; IQ-Learn, cloning and single learners as its limits; and
that it finds the policies of experts whose game was solved."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from thespis import envs
from thespis.algos.agents import mamql
from thespis.algos.offline import bc
from thespis.core import Batch, Box, Discrete, Fault, Learner, MultiDiscrete, Spec, leaves, replace
from thespis.data import Recorded, dataset, offline
from thespis.worlds.games import MarkovGame, equilibrium

from . import reference as ref
from .reference import BATCH, F64, members, net, weights

OBS, CHOICES = 3, 4
ONE = Spec(Box(OBS), Discrete(CHOICES))
TWO = Spec(Box(2 * OBS), MultiDiscrete((CHOICES, CHOICES)), rewards=("a", "b"), agents=2)


def learner(spec: Spec = TWO, **numbers: Any) -> Learner:
    return mamql.make(mamql.Config(**{"hidden": (12, 10), "temperature": 0.7, "regulariser": 0.4, **numbers}), spec)


def batch(spec: Spec) -> Batch:
    torch.manual_seed(3)
    many = spec.agents
    obs, next_obs = (torch.randn(BATCH, spec.obs.dim, dtype=F64) for _ in range(2))
    action, reward = torch.randint(CHOICES, (BATCH, many)), torch.randn(BATCH, many, dtype=F64)
    discount = torch.tensor([0.9, 0.9, 0.0, 0.5], dtype=F64).repeat(BATCH // 4)[:, None].repeat(1, many)
    demo = torch.tensor([1.0, 0.0, 1.0, 1.0], dtype=F64).repeat(BATCH // 4)
    b = Batch(obs, action, reward, discount, next_obs, {"demo": demo})
    return b if many > 1 else replace(b, action=action[:, 0], reward=reward[:, 0], discount=discount[:, 0])


@pytest.mark.parametrize("spec", [ONE, TWO], ids=["one agent: IQ-Learn", "two agents"])
def test_loss_by_hand_and_its_gradient(spec: Spec) -> None:
    """IQ-Learn's code, loss "value" with chi-square over all rows: -E_demo[r] + E[V(s) - d V(s')] + E[r^2] / (4 alpha)."""
    made, b = learner(spec), batch(spec)
    s = ref.aged(made.init())
    each = members(s.critic.params)

    def by_hand() -> float:
        total = 0.0
        for i, w in enumerate(each):
            gains, demos = [], b.extra["demo"].numpy()
            for t, (obs, action, _, discount, after) in enumerate(ref.rows(b)):
                q, ahead = (net(w, x[i * OBS : (i + 1) * OBS]) for x in (obs, after))
                v, v_next = (0.7 * np.log(np.exp(x / 0.7).sum()) for x in (q, ahead))
                r = q[np.atleast_1d(action)[i]] - np.atleast_1d(discount)[i] * v_next
                total += (v - np.atleast_1d(discount)[i] * v_next + r**2 / (4 * 0.4)) / BATCH
                gains += [r] * int(demos[t])
            total -= np.mean(gains)
        return total

    loss, _ = made.losses["critic"](s.critic.params, b)
    assert float(loss) == pytest.approx(by_hand(), rel=1e-10)
    grads = ref.gradient(made.losses["critic"], s.critic.params, b)
    for i, w in enumerate(each):
        ref.assert_slopes(weights(grads, i), w, by_hand)


def test_without_a_bound_on_rewards_it_is_cloning_for_each_agent() -> None:
    made, b = learner(regulariser=1e15), batch(TWO)
    b.extra["demo"].fill_(1)
    s = ref.aged(made.init())
    grads = ref.gradient(made.losses["critic"], s.critic.params, b)
    cloning = bc.make(bc.Config(hidden=(12, 10), normalise=False), ONE)
    for i in range(2):
        alone = ref.aged(cloning.init())
        # cloning's logits are Q / T: as they are its last layer's, that layer is divided by T, and its slope multiplied
        p = {k: v[i] / (0.7 if k in ("w2", "b2") else 1) for k, v in s.critic.params.items()}
        rows = replace(b, obs=b.obs[:, i * OBS : (i + 1) * OBS], action=b.action[:, i])
        wanted = ref.gradient(cloning.losses["actor"], p, alone, rows)
        for k, g in wanted.items():
            torch.testing.assert_close(grads[k][i], g * (1.0 if k in ("w2", "b2") else 0.7), rtol=1e-8, atol=1e-10)


def test_each_agent_learns_as_if_alone_on_its_own_rows() -> None:
    two, one, b = learner(lr=0.01), learner(ONE, lr=0.01), batch(TWO)
    s = ref.aged(two.init())
    after, _ = two.update(s, b, 0)
    for i in range(2):
        mine = slice(i * OBS, (i + 1) * OBS)
        alone = ref.rebuild(one.init(), {k: v if v.dim() == 0 else v[i : i + 1] for k, v in leaves(s).items()})
        rows = Batch(b.obs[:, mine], b.action[:, i], b.reward[:, i], b.discount[:, i], b.next_obs[:, mine], b.extra)
        wanted, _ = one.update(alone, rows, 0)
        for k, v in wanted.critic.params.items():
            torch.testing.assert_close(after.critic.params[k][i : i + 1], v, rtol=1e-9, atol=1e-12)


def test_it_acts_by_the_softmax_of_its_critics_and_never_what_is_forbidden() -> None:
    spec = Spec(Box(2 * OBS + 2 * CHOICES), TWO.action, TWO.rewards, agents=2, mask=2 * CHOICES)
    made = learner(spec)
    torch.manual_seed(0)
    p, obs = made.policy(made.init()), torch.randn(1, spec.obs.dim)
    obs[0, -2 * CHOICES :] = torch.tensor([1.0, 0, 1, 1, 0, 1, 1, 0])
    drawn = made.act(p, obs.expand(20_000, -1), True)
    assert drawn.shape == (20_000, 2)
    for i, (w, allowed) in enumerate(zip(members(p), ([0, 2, 3], [1, 2]), strict=True)):
        odds = np.exp(net(w, obs[0, i * OBS : (i + 1) * OBS].numpy()) / 0.7)[allowed]
        share = np.bincount(drawn[:, i].numpy(), minlength=CHOICES) / 20_000
        np.testing.assert_allclose(share[allowed], odds / odds.sum(), atol=0.015)
        assert share.sum() == pytest.approx(share[allowed].sum())
        assert int(made.act(p, obs, False)[0, i]) == allowed[int(odds.argmax())]


@pytest.mark.parametrize("spec", [Spec(Box(3), Box(2)), TWO._replace(agents=1), TWO._replace(action=MultiDiscrete((2, 3)))])
def test_what_it_is_not_for(spec: Spec) -> None:
    with pytest.raises(Fault, match="mamql: a choice for each agent is needed, as many for all; here"):
        learner(spec)


def test_without_demonstrations_nothing_is_infinite() -> None:
    b = batch(TWO)
    b.extra["demo"].fill_(0)
    loss, _ = learner().losses["critic"](ref.aged(learner().init()).critic.params, b)
    assert torch.isfinite(loss)


def test_iq_learns_numbers() -> None:
    ref.assert_defaults(mamql, gamma=0.99, regulariser=0.5, demo_fraction=0.5)
    preset = mamql.PRESETS["iq_learn"]
    assert (preset.lr, preset.temperature, preset.batch_size, preset.replay_size) == (1e-4, 0.01, 32, 50_000)


def test_signature_it_finds_the_policies_of_experts_who_know_one_another() -> None:
    game = MarkovGame(states=4, actions=3, branches=2, demos=120)
    world, experts = envs.world(game), equilibrium(game)
    data = dataset.read(
        game.recorded(), game.observation_space, game.action_space, envs.spaces.flatten, envs.spaces.unscale_action
    )
    torch.manual_seed(0)
    cfg = mamql.Config(lr=0.05, gamma=0.9, temperature=0.5, regulariser=20.0, demo_fraction=1.0, hidden=(), batch_size=1024)
    made = mamql.make(cfg, world.spec)
    s, rows = made.init(), Recorded(world.spec, offline(made.experience), data, needs=made.needs)
    for _ in range(150):
        s, _ = made.update(s, rows.sample(), 0)
    seen = torch.cat([torch.eye(4), torch.ones(4, 1)] * 2, -1)  # both see the state, and a 1
    found = (mamql.critics(world.spec, ()).apply(s.critic.params, seen) / 0.5).softmax(-1).numpy()
    apart = 0.5 * np.abs(found - experts.policies).sum(-1)
    assert apart.mean() < 0.03 < 0.5 * np.abs(1 / 3 - experts.policies).sum(-1).mean()
