"""DSAC-T's critic gradient against its closed form in float64, its three refinements, and sac's critic as its limit."""

from __future__ import annotations

import functools
import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from thespis.algos.continuous import dsac_t, sac
from thespis.core import Batch, Box, Learner, Params, Spec, replace

from . import reference as ref
from .reference import ACTION, BATCH, OBS, SPEC, Weights, members, weights
from .reference import mean_and_spread as z

batch = pytest.fixture(ref.batch)
gaussian = functools.partial(ref.gaussian, high=0.5, activation=ref.gelu)
DRAWN = (BATCH, ACTION), (2, BATCH)  # the next actions', then both critics' returns'
SEED = next(i for i in itertools.count() if np.abs(ref.draws(i, *DRAWN)[1]).max() > 3)  # so that one is clipped
SPREAD = np.array([0.4, 1.1])


def learner(**numbers: Any) -> Learner:
    return dsac_t.make(dsac_t.Config(**{"hidden": (12, 10), **numbers}), SPEC)


def state(made: Learner) -> dsac_t.State:
    """With policies from narrow to clipped, returns from narrow to wide, and critics of which neither is always the least."""
    s = replace(ref.aged(made.init()), spread=torch.tensor(SPREAD))
    for p in (s.actor.params, s.actor_target, s.critic.params, s.critic_target):
        p["w2"].mul_(6)
    for p in (s.actor.params, s.actor_target):
        p["b2"].add_(torch.tensor([0.3, -0.5, 0.4, -1.5]))
    for p in (s.critic.params, s.critic_target):
        ref.level(p, ref.gelu)
    return s


def returns(critics: list[Weights], b: Batch) -> np.ndarray:
    """The means and the spreads, each (2, B)."""
    return np.array([[z(w, obs, action) for obs, action, *_ in ref.rows(b)] for w in critics]).transpose(2, 0, 1)


def targets(s: dsac_t.State, b: Batch, seed: int, by_mean: bool = True) -> np.ndarray:
    """For the mean and for the spread, at the slow actor's action, and the slow critic that both come from: (3, B)."""
    (actions, samples), out = ref.draws(seed, *DRAWN), []
    for noise, eps, (_, _, reward, discount, next_obs) in zip(actions, samples.T, ref.rows(b), strict=True):
        action, logp = ref.squash(*gaussian(weights(s.actor_target), next_obs), noise)
        means, stds = np.array([z(w, next_obs, action) for w in members(s.critic_target)]).T
        zs = means + stds * np.clip(eps, -3, 3)
        least = int(np.argmin(means if by_mean else zs))
        out.append((*(reward + discount * (x[least] - 0.3 * logp) for x in (means, zs)), least))
    return np.array(out).T


def slopes(q: np.ndarray, sigma: np.ndarray, y: np.ndarray, spread: np.ndarray, cfg: dsac_t.Config) -> dict[str, np.ndarray]:
    """w h'(Q - y_q) and w (sigma^2 - h(clip(y_z - Q))) / (sigma + e), w the squared spread over sigma^2 + e; and the loss."""

    far = math.inf if cfg.huber is None else cfg.huber

    def huber(x: np.ndarray) -> np.ndarray:
        return np.where(abs(x) <= far, x**2 / 2, far * (abs(x) - far / 2)) if far < math.inf else x**2 / 2

    bound, ratio = cfg.clip * spread[:, None], spread[:, None] ** 2 / (sigma**2 + cfg.bias)
    w, clipped = np.clip(ratio, *cfg.weight), np.clip(y[1] - q, -bound, bound)
    in_std = w * (sigma**2 - huber(clipped)) / (sigma + cfg.bias)
    return {
        "mean": w * np.clip(q - y[0], -far, far), "std": in_std, "loss": w * huber(q - y[0]) + in_std * sigma,
        "clipped": clipped != y[1] - q, "huber": abs(q - y[0]) > far, "weight": w != ratio,
    }  # fmt: skip


# ------------------------------------------------------------------------------------------------------------- the losses


@pytest.mark.parametrize(
    ("at_work", "numbers"),
    [
        ("", {}),
        ("clipped", {"clip": 1.0, "bias": 0.3}),
        ("huber", {"huber": 0.5}),
        ("", {"huber": None}),
        ("weight", {"weight": (0.5, 1.5)}),
    ],
)
def test_critic_gradient_is_the_papers(batch: Batch, at_work: str, numbers: dict[str, Any]) -> None:
    cfg = dsac_t.Config(hidden=(12, 10), tau=0.1, **numbers)
    made = dsac_t.make(cfg, SPEC)
    s = state(made)
    critics = members(s.critic.params)
    q, sigma = returns(critics, batch)
    spread = 0.9 * SPREAD + 0.1 * sigma.mean(1)  # moved before it is used
    y = targets(s, batch, SEED)
    wanted = slopes(q, sigma, y, spread, cfg)
    for seen in (y[2], wanted.get(at_work, y[2])):
        assert 0 < np.mean(seen) < 1
    loss, metrics = ref.seeded(SEED, made.losses["critic"], s.critic.params, s, batch)
    assert float(loss) == pytest.approx(wanted["loss"].mean(1).sum(), rel=1e-9)
    assert (float(metrics["q"]), float(metrics["q_std"])) == pytest.approx((q.mean(), sigma.mean()), rel=1e-9)
    np.testing.assert_allclose(metrics["spread"].numpy(), spread, rtol=1e-9)
    grads = ref.seeded(SEED, ref.gradient, made.losses["critic"], s.critic.params, s, batch)

    def surrogate() -> float:
        means, stds = returns(critics, batch)
        return float((wanted["mean"] * means + wanted["std"] * stds).mean(1).sum())

    for i, w in enumerate(critics):
        ref.assert_slopes(weights(grads, i), w, surrogate)


def constant(p: Params, *zs: tuple[float, float]) -> Params:
    """Critics whose mean and spread are the same everywhere."""
    flat = {k: torch.zeros_like(x) for k, x in p.items()}
    return flat | {"b2": torch.tensor([[q, math.log(math.expm1(sigma))] for q, sigma in zs], dtype=ref.F64)}


def test_the_minimum_is_by_mean_and_the_sample_is_the_same_critics(batch: Batch) -> None:
    """A wide critic of mean 0 beside a narrow one of mean 0.5: where the wide one's sample is the larger, it is taken still."""
    made = learner()
    s, spread = state(made), np.array([50.0, 50.0])  # so wide that nothing is clipped
    s = replace(s, critic_target=constant(s.critic_target, (0, 2), (0.5, 0.01)), spread=torch.tensor(spread))
    loss, metrics = ref.seeded(SEED, made.losses["critic"], s.critic.params, s, batch)
    q, sigma = returns(members(s.critic.params), batch)
    right, wrong = (targets(s, batch, SEED, by_mean) for by_mean in (True, False))
    assert not right[2].any()
    assert wrong[2].any()
    values = [slopes(q, sigma, y, metrics["spread"].numpy(), dsac_t.Config())["loss"].mean(1).sum() for y in (right, wrong)]
    assert float(loss) == pytest.approx(values[0], rel=1e-9)
    assert float(loss) != pytest.approx(values[1], rel=1e-2)


def test_the_running_spread_starts_at_the_first_batch_and_moves_by_tau_at_every_update(batch: Batch) -> None:
    made = learner(tau=0.1, lr=0.01)
    s = ref.double(made.init())
    assert torch.equal(s.spread, torch.zeros(2))
    s = replace(s, spread=torch.full((2,), 99.0, dtype=ref.F64))  # before the first update it has no say
    spread = None
    for k in (0, 1, 0, 1):
        now = returns(members(s.critic.params), batch)[1].mean(1)
        spread = now if spread is None else 0.9 * spread + 0.1 * now
        s, metrics = made.update(s, batch, k)
        np.testing.assert_allclose(s.spread.numpy(), spread, rtol=1e-9)
        assert "spread" not in metrics


def test_actor_loss_and_its_gradient(batch: Batch) -> None:
    """It climbs the lesser mean; the spreads have no say."""
    made = learner()
    s, (noise,) = state(made), ref.draws(8, DRAWN[0])
    w, critics = weights(s.actor.params), members(s.critic.params)

    def by_hand() -> np.ndarray:
        drawn = [(obs, *ref.squash(*gaussian(w, obs), e)) for obs, e in zip(batch.obs.numpy(), noise, strict=True)]
        return np.mean([(0.3 * logp - min(z(c, obs, action)[0] for c in critics), logp) for obs, action, logp in drawn], 0)

    loss, metrics = ref.seeded(8, made.losses["actor"], s.actor.params, s, batch)
    assert (float(loss), -float(metrics["entropy"])) == pytest.approx(tuple(by_hand()), rel=1e-9)
    grads = ref.seeded(8, ref.gradient, made.losses["actor"], s.actor.params, s, batch)
    ref.assert_slopes(weights(grads), w, lambda: by_hand()[0])


@pytest.mark.parametrize("log_alpha", [-1.2, 1.0])
def test_temperature_slope_does_not_depend_on_the_temperature(log_alpha: float) -> None:
    p, loss = {"x": torch.tensor(log_alpha, dtype=ref.F64)}, learner(entropy_per_dim=-0.5).losses["alpha"]
    assert float(loss(p, 0.7)[0]) == pytest.approx(log_alpha * (0.7 + 0.5 * ACTION))
    assert float(ref.gradient(loss, p, 0.7)["x"]) == pytest.approx(0.7 + 0.5 * ACTION)


def test_an_end_has_no_future(batch: Batch) -> None:
    made = learner()
    s = state(made)
    ref.assert_an_end_has_no_future(made.losses["critic"], s.critic.params, s, batch)


# ----------------------------------------------------------------------------------------------------- the order of steps


@pytest.mark.parametrize("delay", [1, 2, 3])
def test_all_but_critics_and_spread_wait_and_every_gradient_is_at_the_old_parameters(batch: Batch, delay: int) -> None:
    made = learner(delay=delay, lr=0.01, alpha_lr=0.03, tau=0.1)
    assert made.period == delay
    s = state(made)
    for k in range(delay):
        after, metrics = ref.seeded(k, made.update, s, batch, k)
        critic, heard = ref.seeded(k, ref.step, s.critic, made.losses["critic"], 0.01, s, batch)
        wanted, names = replace(s, critic=critic, spread=heard["spread"]), {"critic_loss", "q", "q_std"}
        if k == delay - 1:
            actor, told = ref.step(s.actor, made.losses["actor"], 0.01, s, batch)
            log_alpha, _ = ref.step(s.log_alpha, made.losses["alpha"], 0.03, told["entropy"])
            slow = ref.mixed(s.actor_target, actor.params, 0.1), ref.mixed(s.critic_target, critic.params, 0.1)
            wanted = dsac_t.State(actor, critic, *slow, log_alpha, heard["spread"])
            names |= {"actor_loss", "entropy", "alpha_loss", "alpha"}
            assert float(metrics["alpha"]) == pytest.approx(math.exp(float(log_alpha.params["x"])))
        else:
            assert ref.moved(s, after) == {"critic", "spread"}
        ref.assert_same(after, wanted)
        assert set(metrics) == names
        s = after


def test_the_state_starts_as_the_authors_code_does() -> None:
    s = learner().init()
    ref.assert_same(s.actor_target, s.actor.params, 0, 0)
    ref.assert_same(s.critic_target, s.critic.params, 0, 0)
    assert not torch.equal(s.critic.params["w0"][0], s.critic.params["w0"][1])
    assert float(s.log_alpha.params["x"]) == pytest.approx(1)


# ------------------------------------------------------------------------------------------------------------ parent: sac


def own(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, 12), nn.GELU(), nn.Linear(12, 10), nn.GELU(), nn.Linear(10, outputs))


def test_with_unit_spread_unit_weight_and_no_sampling_its_critic_step_is_sacs(batch: Batch) -> None:
    parts = {"actor": lambda spec: own(OBS, 2 * ACTION)}
    made = dsac_t.make(dsac_t.Config(weight=(1.0, 1.0)), SPEC, **parts, critic=lambda spec: own(OBS + ACTION, 2))
    parent = sac.make(sac.Config(log_std=(-20.0, 0.5)), SPEC, **parts, critic=lambda spec: own(OBS + ACTION, 1))
    s = ref.aged(made.init())
    for p, spread in ((s.critic.params, 1.0), (s.critic_target, 1e-12)):  # the second output is a constant
        p["4.weight"][:, 1], p["4.bias"][:, 1] = 0, math.log(math.expm1(spread))
    q, slow = ({k: p[:, :1] if k[0] == "4" else p for k, p in c.items()} for c in (s.critic.params, s.critic_target))
    theirs = sac.State(replace(s.actor, params=s.actor_target), replace(s.critic, params=q), slow, s.log_alpha)
    ours = ref.seeded(5, ref.gradient, made.losses["critic"], s.critic.params, s, batch)
    grads = ref.seeded(5, ref.gradient, parent.losses["critic"], q, theirs, batch)
    for name, g in grads.items():
        mine = ours[name][:, :1] if name[0] == "4" else ours[name]
        torch.testing.assert_close(mine, g, rtol=1e-9, atol=1e-12, msg=lambda m, name=name: f"{name}: {m}")


# -------------------------------------------------------------------------------------------------------------- signature


def test_signature_the_spread_settles_where_the_halved_clipped_square_is_its_own() -> None:
    """One state and no future, reward ~ N(0, 1): sigma^2 = E[min(r, 3 sigma)^2] / 2, a little below the root of 1/2."""
    sigma, r = 1.0, np.linspace(-8, 8, 4001)
    for _ in range(50):
        sigma = math.sqrt(np.average(np.minimum(r**2, (3 * sigma) ** 2), weights=np.exp(-(r**2) / 2)) / 2)
    assert sigma == pytest.approx(0.71, abs=0.04)
    made = dsac_t.make(dsac_t.Config(hidden=(8,), lr=1e-2, tau=0.05), Spec(Box(1), Box(1)))
    s, told = made.init(), []
    x, end = torch.zeros(128, 1), torch.zeros(128)
    for _ in range(1_000):
        s, metrics = made.update(s, Batch(x, x, torch.randn(128), end, x), 0)
        told.append([float(metrics["q"]), float(metrics["q_std"]), *s.spread.tolist()])
    assert np.mean(told[500:], 0).tolist() == pytest.approx([0, sigma, sigma, sigma], abs=0.02)


@pytest.mark.parametrize(
    ("scale", "huber", "share"),
    [(1, 50.0, 0.680), (10, 50.0, 0.680), (100, 50.0, 0.512), (1_000, 50.0, 0.118), (1_000, None, 0.680)],
)
def test_the_bound_is_in_units_of_reward_and_without_it_the_scale_does_not_matter(
    scale: float, huber: float | None, share: float
) -> None:
    """One state, no future, reward ~ N(0, scale^2): where the spread's slope is zero, as a share of `scale`, in closed form."""
    made = dsac_t.make(dsac_t.Config(hidden=(8,), huber=huber), Spec(Box(1), Box(1)))
    s, rows = ref.double(made.init()), 4_001
    reward = scale * torch.distributions.Normal(0.0, 1.0).icdf((torch.arange(rows, dtype=ref.F64) + 0.5) / rows)
    x, end = torch.zeros(rows, 1, dtype=ref.F64), torch.zeros(rows, dtype=ref.F64)

    def slope(part: float) -> float:
        p = constant_at(s.critic.params, part * scale)
        at = replace(s, critic=replace(s.critic, params=p))
        return float(ref.seeded(0, ref.gradient, made.losses["critic"], p, at, Batch(x, x, reward, end, x))["b1"][0, 1])

    low, high = 0.005, 1.5
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (low, middle) if slope(middle) > 0 else (middle, high)
    assert low == pytest.approx(share, abs=0.004)


def constant_at(p: Params, sigma: float) -> Params:
    """Critics of mean 0 whose spread is the same everywhere."""
    raw = sigma + math.log(-math.expm1(-sigma))  # softplus's inverse
    return {k: torch.zeros_like(x) for k, x in p.items()} | {"b1": torch.tensor([[0, raw]] * 2, dtype=ref.F64)}


# ----------------------------------------------------------------------------------------------------------------- acting


def test_act_is_the_mean_or_a_draw_of_the_policy(batch: Batch) -> None:
    made = learner()
    ref.assert_acts_as_a_tanh_gaussian(made, state(made), batch, gaussian)


def test_defaults_are_the_authors() -> None:
    ref.assert_defaults(
        dsac_t, lr=1e-4, alpha_lr=3e-4, tau=0.005, hidden=(256, 256, 256), delay=2, clip=3, bias=0.1, weight=(0.1, 10), huber=50,
        initial_alpha=math.e, entropy_per_dim=-1, log_std=(-20, 0.5), gamma=0.99, batch_size=256, warmup=10_000,
    )  # fmt: skip


def test_other_actions_are_refused() -> None:
    ref.assert_refuses_choices(dsac_t)
