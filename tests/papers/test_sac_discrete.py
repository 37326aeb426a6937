"""Discrete SAC: its sums over actions against numpy in float64, its order of steps, its draws, and sac in the mean."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from thespis.algos.discrete import sac_discrete
from thespis.core import Batch, Box, Discrete, Learner, MultiDiscrete, Spec, replace, tree_map

from . import reference as ref
from .reference import BATCH, OBS, Weights, members, net, weights

CHOICES, ALPHA = 4, 0.3
SPEC = Spec(Box(OBS), Discrete(CHOICES))


def learner(**numbers: Any) -> Learner:
    return sac_discrete.make(sac_discrete.Config(**{"hidden": (12, 10), **numbers}), SPEC)


def state(made: Learner) -> sac_discrete.State:
    """With decided and undecided policies, and critics of which none is always the least."""
    s = ref.aged(made.init())
    s.actor.params["w2"].mul_(6)
    for p in (s.critic.params, s.target):
        p["w2"].mul_(4)
        ref.level(p)
    return s


@pytest.fixture
def batch() -> Batch:
    return replace(ref.batch(), action=torch.tensor([0, 3, 1, 1, 2, 0, 2, 3]))


def policy(w: Weights, obs: np.ndarray) -> np.ndarray:
    e = np.exp(net(w, obs))
    return e / e.sum()


def critic_loss(critics: list[Weights], s: sac_discrete.State, b: Batch) -> float:
    """eqs. 4, 5: the expectation of the soft value over every action, each at its least critic."""
    total, least = 0.0, set()
    for obs, action, reward, discount, next_obs in ref.rows(b):
        prob, qs = policy(weights(s.actor.params), next_obs), [net(w, next_obs) for w in members(s.target)]
        least |= set(np.argmin(qs, 0))
        y = reward + discount * sum(prob[a] * (min(q[a] for q in qs) - ALPHA * math.log(prob[a])) for a in range(CHOICES))
        total += sum(0.5 * (net(w, obs)[action] - y) ** 2 for w in critics)
    assert len(least) == len(critics), "no minimum to see"
    return total / BATCH


def costs(actor: Weights, critics: list[Weights], obs: np.ndarray) -> np.ndarray:
    """alpha log pi(a|s) - min Q(s, a) of every action: what SAC's actor loss is at a sample."""
    prob = policy(actor, obs)
    return np.array([ALPHA * math.log(prob[a]) - min(net(w, obs)[a] for w in critics) for a in range(CHOICES)])


def actor_loss(actor: Weights, critics: list[Weights], b: Batch) -> float:
    """eq. 12"""
    return float(np.mean([policy(actor, obs) @ costs(actor, critics, obs) for obs in b.obs.numpy()]))


# ------------------------------------------------------------------------------------------------------------- the losses


@pytest.mark.parametrize("critics", [1, 2, 3])
def test_critic_loss_and_its_gradient(batch: Batch, critics: int) -> None:
    made = learner(critics=critics)
    s = state(made)
    w = members(s.critic.params)
    loss, metrics = made.losses["critic"](s.critic.params, s, batch)
    assert float(loss) == pytest.approx(critic_loss(w, s, batch), rel=1e-10)
    assert float(metrics["q"]) == pytest.approx(np.mean([net(c, o)[a] for c in w for o, a, *_ in ref.rows(batch)]), rel=1e-10)
    grads = ref.gradient(made.losses["critic"], s.critic.params, s, batch)
    for i in range(critics):
        ref.assert_slopes(weights(grads, i), w[i], lambda: critic_loss(w, s, batch))


@pytest.mark.parametrize("critics", [1, 2, 3])
def test_actor_loss_and_its_exact_gradient(batch: Batch, critics: int) -> None:
    made = learner(critics=critics)
    s = state(made)
    w, qs = weights(s.actor.params), members(s.critic.params)
    loss, metrics = made.losses["actor"](s.actor.params, s, batch)
    assert float(loss) == pytest.approx(actor_loss(w, qs, batch), rel=1e-10)
    probs = [policy(w, obs) for obs in batch.obs.numpy()]
    assert float(metrics["entropy"]) == pytest.approx(-np.mean([p @ np.log(p) for p in probs]), rel=1e-10)
    grads = ref.gradient(made.losses["actor"], s.actor.params, s, batch)
    ref.assert_slopes(weights(grads), w, lambda: actor_loss(w, qs, batch))
    exact = np.zeros(CHOICES)  # in the logits: pi_k (c_k - pi . c)
    for p, obs in zip(probs, batch.obs.numpy(), strict=True):
        c = costs(w, qs, obs)
        exact += p * (c - p @ c) / BATCH
    np.testing.assert_allclose(grads["b2"].numpy(), exact, rtol=1e-9)


@pytest.mark.parametrize("ratio", [0.98, 0.3])
def test_temperature_loss_and_its_gradient(batch: Batch, ratio: float) -> None:
    """eq. 11 on log alpha: the same slope whatever alpha is."""
    p, wanted = {"x": torch.tensor(math.log(ALPHA), dtype=ref.F64)}, 1.1 - ratio * math.log(CHOICES)
    loss = learner(entropy_ratio=ratio).losses["alpha"]
    assert float(loss(p, 1.1, batch)[0]) == pytest.approx(math.log(ALPHA) * wanted)
    assert float(ref.gradient(loss, p, 1.1, batch)["x"]) == pytest.approx(wanted)


def test_what_the_mask_forbids_is_in_no_sum_and_never_drawn(batch: Batch) -> None:
    """With a mask the losses, the target entropy and the draws are those of a task that has the allowed choices alone."""
    few, spec = [0, 2, 3], Spec(Box(OBS + CHOICES), Discrete(CHOICES), mask=CHOICES)
    made = sac_discrete.make(sac_discrete.Config(hidden=(12, 10)), spec)
    s, b = state(made), replace(batch, action=torch.tensor([0, 2, 3, 3, 2, 0, 2, 3]))
    mask = torch.tensor([1.0, 0.0, 1.0, 1.0], dtype=ref.F64).expand(BATCH, CHOICES)
    b = replace(b, obs=torch.cat([b.obs, mask], -1), next_obs=torch.cat([b.next_obs, mask], -1))
    alone = sac_discrete.make(sac_discrete.Config(hidden=(12, 10)), Spec(Box(OBS + CHOICES), Discrete(len(few))))

    def cut(tree: Any) -> Any:  # without the forbidden choice's outputs
        return {k: x[..., few] if k in ("w2", "b2") else x for k, x in tree.items()}

    twin = replace(
        s, actor=replace(s.actor, params=cut(s.actor.params)), critic=replace(s.critic, params=cut(s.critic.params)),
        target=cut(s.target),
    )  # fmt: skip
    theirs = replace(b, action=torch.tensor([few.index(int(a)) for a in b.action]))
    for name in ("critic", "actor"):
        params, less = getattr(s, name).params, getattr(twin, name).params
        assert float(made.losses[name](params, s, b)[0]) == pytest.approx(
            float(alone.losses[name](less, twin, theirs)[0]), rel=1e-12
        )
        grads, wanted = ref.gradient(made.losses[name], params, s, b), ref.gradient(alone.losses[name], less, twin, theirs)
        ref.assert_same(cut(grads), wanted)
        assert not grads["b2"][..., 1].any()
    p = s.log_alpha.params
    assert float(made.losses["alpha"](p, 1.1, b)[0]) == pytest.approx(float(alone.losses["alpha"](p, 1.1, theirs)[0]))
    drawn = made.act(made.policy(s), b.obs[0].expand(5_000, -1), True)
    assert set(drawn.tolist()) == set(few)


def test_an_end_has_no_future(batch: Batch) -> None:
    made = learner()
    s = state(made)
    ref.assert_an_end_has_no_future(made.losses["critic"], s.critic.params, s, batch)


# ----------------------------------------------------------------------------------------------------- the order of steps


@pytest.mark.parametrize("alpha", [None, ALPHA])
def test_actor_and_target_see_the_new_critics_and_the_temperature_the_old_actor(batch: Batch, alpha: float | None) -> None:
    made = learner(lr=0.01, tau=0.1, alpha=alpha)
    s = state(made)
    for _ in range(3):
        after, metrics = made.update(s, batch, 0)
        critic, _ = ref.step(s.critic, made.losses["critic"], 0.01, s, batch)
        actor, told = ref.step(s.actor, made.losses["actor"], 0.01, replace(s, critic=critic), batch)
        log_alpha = s.log_alpha if alpha else ref.step(s.log_alpha, made.losses["alpha"], 0.01, told["entropy"], batch)[0]
        ref.assert_same(after, sac_discrete.State(actor, critic, ref.mixed(s.target, critic.params, 0.1), log_alpha))
        assert set(metrics) == {"critic_loss", "q", "actor_loss", "entropy", "alpha"} | (set() if alpha else {"alpha_loss"})
        assert float(metrics["alpha"]) == pytest.approx(math.exp(float(log_alpha.params["x"])))
        s = after


def test_the_state_starts_as_the_config_says() -> None:
    for cfg, alpha in (({}, 1.0), ({"initial_alpha": 0.1}, 0.1), ({"alpha": 0.2, "initial_alpha": 5.0}, 0.2)):
        s = learner(**cfg).init()
        assert math.exp(float(s.log_alpha.params["x"])) == pytest.approx(alpha)
        ref.assert_same(s.target, s.critic.params, 0, 0)
        assert not torch.equal(s.critic.params["w0"][0], s.critic.params["w0"][1])


# ---------------------------------------------------------------------------------------------- acting, and parent: sac


def test_draws_are_as_frequent_as_the_softmax_says(batch: Batch) -> None:
    made, count = learner(), 20_000
    s = state(made)
    assert made.act(made.policy(s), batch.obs, False).tolist() == [
        int(np.argmax(net(weights(s.actor.params), obs))) for obs in batch.obs.numpy()
    ]
    for obs in batch.obs:
        drawn = made.act(made.policy(s), obs.expand(count, OBS), True)
        expected = count * policy(weights(s.actor.params), obs.numpy())
        seen = np.bincount(drawn.numpy(), minlength=CHOICES)
        assert expected.min() > 5
        assert ((seen - expected) ** 2 / expected).sum() < 16.27  # chi-square, 3 degrees: one in a thousand


def test_sacs_sampled_losses_are_the_sums_in_the_mean(batch: Batch) -> None:
    """Parent: sac. The actor's loss and the critics' target at sampled actions, within four standard errors."""
    made, count = learner(), 20_000
    s = state(made)
    actor, qs, slow = weights(s.actor.params), members(s.critic.params), members(s.target)
    for i in (0, 1, 3):
        one = tree_map(lambda x, i=i: x[i : i + 1], batch)
        (obs, action, reward, discount, next_obs), *_ = ref.rows(one)
        drawn, then = (made.act(made.policy(s), x.expand(count, OBS), True).numpy() for x in (one.obs, one.next_obs))
        grads = ref.gradient(made.losses["critic"], s.critic.params, s, one)
        pairs = {
            "actor": (costs(actor, qs, obs)[drawn], float(made.losses["actor"](s.actor.params, s, one)[0])),
            "target": (
                reward - discount * costs(actor, slow, next_obs)[then],
                net(qs[0], obs)[action] - float(grads["b2"][0, action]),  # the half square has slope Q - y
            ),
        }
        for name, (samples, exact) in pairs.items():
            error = samples.std() / math.sqrt(count)
            assert error < 0.02
            assert abs(samples.mean() - exact) < 4 * error, (name, i)


@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_a_bandits_policy_becomes_the_softmax_of_its_rewards(alpha: float) -> None:
    """Two actions and no future, so Q is the reward."""
    cfg = sac_discrete.Config(hidden=(16,), lr=1e-2, alpha=alpha)
    made = sac_discrete.make(cfg, Spec(Box(1), Discrete(2)))
    s, obs, reward = made.init(), torch.ones(2, 1), np.array([0.5, 0.2])
    for _ in range(400):
        s, metrics = made.update(s, Batch(obs, torch.arange(2), torch.tensor(reward).float(), torch.zeros(2), obs), 0)
    wanted = np.exp(reward / alpha) / np.exp(reward / alpha).sum()
    np.testing.assert_allclose(policy(weights(s.actor.params), np.ones(1)), wanted, atol=0.01)
    assert float(metrics["critic_loss"]) < 1e-4


def test_defaults_are_the_authors() -> None:
    ref.assert_defaults(
        sac_discrete, lr=3e-4, critics=2, alpha=None, initial_alpha=1, entropy_ratio=0.98, gamma=0.99,
        batch_size=64, warmup=20_000, updates_per_step=0.25,
    )  # fmt: skip


def test_other_actions_are_refused() -> None:
    ref.assert_refuses(sac_discrete, "discrete actions", Box(2), MultiDiscrete((2, 3)))
