"""HNPG's critic against a loop in float64; TRPO as its limit without data; and which recorded rows have a say in its step."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from thespis.algos.onpolicy import hnpg, trpo
from thespis.core import Batch, Fault, Learner, replace, tree_map

from . import reference as ref
from .reference import ACTION, F64, OBS, SPEC, tanh_net


def learner(**numbers: Any) -> Learner:
    return hnpg.make(hnpg.Config(**{"hidden": (2,), "normalise_obs": False, **numbers}), SPEC)


def recorded(rows: int, same: bool = False) -> Batch:
    n = 1 if same else rows
    data = Batch(*(torch.randn(*size, dtype=F64) for size in ((n, OBS), (n, ACTION), (n,), (n,), (n, OBS))))
    return tree_map(lambda x: x.expand(rows, *x.shape[1:]).clone(), data)


def test_without_data_and_with_critics_of_zero_its_step_is_trpos() -> None:
    made, parent = learner(lam=0.9), trpo.make(trpo.Config(hidden=(2,), normalise_obs=False, lam=0.9), SPEC)
    s, p = ref.aged(made.init()), ref.aged(parent.init())
    zero = lambda group: replace(group, params={k: torch.zeros_like(x) for k, x in group.params.items()})
    s, p = replace(s, critic=zero(s.critic)), replace(p, critic=zero(p.critic), actor={k: x[0] for k, x in s.actor.items()})
    b = ref.rollout()
    b.extra.pop("return_std")
    assert made.prepare
    assert parent.prepare
    ours, _, _ = made.prepare(s, b)
    theirs, _, _ = parent.prepare(p, b)
    ref.assert_same({k: x[0] for k, x in ours.actor.items()}, theirs.actor)
    assert any((ours.actor[k] != x).any() for k, x in s.actor.items())
    assert made.given
    hybrid, _, m = made.prepare(made.given(s, recorded(5)), b)
    assert any((ours.actor[k] - x).abs().max() > 1e-6 for k, x in hybrid.actor.items())
    assert m["kl"] <= 0.01


@pytest.mark.parametrize("online", [0.0, 1.0, 2.5])
def test_the_critic_is_taught_by_returns_and_by_recorded_targets(online: float) -> None:
    made = learner(online=online)
    assert made.prepare
    assert made.given
    data = recorded(7, same=True)
    s = made.given(ref.aged(made.init()), data)
    s = replace(s, actor=s.actor | {"log_std": torch.full_like(s.actor["log_std"], -40.0)})  # it draws its mean
    s = replace(s, fixed={k: x + 0.3 for k, x in s.critic.params.items()})
    rows = ref.batch()
    rows.extra["target"] = torch.randn(len(rows.reward), dtype=F64)
    w, fixed, policy = (ref.weights({k: x[0] for k, x in p.items()}) for p in (s.critic.params, s.fixed, s.actor))
    q = lambda w, o, a: float(tanh_net(w, np.concatenate([o, a]))[0])

    def by_hand() -> float:
        first = zip(rows.obs.numpy(), rows.action.numpy(), rows.extra["target"].numpy(), strict=True)
        mc = np.mean([(q(w, o, a) - y) ** 2 for o, a, y in first])
        o, a, r, d, after = (x[0].numpy() for x in (data.obs, data.action, data.reward, data.discount, data.next_obs))
        target = r + d * q(fixed, after, tanh_net(policy, after))
        return float((q(w, o, a) - target) ** 2 + online * mc)

    assert float(made.losses["critic"](s.critic.params, s, rows)[0]) == pytest.approx(by_hand(), rel=1e-9)
    slopes = ref.gradient(made.losses["critic"], s.critic.params, s, rows)
    ref.assert_slopes(ref.weights({k: x[0] for k, x in slopes.items()}), w, by_hand)


def test_returns_are_monte_carlo_and_end_where_the_episode_does() -> None:
    made = learner(gamma=0.99, lam=0.5)
    s = ref.aged(made.init())
    s = replace(s, critic=replace(s.critic, params={k: torch.zeros_like(x) for k, x in s.critic.params.items()}))
    b = ref.rollout()
    assert made.prepare
    b.extra.pop("return_std")
    _, rows, _ = made.prepare(s, b)
    reward, ended = b.reward.numpy(), b.extra["ended"].numpy()
    expected = np.zeros_like(reward)
    for n in range(reward.shape[1]):
        ahead = 0.0
        for t in reversed(range(len(reward))):
            ahead = expected[t, n] = reward[t, n] + 0.99 * (0.0 if ended[t, n] else ahead)
    np.testing.assert_allclose(rows.extra["target"].numpy(), expected.ravel(), rtol=1e-12)


def test_each_stage_steps_by_its_rows_alone() -> None:
    made, single = learner(stages=2), learner()
    s = ref.aged(made.init())
    s = replace(s, critic=replace(s.critic, params={k: torch.zeros_like(x) for k, x in s.critic.params.items()}))
    first = lambda node: tree_map(lambda x: x[:1], node)
    one = replace(ref.aged(single.init()), actor=first(s.actor), critic=replace(s.critic, params=first(s.critic.params)))
    b = ref.rollout()
    b.extra.pop("return_std")
    for column in (b.obs, b.next_obs):
        column[..., :2] = torch.tensor([1.0, 0.0])
    assert made.prepare
    assert single.prepare
    ours, alone = made.prepare(s, b)[0].actor, single.prepare(one, b)[0].actor
    ref.assert_same(first(ours), alone)
    assert all((ours[k][0] != x[0]).any() and (ours[k][1] == x[1]).all() for k, x in s.actor.items())
    policy, obs = made.policy(replace(s, actor=ours)), b.obs[0]
    apart = made.act(policy, obs * 0 + torch.tensor([0.0, 1.0] + [0.0] * (OBS - 2)), False)
    assert (apart == made.act(made.policy(s), obs * 0 + torch.tensor([0.0, 1.0] + [0.0] * (OBS - 2)), False)).all()


def test_stages_must_leave_something_to_see() -> None:
    with pytest.raises(Fault, match="stages: 9; an observation has"):
        learner(stages=9)
