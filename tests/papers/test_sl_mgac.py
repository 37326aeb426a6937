"""SL-MGAC: its losses against numpy in float64, discrete SAC as its limit, and what its parts are for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from thespis.algos.constrained import sl_mgac
from thespis.algos.discrete import sac_discrete
from thespis.core import Batch, Box, Discrete, Fault, Learner, Params, Spec, leaves, replace

from . import reference as ref
from .reference import BATCH, F64, OBS, net, weights
from .test_tscac import batch, softmax

__all__ = ["batch"]

REWARDS = ("watch", "live", "shown", "hate")
SPEC = Spec(Box(OBS), Discrete(3), REWARDS)
BINS = 5


def learner(**numbers: Any) -> Learner:
    plain = {"hidden": (12, 10), "net": "mlp", "bins": BINS, "groups": 3, "floors": ("live", "shown=-0.2"), "group_by": 1}
    return sl_mgac.make(sl_mgac.Config(**{**plain, **numbers}), SPEC)


def state(made: Learner) -> sl_mgac.State:
    s: sl_mgac.State = ref.aged(made.init())
    scale = {"low": [-1.0, 0.0, -1.0, -2.0], "high": [2.0, 0.7, 0.0, 1.0], "size": [2.0, 0.5, 0.25, 4.0], "floor": [0.8, -0.8]}
    scale = {k: torch.tensor(x, dtype=F64) for k, x in scale.items()}
    scale["edge"] = torch.tensor([-0.4, 0.3], dtype=F64)[: len(s.scale["edge"])]
    return replace(s, multiplier={"x": torch.tensor([0.6, 1.5], dtype=F64)}, scale=scale)


def split(p: Params, s: sl_mgac.State, obs: np.ndarray, member: int | None = None) -> np.ndarray:
    """A grouped network, by a row."""
    w = weights(p, member)
    group = int((obs[1] > s.scale["edge"].numpy()).sum())
    h = ref.relu(obs @ w["trunk.w0"] + w["trunk.b0"])
    return net({k.removeprefix("head."): x[group] for k, x in w.items() if k.startswith("head.")}, h)


def parts(p: Params, s: sl_mgac.State, obs: np.ndarray, member: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """F (choices,), the bins' probabilities (choices, R, bins), and R (choices, R) in units of the rewards' sizes."""
    y = split(p, s, obs, member).reshape(3, 1 + 4 * BINS)
    share = np.apply_along_axis(softmax, -1, y[:, 1:].reshape(3, 4, BINS))
    low, high, size = (s.scale[k].numpy() for k in ("low", "high", "size"))
    return y[:, 0], share, (low + (high - low) * (share @ np.linspace(0, 1, BINS))) / size


def values(p: Params, s: sl_mgac.State, obs: np.ndarray) -> np.ndarray:  # Q (critics, choices)
    return np.array([f + r[:, 0] for f, _, r in (parts(p, s, obs, i) for i in range(2))])


def test_the_critic_learns_rewards_by_bins_and_what_follows_by_a_target_without_reward(batch: Batch) -> None:
    made = learner(temperature=0.3, supervised=0.7)
    s, total = state(made), 0.0
    for obs, action, reward, discount, next_obs in ref.rows(batch):
        pi = softmax(split(s.actor.params, s, next_obs))
        ahead = pi @ (values(s.target, s, next_obs).min(0) - 0.3 * np.log(pi))
        for i in range(2):
            f, share, _ = parts(s.critic.params, s, obs, i)
            total += 0.5 * (f[action] - discount[0] * ahead) ** 2
            for r in range(4):
                low, high = float(s.scale["low"][r]), float(s.scale["high"][r])
                place = min(max((reward[r] - low) / (high - low), 0), 1) * (BINS - 1)
                wanted = np.maximum(1 - np.abs(np.arange(BINS) - place), 0)  # shared by the two bins beside it
                total -= 0.7 * wanted @ np.log(share[action, r])
    loss, told = made.losses["critic"](s.critic.params, s, batch)
    assert float(loss) == pytest.approx(total / BATCH, rel=1e-10)
    beyond = (batch.reward[:, 0] > 2).double().mean()
    assert float(told["clipped"]) == pytest.approx(float(beyond))


def test_the_actor_climbs_the_least_critic_and_what_floors_ask(batch: Batch) -> None:
    made = learner(temperature=0.3, dual_step=0.5, lr=1e-9)
    s, total, gives = state(made), 0.0, np.zeros(4)
    for obs in batch.obs.numpy():
        pi = softmax(split(s.actor.params, s, obs))
        now = np.mean([parts(s.critic.params, s, obs, i)[2] for i in range(2)], 0)
        gain = values(s.critic.params, s, obs).min(0) + now[:, [1, 2]] @ [0.6, 1.5]
        total += pi @ (0.3 * np.log(pi) - gain)
        gives += pi @ now / BATCH
    loss, told = made.losses["actor"](s.actor.params, s, batch)
    assert float(loss) == pytest.approx(total / BATCH, rel=1e-10)
    np.testing.assert_allclose([float(told[f"gives/{name}"]) for name in REWARDS], gives, rtol=1e-10)


def test_an_update_steps_critic_actor_target_and_multipliers(batch: Batch) -> None:
    made = learner(lr=0.01, critic_lr=0.02, tau=0.1, dual_step=0.5)
    s = state(made)
    after, _ = made.update(s, batch, 0)
    critic, _ = ref.step(s.critic, made.losses["critic"], 0.02, s, batch)
    s = replace(s, critic=critic)
    actor, told = ref.step(s.actor, made.losses["actor"], 0.01, s, batch)
    short = s.scale["floor"] - torch.stack([told["gives/live"], told["gives/shown"]])
    multiplier = {"x": (s.multiplier["x"] + 0.5 * short).clamp(0, 10)}
    ref.assert_same(after, replace(s, actor=actor, target=ref.mixed(s.target, critic.params, 0.1), multiplier=multiplier))


def test_limit_is_discrete_sac(batch: Batch) -> None:
    """One group, no layer norm and no supervised rewards: the same losses and the same update."""
    made = learner(groups=1, supervised=0.0, temperature=0.3, lr=0.01, critic_lr=0.01, tau=0.1)
    s = state(made)
    one = sac_discrete.make(sac_discrete.Config(hidden=(12, 10), alpha=0.3, lr=0.01, tau=0.1), Spec(Box(OBS), Discrete(3)))
    of = {"trunk.w0": "w0", "trunk.b0": "b0", "head.w0": "w1", "head.b0": "b1", "head.w1": "w2", "head.b1": "b2"}

    def plain(node: Any) -> Any:  # without the axis of groups
        flat = {}
        for name, x in leaves(node).items():
            group, _, key = name.partition(".")
            flat[of[name]] = x.squeeze(-3 if "w" in key else -2) if group == "head" else x
        return flat

    def same(s: sl_mgac.State) -> tuple[Any, Any, Any]:
        return plain(s.actor.params), plain(s.critic.params), plain(s.target)

    other = one.init()
    actor, critic = (replace(g, params=plain(g.params), m=plain(g.m), v=plain(g.v)) for g in (s.actor, s.critic))
    log_alpha = replace(ref.double(other.log_alpha), params={"x": torch.tensor(0.3, dtype=F64).log()})
    other = replace(other, actor=actor, critic=critic, target=plain(s.target), log_alpha=log_alpha)
    given = replace(batch, reward=batch.reward[:, 0] / 2, discount=batch.discount[:, 0])
    for _ in range(3):
        s, _ = made.update(s, batch, 0)
        other, _ = one.update(other, given, 0)
    for ours, wanted in zip(same(s), (other.actor.params, other.critic.params, other.target), strict=True):
        ref.assert_same(ours, wanted, rtol=1e-8)


def test_what_is_taken_of_the_data() -> None:
    made = learner(groups=4, clip=0.5, floors=("live", "shown=-0.3"))
    reward = torch.stack([torch.arange(11.0), -torch.arange(11.0), torch.ones(11), torch.arange(11.0) % 2], 1)
    obs = torch.stack([torch.zeros(11), torch.arange(11.0) ** 2, torch.zeros(11)], 1)
    data = Batch(obs, torch.zeros(11, dtype=torch.int64), reward, reward, obs)
    found = made.given(made.init(), data).scale  # type: ignore[misc]
    wanted = {"low": [0, -10, 1, 0], "high": [5, -5, 1.001, 5e-3 / 11], "size": [5, 5, 1, 5 / 11], "floor": [-1, -0.3]}
    for name, x in (wanted | {"edge": [6.5, 25, 56.5]}).items():
        torch.testing.assert_close(found[name], torch.tensor(x, dtype=torch.float32))


@pytest.mark.parametrize(("gamma", "chosen"), [(0.0, 1), (0.9, 0)])
def test_signature_greed_takes_the_live_that_ends_the_session(gamma: float, chosen: int) -> None:
    """Showing gives 2 and the user leaves; a request without gives 1, and the next is like it. Only greed shows."""
    torch.manual_seed(0)
    cfg = sl_mgac.Config(hidden=(8, 8), lr=0.02, critic_lr=0.05, tau=0.2, gamma=gamma, groups=2, bins=11, dual_step=0.0)
    made = sl_mgac.make(cfg, Spec(Box(1), Discrete(2), ("watch", "shown")))
    action, obs = torch.arange(16) % 2, torch.linspace(-1, 1, 16)[:, None]
    reward = torch.stack([1 + action, -action], 1).float()
    discount = (gamma * (1 - action)[:, None]).expand(16, 2).float()
    data = Batch(obs, action, reward, discount, obs)
    s = made.given(made.init(), data)  # type: ignore[misc]
    for _ in range(80):
        s, told = made.update(s, data, 0)
    assert (made.act(made.policy(s), obs, False) == chosen).all()
    assert float(told["gives/shown"]) == pytest.approx(-chosen / 0.5, abs=0.1)


def test_signature_a_floor_holds_the_exposure() -> None:
    """Showing is worth more than not, by how much grows with the state; the floor allows one request in five."""
    action, obs = torch.arange(50) % 2, torch.linspace(0, 1, 50)[:, None]
    reward = torch.stack([1 + action * (0.2 + obs[:, 0]), -action], 1).float()
    data, shown = Batch(obs, action, reward, torch.zeros(50, 2), obs), {}
    small: dict[str, Any] = {"hidden": (16, 16), "lr": 0.02, "critic_lr": 0.02, "gamma": 0.0, "groups": 1, "bins": 11}
    for floor in (-1.0, -0.2):
        torch.manual_seed(0)
        cfg = sl_mgac.Config(floors=(f"shown={floor}",), dual_step=0.005, temperature=0.2, net="mlp", **small)
        made = sl_mgac.make(cfg, Spec(Box(1), Discrete(2), ("watch", "shown")))
        s = made.given(made.init(), data)  # type: ignore[misc]
        for _ in range(200):
            s, told = made.update(s, data, 0)
        shown[floor] = -float(told["gives/shown"]) / 2
    assert shown[-0.2] == pytest.approx(0.2, abs=0.06)
    assert shown[-1.0] > 0.6


def test_what_it_refuses() -> None:
    with pytest.raises(Fault, match="sl_mgac: discrete actions are needed"):
        sl_mgac.make(sl_mgac.Config(), Spec(Box(OBS), Box(2), REWARDS))
    with pytest.raises(Fault, match="sl_mgac: several rewards are needed"):
        sl_mgac.make(sl_mgac.Config(), Spec(Box(OBS), Discrete(3)))
    with pytest.raises(Fault, match="main is 'liv'; allowed: watch, live, shown, hate"):
        learner(main="liv")
    with pytest.raises(Fault, match="group_by is 3; an observation has 3 numbers, counted from 0"):
        learner(group_by=3)
