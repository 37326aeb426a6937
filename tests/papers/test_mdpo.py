"""MDPO: its losses against numpy in float64, the exact mirror-descent step as their solution, sac_v1 and sac as limits."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from thespis.algos.continuous import mdpo, sac, sac_v1
from thespis.core import Batch, Box, Learner, Params, Spec, replace
from thespis.optim import descend, fresh

from . import reference as ref
from .reference import ACTION, BATCH, F64, OBS, SPEC, Weights, gaussian, members, net, weights

batch = pytest.fixture(ref.batch)
NOISE = (BATCH, ACTION)


def learner(**numbers: Any) -> Learner:
    return mdpo.make(mdpo.Config(**{"hidden": (12, 10), **numbers}), SPEC)


def state(made: Learner) -> mdpo.State:
    """With policies from narrow to wide, another old one, and critics of which neither is always the smaller."""
    s = ref.aged(made.init())
    s.actor.params["b2"].add_(torch.tensor([0.3, -0.5, 0.5, -1.5]))
    s.actor.params["w2"].mul_(3)
    s.critic.params["w2"].mul_(4)
    ref.level(s.critic.params)
    return replace(s, old={k: p + 0.1 * torch.randn_like(p) for k, p in s.actor.params.items()})


def value_loss(value: Weights, s: mdpo.State, b: Batch, noise: np.ndarray, alpha: float) -> float:
    """The value is that of the least critic, at the policy's own action, less alpha times its log-density."""
    total, least = 0.0, set()
    for obs, e in zip(b.obs.numpy(), noise, strict=True):
        action, logp = ref.squash(*gaussian(weights(s.actor.params), obs), e)
        qs = [net(w, obs, action)[0] for w in members(s.critic.params)]
        least.add(int(np.argmin(qs)))
        total += 0.5 * (net(value, obs)[0] - (min(qs) - alpha * logp)) ** 2
    assert len(least) == 2, "no minimum to see"
    return total / BATCH


def critic_loss(critics: list[Weights], s: mdpo.State, b: Batch) -> float:
    total = 0.0
    for obs, action, reward, discount, next_obs in ref.rows(b):
        y = reward + discount * net(weights(s.target), next_obs)[0]
        total += sum(0.5 * (net(w, obs, action)[0] - y) ** 2 for w in critics)
    return total / BATCH


def actor_loss(w: Weights, s: mdpo.State, b: Batch, noise: np.ndarray, cfg: mdpo.Config) -> tuple[float, float, float]:
    """The loss as KL to the old policy, cross-entropy with it and the first critic; the entropy; the KL."""
    old, first = weights(s.old), members(s.critic.params)[0]
    out = np.zeros(3)
    for obs, e in zip(b.obs.numpy(), noise, strict=True):
        (mean, log_std), (mean_old, log_std_old) = gaussian(w, obs), gaussian(old, obs)
        action, logp = ref.squash(mean, log_std, e)
        was, logp_old = ref.squash(mean_old, log_std_old, (mean + np.exp(log_std) * e - mean_old) / np.exp(log_std_old))
        np.testing.assert_allclose(was, action, rtol=1e-9)
        advantage = net(first, obs, action)[0] - cfg.alpha * logp_old
        small = cfg.moments * (np.mean(mean**2) + np.mean(log_std**2))
        out += np.array([cfg.kl * (logp - logp_old) - advantage + small, -logp, logp - logp_old]) / BATCH
    return tuple(out.tolist())


# ------------------------------------------------------------------------------------------------------------- the losses


@pytest.mark.parametrize("alpha", [0.0, 0.2])
def test_value_loss_and_its_gradient(batch: Batch, alpha: float) -> None:
    made = learner(alpha=alpha)
    s, (noise,) = state(made), ref.draws(7, NOISE)
    w = weights(s.value.params)
    loss, _ = ref.seeded(7, made.losses["value"], s.value.params, s, batch)
    assert float(loss) == pytest.approx(value_loss(w, s, batch, noise, alpha), rel=1e-10)
    grads = ref.seeded(7, ref.gradient, made.losses["value"], s.value.params, s, batch)
    ref.assert_slopes(weights(grads), w, lambda: value_loss(w, s, batch, noise, alpha))


def test_critic_loss_and_its_gradient(batch: Batch) -> None:
    made = learner()
    s = state(made)
    w = members(s.critic.params)
    loss, metrics = made.losses["critic"](s.critic.params, s, batch)
    assert float(loss) == pytest.approx(critic_loss(w, s, batch), rel=1e-10)
    assert float(metrics["q"]) == pytest.approx(np.mean([net(c, o, a)[0] for c in w for o, a, *_ in ref.rows(batch)]), rel=1e-10)
    grads = ref.gradient(made.losses["critic"], s.critic.params, s, batch)
    for i in range(2):
        ref.assert_slopes(weights(grads, i), w[i], lambda: critic_loss(w, s, batch))


@pytest.mark.parametrize(("kl", "alpha", "moments"), [(1.0, 0.2, 1e-3), (3.0, 0.0, 0.3), (0.0, 0.5, 0.0)])
def test_actor_loss_and_its_gradient(batch: Batch, kl: float, alpha: float, moments: float) -> None:
    cfg = mdpo.Config(hidden=(12, 10), kl=kl, alpha=alpha, moments=moments)
    made = mdpo.make(cfg, SPEC)
    s, (noise,) = state(made), ref.draws(8, NOISE)
    w = weights(s.actor.params)
    loss, metrics = ref.seeded(8, made.losses["actor"], s.actor.params, s, batch)
    told = float(loss), float(metrics["entropy"]), float(metrics["kl"])
    assert told == pytest.approx(actor_loss(w, s, batch, noise, cfg), rel=1e-9)
    grads = ref.seeded(8, ref.gradient, made.losses["actor"], s.actor.params, s, batch)
    ref.assert_slopes(weights(grads), w, lambda: actor_loss(w, s, batch, noise, cfg)[0])


def test_an_end_has_no_future(batch: Batch) -> None:
    made = learner()
    s = state(made)
    ref.assert_an_end_has_no_future(made.losses["critic"], s.critic.params, s, batch)


# ----------------------------------------------------------------------------------------------------- the order of steps


def test_all_gradients_are_at_the_old_parameters_and_the_target_follows_the_new_value(batch: Batch) -> None:
    made = learner(lr=0.01, tau=0.1)
    s = state(made)
    for i in range(3):
        after, metrics = ref.seeded(i, made.update, s, batch, 0)
        torch.manual_seed(i)
        value, critic, actor = (ref.step(getattr(s, n), made.losses[n], 0.01, s, batch)[0] for n in ("value", "critic", "actor"))
        ref.assert_same(after, mdpo.State(actor, s.old, critic, value, ref.mixed(s.target, value.params, 0.1)))
        assert set(metrics) == {"value_loss", "critic_loss", "q", "actor_loss", "entropy", "kl"}
        s = after


@pytest.mark.parametrize("m", [1, 3, 4])
def test_the_old_policy_is_the_actor_of_every_mth_update(batch: Batch, m: int) -> None:
    made = learner(lr=0.01, inner_steps=m)
    s = ref.double(made.init())
    ref.assert_same(s.old, s.actor.params, 0, 0)
    old, kls = s.old, []
    for i in range(1, 3 * m + 1):
        s, metrics = made.update(s, batch, 0)
        old = s.actor.params if i % m == 0 else old
        ref.assert_same(s.old, old, 0, 0)
        kls.append(float(metrics["kl"]))
    assert [abs(kl) < 1e-12 for kl in kls] == [i % m == 0 for i in range(3 * m)]  # just moved: no distance yet


def test_the_state_starts_with_copies() -> None:
    s = learner().init()
    ref.assert_same(s.target, s.value.params, 0, 0)
    ref.assert_same(s.old, s.actor.params, 0, 0)
    assert not torch.equal(s.critic.params["w0"][0], s.critic.params["w0"][1])


# -------------------------------------------------------------------------------------------------- parents: sac_v1 and sac


def test_with_equal_weights_its_update_is_sac_v1s(batch: Batch) -> None:
    """At kl = alpha = 1, whatever the old policy is. Its penalty on the moments counts twice sac_v1's."""
    made, parent = learner(kl=1.0, alpha=1.0), sac_v1.make(sac_v1.Config(hidden=(12, 10), reward_scale=1.0, moments=2e-3), SPEC)
    s = state(made)
    theirs = sac_v1.State(s.actor, s.critic, s.value, s.target)
    for i in range(3):
        s, theirs = ref.seeded(i, made.update, s, batch, 0)[0], ref.seeded(i, parent.update, theirs, batch, 0)[0]
        ref.assert_same(sac_v1.State(s.actor, s.critic, s.value, s.target), theirs)


@pytest.mark.parametrize(("kl", "copied"), [(0.2, False), (0.2, True), (1.0, True)])
def test_its_actor_loss_is_sacs_with_equal_weights_and_at_the_old_policy(batch: Batch, kl: float, copied: bool) -> None:
    made = learner(alpha=0.2, kl=kl, critics=1, moments=0.0)
    s = ref.double(made.init())
    s = s if copied else replace(s, old={k: p + 0.1 for k, p in s.old.items()})
    parent = sac.make(sac.Config(hidden=(12, 10), critics=1, alpha=0.2), SPEC)
    log_alpha = replace(s.value, params={"x": torch.tensor(0.2, dtype=F64).log()})
    theirs = sac.State(s.actor, s.critic, s.critic.params, log_alpha)
    ours, wanted = (
        ref.seeded(2, m.losses["actor"], s.actor.params, x, batch)[0] for m, x in ((made, s), (parent, theirs))
    )  # fmt: skip
    assert float(ours) == pytest.approx(float(wanted), rel=1e-9)


# ------------------------------------------------------------------------------------- the mirror-descent step, in numbers

KAPPA, BEST = 1.5, 0.75  # exact in float32
ROWS = 4


class Constant(nn.Module):
    """One Gaussian everywhere: at first mean 0, std 1."""

    def __init__(self) -> None:
        super().__init__()
        self.x = nn.Parameter(torch.zeros(2))

    def forward(self, obs: Tensor) -> Tensor:
        return self.x.expand(len(obs), 2)


class Bowl(nn.Module):
    """Q(tanh u) = -kappa/2 (u - best)^2 - alpha log(1 - tanh(u)^2): the last term takes the squashing out of the problem."""

    def __init__(self, alpha: float) -> None:
        super().__init__()
        self.alpha, self.x = alpha, nn.Parameter(torch.tensor([KAPPA, BEST]))

    def forward(self, x: Tensor) -> Tensor:
        a = x[:, -1:]
        return -self.x[0] / 2 * (a.atanh() - self.x[1]) ** 2 - self.alpha * (1 - a**2).log()


def bandit(monkeypatch: pytest.MonkeyPatch, **numbers: Any) -> tuple[Learner, mdpo.State, Batch]:
    """Rewards that are the critic's own values, so that it stays. The noise is -1, 1: its mean and variance are exact."""
    cfg = mdpo.Config(moments=0.0, lr=0.02, **numbers)
    made = mdpo.make(cfg, Spec(Box(OBS), Box(1)), lambda _: Constant(), lambda _: Bowl(cfg.alpha))
    obs, action = torch.zeros(ROWS, OBS, dtype=F64), torch.linspace(-0.5, 0.5, ROWS, dtype=F64)[:, None]
    reward = Bowl(cfg.alpha).double()(torch.cat([obs, action], -1)).detach()[:, 0]
    monkeypatch.setattr(torch, "randn_like", lambda x: torch.tensor([-1.0, 1.0], dtype=x.dtype).repeat(ROWS // 2)[:, None])
    return made, ref.double(made.init()), Batch(obs, action, reward, torch.zeros(ROWS, dtype=F64), obs)


def mirror(mean: float, log_std: float, kl: float, alpha: float) -> tuple[float, float]:
    """pi ~ old^(1 - alpha/kl) exp(Q/kl), for Gaussians and the bowl: the exact step, as (mean, log std)."""
    old, a = math.exp(-2 * log_std), alpha / kl
    precision = (1 - a) * old + KAPPA / kl
    return ((1 - a) * old * mean + KAPPA / kl * BEST) / precision, -0.5 * math.log(precision)


@pytest.mark.parametrize(("kl", "alpha"), [(1.0, 0.2), (4.0, 0.2), (1.0, 0.0)])
def test_the_actor_loss_is_flat_at_the_exact_step(monkeypatch: pytest.MonkeyPatch, kl: float, alpha: float) -> None:
    made, s, b = bandit(monkeypatch, kl=kl, alpha=alpha)
    old = 0.3, -0.4
    s = replace(s, old={"x": torch.tensor(old, dtype=F64)})
    best = torch.tensor(mirror(*old, kl, alpha), dtype=F64)
    slope = ref.gradient(made.losses["actor"], {"x": best}, s, b)["x"]
    np.testing.assert_allclose(slope.numpy(), 0, atol=1e-12)
    for move in ([0.1, 0], [0, 0.1]):
        p = {"x": best + torch.tensor(move, dtype=F64)}
        assert float(ref.gradient(made.losses["actor"], p, s, b)["x"] @ torch.tensor(move, dtype=F64)) > 1e-3


def test_on_the_first_inner_step_the_kl_has_no_slope(monkeypatch: pytest.MonkeyPatch) -> None:
    """So with one inner step its weight does not matter; from the second on it does."""
    slopes = {}
    for kl in (0.0, 1.0, 50.0):
        made, s, b = bandit(monkeypatch, kl=kl)
        for away in (0.0, 0.2):
            slopes[kl, away] = ref.gradient(made.losses["actor"], {"x": s.actor.params["x"] + away}, s, b)["x"].numpy()
    np.testing.assert_allclose(slopes[0.0, 0.0], slopes[50.0, 0.0], atol=1e-12)
    np.testing.assert_allclose(slopes[0.0, 0.0], slopes[1.0, 0.0], atol=1e-12)
    assert np.abs(slopes[0.0, 0.2] - slopes[1.0, 0.2]).min() > 0.05


def test_inner_steps_follow_the_exact_step_and_one_alone_runs_to_the_optimum(monkeypatch: pytest.MonkeyPatch) -> None:
    """300 updates either way: against two old policies it is where two exact steps lead; with m = 1 it is at exp(Q/alpha)."""
    best = BEST, -0.5 * math.log(KAPPA / 0.2)
    made, s, b = bandit(monkeypatch, inner_steps=150)
    wanted = 0.0, 0.0
    for _ in range(2):
        for _ in range(150):
            s, _ = made.update(s, b, 0)
        wanted = mirror(*wanted, 1.0, 0.2)
        np.testing.assert_allclose(s.old["x"].numpy(), wanted, atol=0.01)
        np.testing.assert_allclose(s.critic.params["x"].numpy(), [[KAPPA, BEST]] * 2, atol=1e-6)
    assert np.abs(np.subtract(wanted, best)).min() > 0.05
    made, s, b = bandit(monkeypatch, inner_steps=1)
    for _ in range(300):
        s, _ = made.update(s, b, 0)
    np.testing.assert_allclose(s.actor.params["x"].numpy(), best, atol=0.01)
    for _ in range(60):
        wanted = mirror(*wanted, 1.0, 0.2)
    np.testing.assert_allclose(wanted, best, atol=1e-5)  # where the exact steps lead as well


# ----------------------------------------------------------------------------------------------------- the tabular method

STATES, CHOICES, GAMMA = 10, 4, 0.9


def mdp() -> tuple[np.ndarray, np.ndarray]:
    """Transitions (S, A, S) and rewards (S, A)."""
    rng = np.random.default_rng(0)
    return rng.dirichlet(np.ones(STATES) * 0.3, (STATES, CHOICES)), rng.normal(size=(STATES, CHOICES))


def evaluated(pi: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The value (S,) and the advantage (S, A) of a policy, by solving the Bellman equation."""
    move, reward = mdp()
    v = np.linalg.solve(np.eye(STATES) - GAMMA * np.einsum("sa,sat->st", pi, move), (pi * reward).sum(1))
    return v, reward + GAMMA * move @ v - v[:, None]


def optimum() -> np.ndarray:
    move, reward = mdp()
    v = np.zeros(STATES)
    for _ in range(500):
        v = (reward + GAMMA * move @ v).max(1)
    return v


def exact(pi: np.ndarray, t: float) -> np.ndarray:
    new = pi * np.exp(t * evaluated(pi)[1])
    return new / new.sum(1, keepdims=True)


def test_exact_steps_are_monotone_and_reach_the_optimum() -> None:
    pi = np.full((STATES, CHOICES), 1 / CHOICES)
    values = [evaluated(pi)[0]]
    for _ in range(300):
        pi = exact(pi, 1.0)
        values.append(evaluated(pi)[0])
    assert np.diff(values, axis=0).min() > -1e-12
    assert (optimum() - values[0]).min() > 0.5
    assert (optimum() - values[-1]).max() < 1e-3


def test_a_softmax_with_inner_steps_follows_the_exact_policy_and_with_one_does_not() -> None:
    t = 1.0

    def loss(p: Params, logp_old: Tensor, advantage: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        logp = p["x"].log_softmax(-1)
        return (logp.exp() * ((logp - logp_old) / t - advantage)).sum(), {}

    def gap(m: int) -> tuple[float, float]:
        """After five policies of m steps each: the largest difference from the exact policy, and the mean value lost."""
        group, pi = fresh({"x": torch.zeros(STATES, CHOICES, dtype=F64)}), np.full((STATES, CHOICES), 1 / CHOICES)
        group = replace(group, t=group.t.double())
        for _ in range(5):
            logp_old = group.params["x"].log_softmax(-1)
            advantage = torch.tensor(evaluated(logp_old.exp().numpy())[1])
            for _ in range(m):
                group, _ = descend(group, loss, 0.05, logp_old, advantage)
            pi = exact(pi, t)
        ours = group.params["x"].softmax(-1).numpy()
        return float(np.abs(ours - pi).max()), float((evaluated(pi)[0] - evaluated(ours)[0]).mean())

    (far_1, lost_1), (far, lost) = gap(1), gap(100)
    assert far < 0.02 < 0.2 < far_1
    assert abs(lost) < 0.02 < 0.2 < lost_1


# ----------------------------------------------------------------------------------------------------------------- acting


def test_act_is_the_mean_or_a_draw_of_the_policy(batch: Batch) -> None:
    made = learner()
    s = state(made)
    ref.assert_acts_as_a_tanh_gaussian(made, s, batch, gaussian)
    mean = learner(sample=False)
    assert torch.equal(mean.act(mean.policy(s), batch.obs, True), made.act(made.policy(s), batch.obs, False))
    assert made.policy(s) is s.actor.params  # not the old one


def test_defaults_are_the_authors() -> None:
    ref.assert_defaults(
        mdpo, lr=3e-4, tau=0.005, hidden=(256, 256), critics=2, alpha=0.2, kl=1, inner_steps=1_000, moments=1e-3,
        log_std=(-20, 2), gamma=0.99, batch_size=256, warmup=10_000, updates_per_step=1, sample=True,
    )  # fmt: skip


def test_other_actions_are_refused() -> None:
    ref.assert_refuses_choices(mdpo)
