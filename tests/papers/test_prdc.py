"""PRDC's pull against distances one by one in float64, TD3+BC as its limit, bounded values, and what the pull can mend."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from thespis.algos.offline import prdc, td3_bc
from thespis.core import Batch, Learner, replace

from . import reference as ref
from .reference import ACTION, OBS, SPEC, Weights, members, net, weights

batch = pytest.fixture(ref.batch)


def learner(**numbers: Any) -> Learner:
    return prdc.make(prdc.Config(**{"hidden": (12, 10), **numbers}), SPEC)


def state(made: Learner, data: Batch) -> prdc.State:
    return made.given(ref.aged(made.init()), data)


def data_of(rows: int) -> Batch:
    """Other rows than the batch's."""
    obs, after = torch.randn(2, rows, OBS, dtype=ref.F64)
    return Batch(2 + 3 * obs, torch.rand(rows, ACTION, dtype=ref.F64) * 2 - 1, obs[:, 0], obs[:, 0], after)


def nearest(data: Batch, obs: np.ndarray, action: np.ndarray, beta: float) -> np.ndarray:
    """The recorded action of the least distance, normalised states weighing beta."""
    seen = data.obs.numpy()
    mean, std = seen.mean(0), seen.std(0) + 1e-3
    apart = beta * ((seen - mean) / std - (obs - mean) / std)
    return data.action.numpy()[((apart**2).sum(1) + ((data.action.numpy() - action) ** 2).sum(1)).argmin()]


@pytest.mark.parametrize("beta", [0.0, 0.7, 5.0])
def test_actor_loss_and_its_gradient(batch: Batch, beta: float) -> None:
    made, data = learner(beta=beta, alpha=1.7), data_of(50)
    s = state(made, data)
    actor, first = weights(s.actor.params), members(s.critic.params)[0]
    seen = data.obs.numpy()
    shown = (batch.obs.numpy() - seen.mean(0)) / (seen.std(0) + 1e-3)

    def mu(w: Weights, x: np.ndarray) -> np.ndarray:
        return np.tanh(net(w, x))

    pulled = [nearest(data, o, mu(actor, x), beta) for o, x in zip(batch.obs.numpy(), shown, strict=True)]
    weight = 1.7 / np.mean([abs(net(first, x, mu(actor, x))[0]) for x in shown])

    def by_hand() -> float:  # neither the pull nor the weight follows the actor
        distances = [((mu(actor, x) - a) ** 2).mean() for x, a in zip(shown, pulled, strict=True)]
        return float(np.mean(distances) - weight * np.mean([net(first, x, mu(actor, x))[0] for x in shown]))

    assert float(made.losses["actor"](s.actor.params, s, batch)[0]) == pytest.approx(by_hand(), rel=1e-10)
    ref.assert_slopes(weights(ref.gradient(made.losses["actor"], s.actor.params, s, batch)), actor, by_hand)


def test_of_a_large_dataset_some_rows_are_keys(batch: Batch) -> None:
    made, data = learner(keys=30, beta=1.0), data_of(200)
    one, two, other = (ref.seeded(seed, made.given, ref.double(made.init()), data).keys for seed in (1, 1, 2))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    assert one.shape == (128, OBS + ACTION)
    assert len(one.unique(dim=0)) == 30
    all_rows = torch.cat([(data.obs - data.obs.mean(0)) / (data.obs.std(0, correction=0) + 1e-3), data.action], -1)
    assert all((all_rows - row).abs().sum(-1).min() < 1e-12 for row in one)


def test_limit_a_large_beta_is_td3_bc(batch: Batch) -> None:
    """Every recorded pair is a key, and a state's own is then the nearest."""
    numbers: dict[str, Any] = {"hidden": (8, 6), "lr": 0.01, "tau": 0.1}
    made, parent = learner(beta=1e5, **numbers), td3_bc.make(td3_bc.Config(**numbers), SPEC)
    s = made.given(ref.double(made.init()), batch)
    p = td3_bc.State(s.actor, s.critic, s.actor_target, s.critic_target, s.seen)
    for i in range(6):
        s, m = ref.seeded(i, made.update, s, batch, i % 2)
        p, n = ref.seeded(i, parent.update, p, batch, i % 2)
    ref.assert_same(td3_bc.State(s.actor, s.critic, s.actor_target, s.critic_target, s.seen), p)
    assert float(m["distance"]) == pytest.approx(float(n["cloning"]))
    small = learner(beta=0.1, **numbers)
    near, _ = small.losses["actor"](s.actor.params, small.given(s, batch), batch)
    assert float(near) < float(made.losses["actor"](s.actor.params, s, batch)[0])


def test_actor_and_targets_wait(batch: Batch) -> None:
    made = learner(delay=2, lr=0.01, tau=0.1)
    s = state(made, data_of(20))
    first, _ = ref.seeded(1, made.update, s, batch, 0)
    assert ref.moved(s, first) == {"critic"}
    second, _ = ref.seeded(2, made.update, first, batch, 1)
    assert ref.moved(first, second) == {"actor", "critic", "actor_target", "critic_target"}
    critic, _ = ref.seeded(2, ref.step, first.critic, made.losses["critic"], 0.01, first, batch)
    wanted = replace(first, critic=critic)
    actor, _ = ref.step(first.actor, made.losses["actor"], 0.01, wanted, batch)
    slow = ref.mixed(s.actor_target, actor.params, 0.1), ref.mixed(s.critic_target, critic.params, 0.1)
    ref.assert_same(second, replace(wanted, actor=actor, actor_target=slow[0], critic_target=slow[1]))


def test_signature_values_stay_bounded() -> None:
    """As TD3+BC's do on the same rows, where TD3's do not (test_td3_bc.py)."""
    assert 2 < ref.last_value(learner(alpha=0.2, **ref.NARROW)) < 10


def test_signature_a_good_action_of_a_near_state_is_taken() -> None:
    """In one state of ten the recorded action is good, in the others it is backwards: PRDC takes the good one in all."""
    torch.manual_seed(0)
    numbers: dict[str, Any] = {"hidden": (24,), "lr": 1e-2, "gamma": 0.0, "n_step": 1, "alpha": 1.0, "normalise": True}
    g = torch.Generator().manual_seed(1)
    obs = torch.randn(500, OBS, generator=g)
    good = torch.arange(500) % 10 == 0
    action = torch.where(good[:, None], 0.8, -0.8) + 0.05 * torch.randn(500, ACTION, generator=g)
    data = Batch(obs, action.clamp(-1, 1), action.mean(-1), torch.zeros(500), obs)
    taken = {}
    for name, made in (("prdc", learner(beta=0.1, **numbers)), ("td3_bc", td3_bc.make(td3_bc.Config(**numbers), SPEC))):
        s = made.given(ref.seeded(0, made.init), data)
        for i in range(300):
            row = torch.randint(500, (64,), generator=g)
            s, _ = made.update(s, Batch(obs[row], data.action[row], data.reward[row], torch.zeros(64), obs[row]), i % 2)
        taken[name] = float((made.act(made.policy(s), obs, False) > 0.5).float().mean())
    assert taken["prdc"] > 0.9, taken
    assert taken["td3_bc"] < 0.5, taken


def test_defaults_are_the_authors() -> None:
    ref.assert_defaults(
        prdc, lr=3e-4, tau=0.005, hidden=(256, 256), alpha=2.5, beta=2.0, critics=2, delay=2, target_noise=0.2, target_clip=0.5,
        gamma=0.99, batch_size=256,
    )  # fmt: skip


def test_other_actions_are_refused() -> None:
    ref.assert_refuses_choices(prdc)


def test_critic_loss_is_that_of_td3_bc(batch: Batch) -> None:
    """Which is held to numpy in test_td3_bc.py."""
    made, parent = learner(), td3_bc.make(td3_bc.Config(hidden=(12, 10)), SPEC)
    s = state(made, data_of(20))
    p = td3_bc.State(s.actor, s.critic, s.actor_target, s.critic_target, s.seen)
    one, two = (ref.seeded(3, m.losses["critic"], s.critic.params, x, batch)[0] for m, x in ((made, s), (parent, p)))
    assert float(one) == float(two)
