"""TD3+BC's losses against numpy in float64, its two limits, and what it is for: values that stay bounded."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from thespis.algos.continuous import td3
from thespis.algos.offline import td3_bc
from thespis.core import Batch, Learner, replace

from . import reference as ref
from .reference import ACTION, BATCH, SPEC, Weights, members, net, weights

batch = pytest.fixture(ref.batch)
MEAN, STD = torch.tensor([0.5, -1.0, 2.0], dtype=ref.F64), torch.tensor([0.5, 2.0, 1.5], dtype=ref.F64)


def learner(**numbers: Any) -> Learner:
    return td3_bc.make(td3_bc.Config(**{"hidden": (12, 10), **numbers}), SPEC)


def state(made: Learner) -> td3_bc.State:
    """Aged, with a normaliser at work, bold slow actions, and slow critics of which none is always the least."""
    s = ref.aged(made.init())
    for p in (s.actor_target, s.critic_target):
        p["w2"].mul_(8)
    ref.level(s.critic_target)
    return replace(s, seen={"mean": MEAN, "std": STD})


def shown(obs: np.ndarray) -> np.ndarray:
    return (obs - MEAN.numpy()) / STD.numpy()


def mu(w: Weights, obs: np.ndarray) -> np.ndarray:
    return np.tanh(net(w, shown(obs)))


def critic_loss(critics: list[Weights], s: td3_bc.State, b: Batch, noise: np.ndarray) -> float:
    total, least = 0.0, set()
    for e, (obs, action, reward, discount, next_obs) in zip(noise, ref.rows(b), strict=True):
        next_action = np.clip(mu(weights(s.actor_target), next_obs) + e, -1, 1)
        values = [net(w, shown(next_obs), next_action)[0] for w in members(s.critic_target)]
        least.add(int(np.argmin(values)))
        total += sum((net(w, shown(obs), action)[0] - reward - discount * min(values)) ** 2 for w in critics)
    assert len(least) == 2, "no minimum to see"
    return total / BATCH


def actor_loss(actor: Weights, first: Weights, b: Batch, alpha: float, weight: float | None = None) -> float:
    """`weight`: lambda, where it is not to follow the actor."""
    values = [net(first, shown(obs), mu(actor, obs))[0] for obs, *_ in ref.rows(b)]
    weight = alpha / np.mean(np.abs(values)) if weight is None else weight
    cloning = [((mu(actor, obs) - action) ** 2).mean() for obs, action, *_ in ref.rows(b)]
    return float(np.mean(cloning) - weight * np.mean(values))


def test_critic_loss_and_its_gradient(batch: Batch) -> None:
    made = learner(target_noise=0.5, target_clip=0.4)
    s, (drawn,) = state(made), ref.draws(7, (BATCH, ACTION))
    noise, w = np.clip(0.5 * drawn, -0.4, 0.4), members(s.critic.params)
    loss, _ = ref.seeded(7, made.losses["critic"], s.critic.params, s, batch)
    assert float(loss) == pytest.approx(critic_loss(w, s, batch, noise), rel=1e-10)
    grads = ref.seeded(7, ref.gradient, made.losses["critic"], s.critic.params, s, batch)
    for i in range(2):
        ref.assert_slopes(weights(grads, i), w[i], lambda: critic_loss(w, s, batch, noise))


def test_actor_loss_and_its_gradient_through_all_but_the_weight(batch: Batch) -> None:
    made = learner(alpha=1.7)
    s = state(made)
    actor, first = weights(s.actor.params), members(s.critic.params)[0]
    loss, metrics = made.losses["actor"](s.actor.params, s, batch)
    assert float(loss) == pytest.approx(actor_loss(actor, first, batch, 1.7), rel=1e-10)
    assert float(metrics["cloning"]) == pytest.approx(actor_loss(actor, first, batch, 0), rel=1e-10)
    weight = 1.7 / np.mean([abs(net(first, shown(o), mu(actor, o))[0]) for o, *_ in ref.rows(batch)])
    grads = ref.gradient(made.losses["actor"], s.actor.params, s, batch)
    ref.assert_slopes(weights(grads), actor, lambda: actor_loss(actor, first, batch, 1.7, weight))


def test_what_is_taken_of_the_dataset(batch: Batch) -> None:
    made = learner()
    s = made.given(ref.double(made.init()), batch)
    np.testing.assert_allclose(s.seen["mean"].numpy(), batch.obs.numpy().mean(0), rtol=1e-12)
    np.testing.assert_allclose(s.seen["std"].numpy(), batch.obs.numpy().std(0) + 1e-3, rtol=1e-12)
    plain = learner(normalise=False)
    ref.assert_same(plain.given(s, replace(batch, obs=batch.obs + 1)), s)


def test_it_acts_by_normalised_observations(batch: Batch) -> None:
    made = learner(noise=0.3)
    s, (noise,) = state(made), ref.draws(4, (BATCH, ACTION))
    wanted = np.stack([mu(weights(s.actor.params), x) for x in batch.obs.numpy()])
    np.testing.assert_allclose(made.act(made.policy(s), batch.obs, False).numpy(), wanted, rtol=1e-10)
    explored = ref.seeded(4, made.act, made.policy(s), batch.obs, True)
    np.testing.assert_allclose(explored.numpy(), np.clip(wanted + 0.3 * noise, -1, 1), rtol=1e-10)


def test_limit_a_heavy_critic_is_td3_and_none_is_cloning(batch: Batch) -> None:
    """The first step of Adam does not know a loss's size, so at a large alpha it is TD3's; later ones weigh each batch anew."""
    numbers: dict[str, Any] = {"hidden": (8, 6), "lr": 0.01, "tau": 0.1}
    made, parent = learner(alpha=1e9, **numbers), td3.make(td3.Config(**numbers), SPEC)
    s = ref.double(made.init())
    p = td3.State(s.actor, s.critic, s.actor_target, s.critic_target)
    for k in (0, 1):
        s, _ = ref.seeded(k, made.update, s, batch, k)
        p, _ = ref.seeded(k, parent.update, p, batch, k)
    ref.assert_same(s.critic, p.critic)
    ref.assert_same(s.actor.params, p.actor.params, 1e-4, 3e-6)  # Adam's eps
    ref.assert_same(s.actor_target, p.actor_target, 1e-4, 3e-6)

    cloning = learner(alpha=0.0)
    s = state(cloning)
    loss, metrics = cloning.losses["actor"](s.actor.params, s, batch)
    assert float(loss) == pytest.approx(float(metrics["cloning"]), rel=1e-12)


def test_signature_values_stay_bounded_where_td3s_explode() -> None:
    assert 2 < ref.last_value(learner(alpha=0.2, **ref.NARROW)) < 10
    assert ref.last_value(td3.make(td3.Config(**ref.NARROW), SPEC)) > 50


def test_defaults_are_the_papers() -> None:
    ref.assert_defaults(
        td3_bc, lr=3e-4, tau=0.005, hidden=(256, 256), alpha=2.5, critics=2, delay=2, target_noise=0.2, target_clip=0.5,
        gamma=0.99, batch_size=256, normalise=True,
    )  # fmt: skip


def test_other_actions_are_refused() -> None:
    ref.assert_refuses_choices(td3_bc)
