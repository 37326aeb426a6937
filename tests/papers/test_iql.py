"""IQL's losses against numpy in float64, its order of steps, its limits, and the best recorded action by an expectile."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from thespis.algos.offline import iql
from thespis.core import Batch, Learner, replace

from . import reference as ref
from .reference import ACTION, BATCH, OBS, SPEC, members, net, weights

batch = pytest.fixture(ref.batch)


def learner(**numbers: Any) -> Learner:
    return iql.make(iql.Config(**{"hidden": (12, 10), **numbers}), SPEC)


def state(made: Learner) -> iql.State:
    s = ref.aged(made.init())
    ref.level(s.target)
    ref.level(s.critic.params)
    return replace(s, scale={"reward": torch.tensor(2.5, dtype=ref.F64)})


def slow(s: iql.State, b: Batch) -> list[float]:
    """The lesser slow critic of each row."""
    both = [[net(w, o, a)[0] for w in members(s.target)] for o, a, *_ in ref.rows(b)]
    assert {int(np.argmin(x)) for x in both} == {0, 1}, "no minimum to see"
    return [min(x) for x in both]


def test_value_loss_is_an_expectile(batch: Batch) -> None:
    made = learner(expectile=0.8)
    s = state(made)
    w, q = weights(s.value.params), slow(s, batch)

    def by_hand() -> float:
        errors = [least - net(w, o)[0] for least, o in zip(q, batch.obs.numpy(), strict=True)]
        assert min(errors) < 0 < max(errors)
        return float(np.mean([abs(0.8 - (e < 0)) * e * e for e in errors]))

    assert float(made.losses["value"](s.value.params, s, batch)[0]) == pytest.approx(by_hand(), rel=1e-10)
    ref.assert_slopes(weights(ref.gradient(made.losses["value"], s.value.params, s, batch)), w, by_hand)


def test_critic_loss_looks_at_recorded_actions_alone(batch: Batch) -> None:
    made = learner()
    s = state(made)
    critics, v = members(s.critic.params), weights(s.value.params)

    def by_hand() -> float:
        total = 0.0
        for obs, action, reward, discount, after in ref.rows(batch):
            y = 2.5 * reward + discount * net(v, after)[0]
            total += sum((net(w, obs, action)[0] - y) ** 2 for w in critics)
        return total / BATCH

    assert float(made.losses["critic"](s.critic.params, s, batch)[0]) == pytest.approx(by_hand(), rel=1e-10)
    grads = ref.gradient(made.losses["critic"], s.critic.params, s, batch)
    for i in range(2):
        ref.assert_slopes(weights(grads, i), critics[i], by_hand)
    ref.assert_an_end_has_no_future(made.losses["critic"], s.critic.params, s, batch)
    value, bonus = made.value(s, batch.obs, batch.action)  # in units of reward
    np.testing.assert_allclose(value, [np.mean([net(w, o, a)[0] for w in critics]) / 2.5 for o, a, *_ in ref.rows(batch)])
    assert not bonus.any()


def test_actor_loss_weighs_by_clipped_exponentials(batch: Batch) -> None:
    made = learner(beta=9.0, largest=1.1)
    s = state(made)
    w, v = weights(s.actor.params), weights(s.value.params)
    weight = [np.exp(9 * (q - net(v, o)[0])) for q, o in zip(slow(s, batch), batch.obs.numpy(), strict=True)]
    assert min(weight) < 1.1 < max(weight), "no clip to see"
    weight = np.minimum(weight, 1.1)

    def by_hand() -> float:
        plain, log_std, total = {k: x for k, x in w.items() if k != "log_std"}, np.clip(w["log_std"], -5, 2), 0.0
        for c, (obs, action, *_) in zip(weight, ref.rows(batch), strict=True):
            noise = (action - np.tanh(net(plain, obs))) / np.exp(log_std)
            total -= c * (-0.5 * noise**2 - log_std - 0.5 * np.log(2 * np.pi)).sum()
        return total / BATCH

    loss, metrics = made.losses["actor"](s.actor.params, s, batch)
    assert float(loss) == pytest.approx(by_hand(), rel=1e-10)
    assert float(metrics["effective_sample"]) == pytest.approx(weight.sum() ** 2 / (weight**2).sum() / BATCH)
    ref.assert_slopes(weights(ref.gradient(made.losses["actor"], s.actor.params, s, batch)), w, by_hand)


def test_value_then_actor_then_critics_then_targets(batch: Batch) -> None:
    made = learner(lr=0.01, tau=0.1, decay=14)
    s = state(made)
    after, metrics = made.update(s, batch, 0)
    value, _ = ref.step(s.value, made.losses["value"], 0.01, s, batch)
    wanted = replace(s, value=value)
    actor, _ = ref.step(s.actor, made.losses["actor"], 0.005, wanted, batch)  # at half of the cosine, after 7 of 14 steps
    critic, _ = ref.step(s.critic, made.losses["critic"], 0.01, wanted, batch)
    ref.assert_same(after, replace(wanted, actor=actor, critic=critic, target=ref.mixed(s.target, critic.params, 0.1)))
    assert set(metrics) == {"value_loss", "value", "actor_loss", "effective_sample", "critic_loss", "q"}
    steady = learner(lr=0.01, decay=0)
    same, _ = ref.step(s.actor, steady.losses["actor"], 0.01, wanted, batch)
    ref.assert_same(steady.update(s, batch, 0)[0].actor, same)


def test_rewards_are_scaled_by_the_range_of_returns(batch: Batch) -> None:
    returns = torch.tensor([3.0, 3.0, -1.0, -1.0, 4.0, 4.0, 0.0, 0.0], dtype=ref.F64)
    data = replace(batch, extra={"episode_return": returns})
    assert float(learner().given(learner().init(), data).scale["reward"]) == 200
    assert float(learner(scale_reward=False).given(learner().init(), data).scale["reward"]) == 1
    assert float(learner().given(learner().init(), replace(batch, extra={"episode_return": 0 * returns})).scale["reward"]) == 1


def test_limit_beta_0_is_cloning(batch: Batch) -> None:
    made = learner(beta=0.0)
    s = state(made)
    plain, log_std = {k: x for k, x in weights(s.actor.params).items() if k != "log_std"}, weights(s.actor.params)["log_std"]
    logp = [(-0.5 * ((a - np.tanh(net(plain, o))) / np.exp(log_std)) ** 2 - log_std - 0.5 * np.log(2 * np.pi)).sum()
            for o, a, *_ in ref.rows(batch)]  # fmt: skip
    loss, metrics = made.losses["actor"](s.actor.params, s, batch)
    assert float(loss) == pytest.approx(-np.mean(logp), rel=1e-10)
    assert float(metrics["effective_sample"]) == pytest.approx(1)


@pytest.mark.parametrize(("expectile", "low", "high"), [(0.5, -0.1, 0.1), (0.97, 0.45, 1.0)])
def test_signature_from_the_mean_to_the_best_recorded_action(expectile: float, low: float, high: float) -> None:
    """One step; the recorded rewards are even over [-1, 1], and belong to actions that all lie below 0.5."""
    torch.manual_seed(0)
    made = learner(hidden=(24,), lr=1e-2, expectile=expectile, beta=8.0, tau=0.2, decay=0, scale_reward=False)
    s, g = made.init(), torch.Generator().manual_seed(1)
    for _ in range(350):
        obs, action = torch.randn(64, OBS, generator=g), torch.rand(64, ACTION, generator=g) - 0.5
        s, metrics = made.update(s, Batch(obs, action, 2 * action[:, 0], torch.zeros(64), obs), 0)
    assert low < float(metrics["value"]) < high
    acted = made.act(made.policy(s), torch.randn(200, OBS), False)
    assert 0.15 < float(acted[:, 0].mean()) < 0.5
    assert abs(float(acted[:, 1].mean())) < 0.1


def test_defaults_are_the_papers() -> None:
    ref.assert_defaults(
        iql, lr=3e-4, tau=0.005, hidden=(256, 256), expectile=0.7, beta=3.0, largest=100.0, critics=2, gamma=0.99, batch_size=256,
        decay=1_000_000,
    )  # fmt: skip


def test_other_actions_are_refused() -> None:
    ref.assert_refuses_choices(iql)
