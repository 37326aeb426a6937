"""TQC's losses against loops in float64, what its targets leave out, SAC as its limit, and the bias that truncation takes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests.papers import reference as ref
from tests.papers.reference import ACTION, BATCH, SPEC
from thespis import ops
from thespis.algos.continuous import sac, tqc
from thespis.core import Batch, Fault, Learner, leaves, replace

CRITICS, QUANTILES = 3, 4


def learner(**numbers: Any) -> Learner:
    numbers = {"hidden": (7, 6), "critic_hidden": (6, 5), "critics": CRITICS, "quantiles": QUANTILES, "drop": 1, **numbers}
    return tqc.make(tqc.Config(**numbers), SPEC)


@pytest.fixture
def batch() -> Batch:
    return ref.batch()


def quantile_loss(z: np.ndarray, y: np.ndarray) -> float:
    """Of one critic in one state: the mean over pairs of |level - (y below z)| times Huber's loss with bound 1."""
    total = 0.0
    for i, quantile in enumerate(z):
        for sample in y:
            error = sample - quantile
            huber = 0.5 * error**2 if abs(error) <= 1 else abs(error) - 0.5
            total += abs((i + 0.5) / len(z) - (1.0 if error < 0 else 0.0)) * huber
    return total / (len(z) * len(y))


@pytest.mark.parametrize("drop", [0, 1, 3])
def test_critic_loss_and_its_gradient(batch: Batch, drop: int) -> None:
    made = learner(drop=drop)
    s = ref.aged(made.init())
    loss = made.losses["critic"]
    (noise,) = ref.draws(3, (BATCH, ACTION))
    actor, slow, critics = ref.weights(s.actor.params), ref.members(s.target), ref.members(s.critic.params)

    def slow_loop() -> float:
        total = 0.0
        for i, (obs, action, reward, discount, next_obs) in enumerate(ref.rows(batch)):
            next_action, logp = ref.squash(*ref.gaussian(actor, next_obs), noise[i])
            pool = sorted(float(x) for w in slow for x in ref.net(w, next_obs, next_action))
            y = np.array([reward + discount * (x - 0.3 * logp) for x in pool[: CRITICS * (QUANTILES - drop)]])
            total += sum(quantile_loss(ref.net(w, obs, action), y) for w in critics) / (CRITICS * BATCH)
        return total

    assert float(ref.seeded(3, loss, s.critic.params, s, batch)[0]) == pytest.approx(slow_loop(), rel=1e-9)
    grads = ref.seeded(3, ref.gradient, loss, s.critic.params, s, batch)
    ref.assert_slopes({k: g[-1].numpy() for k, g in grads.items()}, critics[-1], slow_loop)


def test_actor_loss_and_its_gradient(batch: Batch) -> None:
    """The actor climbs the mean of every quantile of every critic."""
    made = learner()
    s = ref.aged(made.init())
    loss = made.losses["actor"]
    (noise,) = ref.draws(3, (BATCH, ACTION))
    actor, critics = ref.weights(s.actor.params), ref.members(s.critic.params)

    def slow_loop() -> float:
        total = 0.0
        for i, (obs, *_) in enumerate(ref.rows(batch)):
            action, logp = ref.squash(*ref.gaussian(actor, obs), noise[i])
            total += (0.3 * logp - np.mean([ref.net(w, obs, action) for w in critics])) / BATCH
        return float(total)

    assert float(ref.seeded(3, loss, s.actor.params, s, batch)[0]) == pytest.approx(slow_loop(), rel=1e-9)
    grads = ref.seeded(3, ref.gradient, loss, s.actor.params, s, batch)
    ref.assert_slopes({k: g.numpy() for k, g in grads.items()}, actor, slow_loop)


def test_the_order_of_the_steps(batch: Batch) -> None:
    made = learner(lr=0.01, tau=0.1)
    s = ref.aged(made.init())
    after, _ = ref.seeded(2, made.update, s, batch, 0)
    torch.manual_seed(2)
    critic, _ = ref.step(s.critic, made.losses["critic"], 0.01, s, batch)
    wanted = replace(s, critic=critic)
    actor, told = ref.step(s.actor, made.losses["actor"], 0.01, wanted, batch)
    temperature, _ = ref.step(s.log_alpha, made.losses["alpha"], 0.01, told["entropy"])
    target = ref.mixed(s.target, critic.params, 0.1)
    ref.assert_same(after, replace(wanted, actor=actor, log_alpha=temperature, target=target))


def test_limit_with_one_critic_of_one_quantile_its_critic_loss_is_half_of_sacs(batch: Batch) -> None:
    """While errors are below 1; and the actor's loss is the same."""
    calm = replace(batch, reward=0.1 * batch.reward, discount=0.1 * batch.discount)
    made = learner(hidden=(6, 5), critics=1, quantiles=1, drop=0)
    parent = sac.make(sac.Config(hidden=(6, 5), critics=1), SPEC)
    s = ref.aged(made.init())
    s = replace(s, critic=replace(s.critic, params={k: 0.3 * x for k, x in s.critic.params.items()}))
    theirs = sac.State(s.actor, s.critic, s.target, s.log_alpha)
    for name, share, p in (("critic", 0.5, s.critic.params), ("actor", 1.0, s.actor.params)):
        ours = float(ref.seeded(1, made.losses[name], p, s, calm)[0])
        assert ours == pytest.approx(share * float(ref.seeded(1, parent.losses[name], p, theirs, calm)[0]), rel=1e-12)


@pytest.mark.parametrize(("drop", "wanted"), [(0, 0.5), (1, 0.375), (2, 0.25)])
def test_truncation_lowers_the_value_by_what_quantiles_of_a_known_return_say(drop: int, wanted: float) -> None:
    """A return that is uniform on [0, 1] has the quantiles 1/8, 3/8, 5/8, 7/8; a critic of one quantile that is fitted to
    those that are kept finds the median of them, within the bound of 1 pulled to their mean, (4 - drop) / 8."""
    samples = torch.tensor([[0.125, 0.375, 0.625, 0.875]], dtype=ref.F64)[:, : 4 - drop]
    at = torch.linspace(0, 1, 1_001, dtype=ref.F64)
    losses = torch.stack([ops.quantile_huber(x.view(1, 1), samples) for x in at])
    assert float(at[losses.argmin()]) == pytest.approx(wanted, abs=1e-3)


def test_an_end_has_no_future(batch: Batch) -> None:
    made = learner()
    s = ref.aged(made.init())
    ref.assert_an_end_has_no_future(made.losses["critic"], s.critic.params, s, batch)


def test_act_is_the_mean_or_a_draw_of_the_policy(batch: Batch) -> None:
    made = learner()
    ref.assert_acts_as_a_tanh_gaussian(made, ref.aged(made.init()), batch, ref.gaussian)


def test_defaults_are_the_authors() -> None:
    ref.assert_defaults(
        tqc, lr=3e-4, tau=0.005, hidden=(256, 256), critic_hidden=(512, 512, 512), critics=5, quantiles=25, drop=2,
        gamma=0.99, batch_size=256, replay_size=1_000_000, initial_alpha=1.0, entropy_per_dim=-1.0,
    )  # fmt: skip
    assert leaves(tqc.make(tqc.Config(), SPEC).init())["critic.params.w3"].shape == (5, 512, 25)


def test_to_leave_out_every_quantile_is_refused() -> None:
    with pytest.raises(Fault, match=r"^drop is 4; allowed: less than quantiles, 4$"):
        learner(drop=4)


def test_other_actions_are_refused() -> None:
    ref.assert_refuses_choices(tqc)
