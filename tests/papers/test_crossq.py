"""CrossQ's losses against loops in float64 that share a batch's statistics, the order of its steps, and SAC as its limit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests.papers import reference as ref
from tests.papers.reference import ACTION, BATCH, SPEC, Weights
from thespis.algos.continuous import crossq, sac
from thespis.core import Batch, Learner, leaves, rebuild, replace

EPS = 1e-3


def learner(**numbers: Any) -> Learner:
    return crossq.make(crossq.Config(**{"hidden": (7, 6), "critic_hidden": (6, 5), **numbers}), SPEC)


@pytest.fixture
def batch() -> Batch:
    return ref.batch()


def state(made: Learner) -> crossq.State:
    """As training may leave it: norms moved, statistics of batches gone by."""
    s = ref.aged(made.init())
    flat = leaves(s)
    for name, x in flat.items():
        if "params.s" in name:  # scales and shifts
            flat[name] = x + 0.2 * torch.randn_like(x)
        elif name.endswith("_stats.var"):
            flat[name] = 0.5 + torch.rand_like(x)
        elif name.endswith("_stats.mean"):
            flat[name] = 0.3 * torch.randn_like(x)
    return rebuild(s, flat)


def forward(w: Weights, rows: np.ndarray, stats: Weights | None) -> np.ndarray:
    """The network, normalised by `stats` or by the rows' own mean and variance."""
    x, at, last = rows, 0, sum(k.startswith("b") for k in w) - 1
    for i in range(last + 1):
        if f"scale{i}" in w:
            d = x.shape[1]
            mean, var = (x.mean(0), x.var(0)) if stats is None else (stats["mean"][at : at + d], stats["var"][at : at + d])
            x, at = (x - mean) / np.sqrt(var + EPS) * w[f"scale{i}"] + w[f"shift{i}"], at + d
        x = x @ w[f"w{i}"] + w[f"b{i}"]
        x = ref.relu(x) if i < last else x
    return x


def squash(out: np.ndarray, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Actions (B, A) and their log-densities (B,)."""
    mean, log_std = np.split(out, 2, -1)
    each = [ref.squash(m, np.clip(s, -20, 2), e) for m, s, e in zip(mean, log_std, noise, strict=True)]
    return np.array([a for a, _ in each]), np.array([p for _, p in each])


def test_critic_loss_and_its_gradient(batch: Batch) -> None:
    """Both ends of every transition in one batch; the value ahead is of the same critics, and no gradient goes through it."""
    made = learner()
    s = state(made)
    loss = made.losses["critic"]
    (noise,) = ref.draws(3, (BATCH, ACTION))
    out = forward(ref.weights(s.actor.params), batch.next_obs.numpy(), ref.weights(s.actor_stats))
    action, logp = squash(out, noise)
    both = np.concatenate([np.hstack([batch.obs, batch.action]), np.hstack([batch.next_obs.numpy(), action])])
    critics = ref.members(s.critic.params)
    ahead = np.array([forward(w, both, None)[BATCH:, 0] for w in critics]).min(0)
    y = batch.reward.numpy() + batch.discount.numpy() * (ahead - 0.3 * logp)

    def slow_loop() -> float:
        return float(sum(0.5 * ((forward(w, both, None)[:BATCH, 0] - y) ** 2).mean() for w in critics))

    assert float(ref.seeded(3, loss, s.critic.params, s, batch)[0]) == pytest.approx(slow_loop(), rel=1e-9)
    grads = ref.seeded(3, ref.gradient, loss, s.critic.params, s, batch)
    for j in range(2):
        ref.assert_slopes({k: g[j].numpy() for k, g in grads.items() if k not in ("b0", "b1")}, critics[j], slow_loop)


def test_actor_loss_and_its_gradient(batch: Batch) -> None:
    """The actor by the batch's own statistics, the critics by their running ones."""
    made = learner()
    s = state(made)
    loss = made.losses["actor"]
    (noise,) = ref.draws(3, (BATCH, ACTION))
    actor = ref.weights(s.actor.params)
    critics = list(zip(ref.members(s.critic.params), ref.members(s.critic_stats), strict=True))

    def slow_loop() -> float:
        action, logp = squash(forward(actor, batch.obs.numpy(), None), noise)
        rows = np.hstack([batch.obs.numpy(), action])
        least = np.array([forward(w, rows, stats)[:, 0] for w, stats in critics]).min(0)
        return float((0.3 * logp - least).mean())

    assert float(ref.seeded(3, loss, s.actor.params, s, batch)[0]) == pytest.approx(slow_loop(), rel=1e-9)
    grads = ref.seeded(3, ref.gradient, loss, s.actor.params, s, batch)
    ref.assert_slopes({k: g.numpy() for k, g in grads.items() if k not in ("b0", "b1")}, actor, slow_loop)


@pytest.mark.parametrize("delay", [1, 3])
def test_the_actor_and_its_statistics_move_once_a_period_and_forget_their_gradients_sooner(batch: Batch, delay: int) -> None:
    made = learner(delay=delay, lr=0.01)
    s = state(made)
    for k in range(delay):
        after, _ = ref.seeded(k, made.update, s, batch, k)
        torch.manual_seed(k)
        grads, (_, told) = torch.func.grad_and_value(made.losses["critic"], has_aux=True)(s.critic.params, s, batch)
        critic = ref.adam(s.critic, grads, 0.01, b1=0.5)
        wanted = replace(s, critic=critic, critic_stats={k: told[k] for k in s.critic_stats})
        if k == delay - 1:
            grads, (_, told) = torch.func.grad_and_value(made.losses["actor"], has_aux=True)(s.actor.params, wanted, batch)
            actor = ref.adam(s.actor, grads, 0.01, b1=0.5)
            temperature, _ = ref.step(s.log_alpha, made.losses["alpha"], 0.01, told["entropy"])
            stats = {k: told[k] for k in s.actor_stats}
            wanted = replace(wanted, actor=actor, actor_stats=stats, log_alpha=temperature)
        ref.assert_same(after, wanted)
        s = after


@pytest.mark.parametrize("entropy", [0.7, -3.0])
def test_the_temperatures_slope(entropy: float) -> None:
    p = {"x": torch.tensor(-1.0, dtype=ref.F64)}
    grad = ref.gradient(learner().losses["alpha"], p, entropy)
    assert float(grad["x"]) == pytest.approx(np.exp(-1.0) * (entropy + ACTION))


def test_limit_without_norms_it_is_sac_at_tau_1(batch: Batch) -> None:
    made = learner(hidden=(7, 6), critic_hidden=(7, 6), norm="none", delay=1, b1=0.9, alpha=0.3, lr=3e-4)
    parent = sac.make(sac.Config(hidden=(7, 6), tau=1.0, alpha=0.3), SPEC)
    s = state(made)
    theirs: Any = sac.State(s.actor, s.critic, s.critic.params, s.log_alpha)
    for i in range(3):
        s, _ = ref.seeded(i, made.update, s, batch, 0)
        theirs, _ = ref.seeded(i, parent.update, theirs, batch, 0)
    for ours, wanted in ((s.actor, theirs.actor), (s.critic, theirs.critic)):
        ref.assert_same(ours, wanted, rtol=1e-11)


def test_a_shift_of_what_is_ahead_is_seen_by_what_is_now(batch: Batch) -> None:
    """The signature: statistics are shared, so next observations move the values of these; in sac they cannot."""
    for norm, moves in (("renorm", True), ("none", False)):
        made = learner(norm=norm)
        s = state(made)
        told = [
            ref.seeded(0, made.losses["critic"], s.critic.params, s, replace(batch, next_obs=batch.next_obs + x))[1]["q"]
            for x in (0.0, 5.0)
        ]
        assert (float(told[0]) != pytest.approx(float(told[1]), rel=1e-9)) == moves


def test_defaults_are_the_authors() -> None:
    ref.assert_defaults(
        crossq, lr=1e-3, b1=0.5, hidden=(256, 256), critic_hidden=(2048, 2048), norm="renorm", norm_warmup=100_000, delay=3,
        critics=2, gamma=0.99, batch_size=256, replay_size=1_000_000, warmup=5_000, updates_per_step=1.0,
    )  # fmt: skip


def test_act_is_by_running_statistics(batch: Batch) -> None:
    made = learner()
    s = state(made)
    (noise,) = ref.draws(4, (BATCH, ACTION))
    out = forward(ref.weights(s.actor.params), batch.obs.numpy(), ref.weights(s.actor_stats))
    explored, greedy = (ref.seeded(4, made.act, made.policy(s), batch.obs, explore) for explore in (True, False))
    np.testing.assert_allclose(explored.numpy(), squash(out, noise)[0], rtol=1e-9)
    np.testing.assert_allclose(greedy.numpy(), np.tanh(np.split(out, 2, -1)[0]), rtol=1e-9)


def test_other_actions_are_refused() -> None:
    ref.assert_refuses_choices(crossq)
