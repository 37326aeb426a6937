"""RLIV-UA: its losses against numpy in float64, how it makes a pair's next state, and its value beside the closed form."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from thespis import nets
from thespis.algos.constrained import rliv_ua
from thespis.core import Batch, Box, Discrete, Fault, Learner, Params, Spec, replace

from . import reference as ref
from .reference import BATCH, F64, net, weights

REWARDS = ("click", "follow", "gift")
USER, CHOICES, BLOCK = 2, 3, 4
SPEC = Spec(Box(USER + CHOICES * BLOCK), Discrete(CHOICES), REWARDS)


def learner(**numbers: Any) -> Learner:
    return rliv_ua.make(
        rliv_ua.Config(**{"hidden": (7,), "user": USER, "worth": ("click=1", "follow=10", "gift=50"), **numbers}), SPEC
    )


@pytest.fixture
def batch() -> Batch:
    obs, next_obs = torch.rand(2, BATCH, SPEC.obs.dim, dtype=F64)
    reward = (torch.rand(BATCH, 3) < 0.5) * torch.tensor([1.0, 1.0, 3.0])
    discount = torch.tensor([0.9, 0.9, 0.0, 0.5]).repeat(2)[:, None] * torch.ones(3)
    return ref.double(Batch(obs, torch.arange(BATCH) % CHOICES, reward, discount, next_obs))


def state(made: Learner) -> rliv_ua.State:
    s: rliv_ua.State = ref.aged(made.init())
    scale = {"size": torch.tensor([0.5, 0.25, 2.0], dtype=F64), "share": torch.tensor([0.1, 0.3, 0.6], dtype=F64)}
    return replace(s, scale=scale)


def pair(obs: np.ndarray, choice: int) -> np.ndarray:
    return np.concatenate([obs[:USER], obs[USER + BLOCK * choice : USER + BLOCK * (choice + 1)]])


def part(p: Params, name: str) -> dict[str, np.ndarray]:
    return weights(nets.part(p, name))


def value(p: Params, x: np.ndarray, critics: str = "chain") -> tuple[np.ndarray, np.ndarray]:
    """Of a pair: what each head says, and the chances that a reward comes."""
    h, found = ref.relu(net(part(p, "trunk"), x)), []
    for i in range(1 if critics == "joint" else 3):
        seen = np.append(h, found[-1]) if i and critics == "chain" else h
        found.append(float(net(part(p, f"head{i}"), seen)[0]))
    return np.array(found), 1 / (1 + np.exp(-net(part(p, "beside"), h)))


@pytest.mark.parametrize("critics", ["chain", "each", "joint"])
def test_the_critic_learns_by_adjacent_states_and_predicts_what_comes(batch: Batch, critics: str) -> None:
    made = learner(critics=critics, supervised=0.7, counted=0.4)
    s, total = state(made), 0.0
    size, share = s.scale["size"].numpy(), s.scale["share"].numpy()
    for obs, action, reward, discount, next_obs in ref.rows(batch):
        after = pair(obs, action)
        after[:USER] = next_obs[:USER]
        after[USER : USER + 3] = np.minimum(after[USER : USER + 3] + 0.4 * (reward > 0), 1)
        r = reward / size
        r, d = (np.array([r @ share]), discount[:1]) if critics == "joint" else (r, discount)
        values, comes = value(s.critic.params, pair(obs, action), critics)
        total += ((values - r - d * value(s.target, after, critics)[0]) ** 2).sum()
        total -= 0.7 * np.log(np.where(reward > 0, comes, 1 - comes)).sum()
    assert float(made.losses["critic"](s.critic.params, s, batch)[0]) == pytest.approx(total / BATCH, rel=1e-9)


def test_a_joined_log_and_choices_without_blocks_take_the_next_state_as_it_is(batch: Batch) -> None:
    made = learner(adjacent=False)
    s = state(made)
    total, size = 0.0, s.scale["size"].numpy()
    for obs, action, reward, discount, next_obs in ref.rows(batch):
        ahead = value(s.target, pair(next_obs, action))[0]
        total += ((value(s.critic.params, pair(obs, action))[0] - reward / size - discount * ahead) ** 2).sum()
    loss, told = made.losses["critic"](s.critic.params, s, batch)
    assert float(loss - 0.3 * told["cross_entropy"]) == pytest.approx(total / BATCH, rel=1e-9)
    made = learner(user=None)
    s, total = state(made), 0.0
    one = np.eye(CHOICES)
    for obs, action, reward, discount, next_obs in ref.rows(batch):
        ahead = value(s.target, np.append(next_obs, one[action]))[0]
        total += ((value(s.critic.params, np.append(obs, one[action]))[0] - reward / size - discount * ahead) ** 2).sum()
    loss, told = made.losses["critic"](s.critic.params, s, batch)
    assert float(loss - 0.3 * told["cross_entropy"]) == pytest.approx(total / BATCH, rel=1e-9)


def test_a_sparse_head_sees_the_value_before_it_and_leaves_it_alone(batch: Batch) -> None:
    """What the last head is asked for moves no weight of the first head, though its value moves with it."""
    made = learner(supervised=0.0)
    s = state(made)
    more = replace(batch, reward=batch.reward * torch.tensor([1.0, 1.0, 3.0]))
    one, two = (ref.gradient(made.losses["critic"], s.critic.params, s, b) for b in (batch, more))
    assert torch.equal(one["head0.w1"], two["head0.w1"])
    assert not torch.equal(one["head2.w0"], two["head2.w0"])
    first = {k: x + 1 if k == "head0.b1" else x for k, x in s.critic.params.items()}
    x = pair(batch.obs[0].numpy(), 0)
    assert value(first, x)[0][2] != value(s.critic.params, x)[0][2]


def test_the_actor_is_one_score_for_all_candidates(batch: Batch) -> None:
    made = learner(temperature=0.3)
    s, total = state(made), 0.0
    normed = nets.layers("normed", (USER + BLOCK, 7, 1))
    for obs in batch.obs:
        x = np.stack([pair(obs.numpy(), c) for c in range(CHOICES)])
        with_bias = s.actor.params | {"b1": torch.full((1,), 0.7, dtype=torch.float64)}  # any: it cancels out
        logits = normed.apply(with_bias, torch.from_numpy(x)).squeeze(-1).numpy()
        pi = np.exp(logits) / np.exp(logits).sum()
        gain = np.array([value(s.critic.params, row)[0] @ s.scale["share"].numpy() for row in x])
        total += pi @ (0.3 * np.log(pi) - gain)
    assert float(made.losses["actor"](s.actor.params, s, batch)[0]) == pytest.approx(total / BATCH, rel=1e-9)
    swapped = torch.cat([batch.obs[:, :USER], batch.obs[:, USER:].unflatten(1, (CHOICES, BLOCK)).flip(1).flatten(1)], 1)
    best = made.act(s.actor.params, batch.obs, False)
    torch.testing.assert_close(made.act(s.actor.params, swapped, False), CHOICES - 1 - best)


def test_an_update_steps_critic_target_and_actor(batch: Batch) -> None:
    made = learner(lr=0.01, critic_lr=0.02, tau=0.1)
    s = state(made)
    after, _ = made.update(s, batch, 0)
    critic, _ = ref.step(s.critic, made.losses["critic"], 0.02, s, batch)
    s = replace(s, critic=critic, target=ref.mixed(s.target, critic.params, 0.1))
    actor, _ = ref.step(s.actor, made.losses["actor"], 0.01, s, batch)
    ref.assert_same(after, replace(s, actor=actor))


def test_what_is_taken_of_the_data() -> None:
    reward = torch.tensor([[1.0, 0.0, 4.0], [0.0, 1.0, 0.0]])
    obs = torch.zeros(2, SPEC.obs.dim)
    data = Batch(obs, torch.zeros(2, dtype=torch.int64), reward, reward, obs)
    for worth, share in ((("click", "gift=50"), np.array([0.5, 0, 100]) / 100.5), ((), np.full(3, 1 / 3))):
        made = learner(worth=worth)
        found = made.given(made.init(), data).scale  # type: ignore[misc]
        np.testing.assert_allclose(found["size"], [0.5, 0.5, 2.0])
        np.testing.assert_allclose(found["share"], share, rtol=1e-6)


@pytest.mark.parametrize(("gamma", "chosen"), [(0.0, 0), (0.9, 1)])
def test_signature_greed_shows_who_is_clicked_and_lifelong_value_who_is_followed(gamma: float, chosen: int) -> None:
    """One author has a click of 1 at each showing and nothing more; the other 0.5 until a follow, and from then on gifts of 2."""
    torch.manual_seed(0)
    spec = Spec(Box(8), Discrete(2), ("click", "gift"))  # blocks: clicks, gifts, followed, which author
    cfg = rliv_ua.Config(
        user=0, hidden=(16,), lr=0.02, critic_lr=0.02, tau=0.2, gamma=gamma, supervised=0.0, worth=("click", "gift"), counted=1.0
    )
    made = rliv_ua.make(cfg, spec)
    rows = []
    for fan in (0.0, 1.0):
        for action in (0, 1):
            obs = torch.tensor([0, 0, 0, 0, fan, 0, 0, 1.0])  # a click counts: it makes a fan of the second
            reward = torch.tensor([1.0, 0.0]) if action == 0 else torch.tensor([0.5, 2.0 * fan])
            rows.append((obs, action, reward))
    obs, reward = torch.stack([r[0] for r in rows]), torch.stack([r[2] for r in rows])
    data = Batch(obs, torch.tensor([r[1] for r in rows]), reward, torch.full((4, 2), gamma), obs)
    s = made.given(made.init(), data)  # type: ignore[misc]
    for _ in range(150):
        s, _ = made.update(s, data, 0)
    assert int(made.act(s.actor.params, obs[:1], False)[0]) == chosen


def test_what_it_refuses() -> None:
    with pytest.raises(Fault, match="rliv_ua: discrete actions are needed"):
        rliv_ua.make(rliv_ua.Config(), Spec(Box(3), Box(2), REWARDS))
    with pytest.raises(Fault, match="rliv_ua: several rewards are needed"):
        rliv_ua.make(rliv_ua.Config(), Spec(Box(3), Discrete(3)))
    with pytest.raises(Fault, match="worth: 'clicks' is no reward of the environment; allowed: click, follow, gift"):
        learner(worth=("clicks=2",))
    for user in (0, 3, 8):
        with pytest.raises(
            Fault, match=f"user is {user}; an observation has 14 numbers, and the others must be shared equally by 3"
        ):
            learner(user=user)
