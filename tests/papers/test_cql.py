"""CQL's losses against numpy in float64, SAC as its limit, and critics that are low where nothing is recorded."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from thespis.algos.continuous import sac
from thespis.algos.offline import cql
from thespis.core import Batch, Learner, replace

from . import reference as ref
from .reference import ACTION, BATCH, OBS, SPEC, Weights, gaussian, members, net, squash, weights

batch = pytest.fixture(ref.batch)


def learner(**numbers: Any) -> Learner:
    return cql.make(cql.Config(**{"hidden": (12, 10), "samples": 3, **numbers}), SPEC)


def state(made: Learner) -> cql.State:
    s = ref.aged(made.init())
    ref.level(s.target)
    return s


def drawn(seed: int, n: int) -> tuple[np.ndarray, ...]:
    """What the critic's loss draws: noise of the next action, random actions, noise here, noise of the next state."""
    torch.manual_seed(seed)
    first = torch.randn(BATCH, ACTION, dtype=ref.F64)
    uniform = torch.rand(n, BATCH, ACTION, dtype=ref.F64)
    here, after = torch.randn(n, BATCH, ACTION, dtype=ref.F64), torch.randn(n, BATCH, ACTION, dtype=ref.F64)
    return first.numpy(), (2 * uniform - 1).numpy(), here.numpy(), after.numpy()


def critic_loss(critics: list[Weights], s: cql.State, b: Batch, seed: int, weight: float, gap: float, entropy: bool) -> float:
    first, uniform, here, after = drawn(seed, 3)
    pi, alpha, total = weights(s.actor.params), float(s.log_alpha.params["x"].exp()), 0.0
    for i, (obs, action, reward, discount, next_obs) in enumerate(ref.rows(b)):
        a, logp = squash(*gaussian(pi, next_obs), first[i])
        y = min(net(w, next_obs, a)[0] for w in members(s.target)) - (alpha * logp if entropy else 0)
        others = [(u[i], -ACTION * math.log(2)) for u in uniform]
        others += [squash(*gaussian(pi, o), noise[i]) for o, x in ((obs, here), (next_obs, after)) for noise in x]
        for w in critics:
            q = net(w, obs, action)[0]
            total += (q - reward - discount * y) ** 2 / BATCH
            total += weight * (np.log(sum(np.exp(net(w, obs, x)[0] - d) for x, d in others)) - q - gap) / BATCH
    return total


@pytest.mark.parametrize("gap", [None, 0.7])
@pytest.mark.parametrize("entropy", [True, False])
def test_critic_loss_and_its_gradient(batch: Batch, gap: float | None, entropy: bool) -> None:
    made = learner(weight=1.5, gap=gap, entropy_backup=entropy)
    s = state(made)
    if gap:
        s.log_weight["x"].params["x"].fill_(math.log(0.4))
    w, weight = members(s.critic.params), 1.5 * (0.4 if gap else 1.0)

    def by_hand() -> float:
        return critic_loss(w, s, batch, 7, weight, gap or 0.0, entropy)

    loss, _ = ref.seeded(7, made.losses["critic"], s.critic.params, s, batch)
    assert float(loss) == pytest.approx(by_hand(), rel=1e-10)
    if gap is None and entropy:
        grads = ref.seeded(7, ref.gradient, made.losses["critic"], s.critic.params, s, batch)
        ref.assert_slopes(weights(grads, 1), w[1], by_hand)


def test_the_actor_clones_at_first_and_then_climbs(batch: Batch) -> None:
    made = learner(cloning=10)
    s = state(made)  # after 7 updates
    (noise,) = ref.draws(3, (BATCH, ACTION))
    pi, alpha, critics = weights(s.actor.params), 0.3, members(s.critic.params)

    def by_hand(cloning: bool) -> float:
        total = 0.0
        for e, (obs, action, *_) in zip(noise, ref.rows(batch), strict=True):
            mean, log_std = gaussian(pi, obs)
            a, logp = squash(mean, log_std, e)
            u = np.arctanh(action)
            recorded = squash(mean, log_std, (u - mean) / np.exp(log_std))[1]
            total += alpha * logp - (recorded if cloning else min(net(w, obs, a)[0] for w in critics))
        return total / BATCH

    assert float(ref.seeded(3, made.losses["actor"], s.actor.params, s, batch)[0]) == pytest.approx(by_hand(True), rel=1e-8)
    s = replace(s, actor=replace(s.actor, t=torch.tensor(10.0, dtype=ref.F64)))
    assert float(ref.seeded(3, made.losses["actor"], s.actor.params, s, batch)[0]) == pytest.approx(by_hand(False), rel=1e-10)


def test_a_learnt_weight_grows_while_the_gap_is_too_wide(batch: Batch) -> None:
    for gap, sign in ((1e-3, 1), (1e3, -1)):
        made = learner(gap=gap)
        s = made.init()
        after, metrics = made.update(s, ref.tree_map(lambda x: x.float(), batch), 0)
        moved = float(after.log_weight["x"].params["x"] - s.log_weight["x"].params["x"])
        assert np.sign(moved) == sign
        assert float(metrics["weight"]) == pytest.approx(math.exp(moved), rel=1e-5)
    assert learner().init().log_weight == {}


def test_limit_weight_0_is_sac(batch: Batch) -> None:
    numbers: dict[str, Any] = {"hidden": (12, 10), "lr": 0.01, "tau": 0.1}
    made = learner(weight=0.0, entropy_backup=True, cloning=0, actor_lr=0.01, **numbers)
    parent = sac.make(sac.Config(**numbers), SPEC)
    s = state(made)
    p = sac.State(s.actor, s.critic, s.target, s.log_alpha)
    one, two = (ref.seeded(1, ref.gradient, m.losses["critic"], s.critic.params, x, batch) for m, x in ((made, s), (parent, p)))
    ref.assert_same(one, {k: 2 * g for k, g in two.items()})
    one, two = (ref.seeded(1, m.losses["actor"], s.actor.params, x, batch)[0] for m, x in ((made, s), (parent, p)))
    assert float(one) == pytest.approx(float(two), rel=1e-12)
    fresh = ref.double(made.init())
    after, _ = ref.seeded(1, made.update, fresh, batch, 0)
    same, _ = ref.seeded(1, parent.update, sac.State(fresh.actor, fresh.critic, fresh.target, fresh.log_alpha), batch, 0)
    ref.assert_same(after.critic.params, same.critic.params, 1e-4, 1e-6)  # a first step: twice the loss is nothing to Adam
    ref.assert_same(after.target, same.target, 1e-4, 1e-6)


def test_critics_first_then_actor_then_temperature(batch: Batch) -> None:
    made = learner(lr=0.01, actor_lr=0.02, tau=0.1)
    s = state(made)
    after, metrics = ref.seeded(1, made.update, s, batch, 0)
    torch.manual_seed(1)
    critic, _ = ref.step(s.critic, made.losses["critic"], 0.01, s, batch)
    wanted = replace(s, critic=critic)
    actor, told = ref.step(s.actor, made.losses["actor"], 0.02, wanted, batch)
    temperature, _ = ref.step(s.log_alpha, made.losses["alpha"], 0.02, told["entropy"])
    slow = ref.mixed(s.target, critic.params, 0.1)
    ref.assert_same(after, replace(wanted, actor=actor, log_alpha=temperature, target=slow))
    assert {"above", "gap", "q", "entropy", "alpha"} < set(metrics)


def test_signature_an_action_that_is_not_recorded_is_worth_less() -> None:
    """All rewards are 1 and recorded actions narrow: the weight alone makes wide ones low."""
    torch.manual_seed(0)
    told = {}
    for weight in (0.0, 5.0):
        made = learner(hidden=(24, 24), lr=1e-2, weight=weight, samples=5, gamma=0.0)
        s, g = ref.seeded(0, made.init), torch.Generator().manual_seed(1)
        for _ in range(150):
            obs, action = torch.randn(64, OBS, generator=g), 0.1 * torch.randn(64, ACTION, generator=g)
            s, _ = made.update(s, Batch(obs, action, torch.ones(64), torch.zeros(64), obs), 0)
        obs = torch.randn(200, OBS, generator=g)
        inside, outside = (made.value(s, obs, a * torch.ones(200, ACTION))[0].mean() for a in (0.0, 0.9))
        told[weight] = float(inside - outside)
    assert told[5.0] > told[0.0] + 2, told


def test_defaults_are_the_authors() -> None:
    ref.assert_defaults(
        cql,
        lr=3e-4,
        actor_lr=1e-4,
        weight=5.0,
        samples=10,
        tau=0.005,
        critics=2,
        gamma=0.99,
        batch_size=256,
        entropy_backup=False,
    )


def test_other_actions_are_refused() -> None:
    ref.assert_refuses_choices(cql)
