"""Recurrent PPO's loss step by step in float64 with torch's own GRU; its rollout; and what it does with a memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from thespis.algos.onpolicy import recurrent_ppo
from thespis.core import Batch, Box, Discrete, Spec, tree_map
from thespis.data import SegmentRollout, experience

from .reference import F64, assert_defaults, double

OBS, MEMORY, LENGTH, ENVS, STEPS = 3, 4, 3, 2, 6
SPEC = Spec(Box(OBS), Discrete(2))


def made(spec=SPEC, **numbers):
    small = {"memory": MEMORY, "length": LENGTH, "rollout": STEPS, "hidden": (5,), "normalise_obs": False}
    return recurrent_ppo.make(recurrent_ppo.Config(**{**small, **numbers}), spec)


def rollout(learner, state) -> Batch:
    """Six steps of two environments, in which episodes end at steps 1 and 3, played with the state's memory."""
    torch.manual_seed(3)
    obs, ahead, reward = torch.randn(STEPS, ENVS, OBS), torch.randn(STEPS, ENVS, OBS), torch.randn(STEPS, ENVS)
    ended = torch.zeros(STEPS, ENVS, dtype=torch.bool)
    ended[1, 0] = ended[3, 1] = True
    hidden, action, h = [], [], torch.randn(ENVS, MEMORY)  # the first episodes are under way
    for t in range(STEPS):
        hidden.append(h)
        a, memory = learner.act(learner.policy(state), obs[t], True, {"hidden": h}, torch.ones(ENVS, dtype=torch.bool))
        action.append(a)
        h = torch.where(ended[t, :, None], 0.0, memory["hidden"])
    extra = {"ended": ended, "hidden": torch.stack(hidden), "return_std": torch.full((STEPS, ENVS), 2.0)}
    return Batch(obs, torch.stack(action), reward, 0.99 * ~ended, ahead, extra)


def cell(p) -> torch.nn.GRUCell:
    """torch's, in float64, with these parameters."""
    found = torch.nn.GRUCell(OBS, MEMORY, dtype=F64)
    for ours, theirs in (("wx", "weight_ih"), ("wh", "weight_hh"), ("bx", "bias_ih"), ("bh", "bias_hh")):
        getattr(found, theirs).data = p[f"gru.{ours}"].T.clone() if ours[0] == "w" else p[f"gru.{ours}"].clone()
    return found


def net(p, name: str, x: torch.Tensor) -> torch.Tensor:
    return torch.tanh(x @ p[f"{name}.w0"] + p[f"{name}.b0"]) @ p[f"{name}.w1"] + p[f"{name}.b1"]


def test_the_loss_is_the_one_by_hand_and_memory_starts_anew_with_each_episode():
    learner = made(entropy_weight=0.01)
    torch.manual_seed(0)
    state = learner.init()
    played = rollout(learner, state)
    rows = double(learner.prepare(state, played)[1])
    rows.extra["logp"] += 0.3 * torch.randn_like(rows.extra["logp"])
    p = {k: v.double() for k, v in state.net.params.items()}
    gru, total, gains, wrong, entropy = cell(p), rows.extra["advantage"], [], [], []
    advantage = (total - total.mean()) / (total.std(correction=0) + 1e-8)
    for row in range(STEPS // LENGTH * ENVS):
        block, env = divmod(row, ENVS)
        h = played.extra["hidden"][block * LENGTH, env].double()
        for i in range(LENGTH):
            t = block * LENGTH + i
            if t and played.extra["ended"][t - 1, env]:
                h = torch.zeros(MEMORY, dtype=F64)
            seen = played.obs[t, env].double()
            h = gru(seen[None], h[None])[0]
            x = torch.cat([h, seen])
            logp = net(p, "actor", x).log_softmax(-1)
            ratio = (logp[int(played.action[t, env])] - rows.extra["logp"][row, i]).exp()
            a = advantage[row, i]
            gains.append(torch.minimum(ratio * a, ratio.clamp(0.8, 1.2) * a))
            wrong.append(0.5 * (net(p, "critic", x)[0] - rows.extra["target"][row, i]) ** 2)
            entropy.append(-(logp.exp() * logp).sum())
    by_hand = -torch.stack(gains).mean() - 0.01 * torch.stack(entropy).mean() + 0.5 * torch.stack(wrong).mean()
    loss, told = learner.losses["joint"](p, rows)
    assert float(loss) == pytest.approx(float(by_hand.detach()), rel=1e-6)
    assert 0 < float(told["clipped"]) < 1


def test_before_the_first_step_nothing_has_moved_and_values_are_those_of_each_steps_own_memory():
    learner = made()
    torch.manual_seed(0)
    state = learner.init()
    played = rollout(learner, state)
    rows = learner.prepare(state, played)[1]
    assert rows.obs.shape == (STEPS // LENGTH * ENVS, LENGTH, OBS)
    _, told = learner.losses["joint"](state.net.params, rows)
    assert abs(float(told["kl"])) < 1e-6
    p = {k: v.double() for k, v in state.net.params.items()}
    gru, flat = cell(p), tree_map(lambda x: x.flatten(0, 1), double(played))
    h = gru(flat.obs, flat.extra["hidden"])
    value = net(p, "critic", torch.cat([h, flat.obs], -1))[:, 0].unflatten(0, (STEPS, ENVS))
    ahead = net(p, "critic", torch.cat([gru(flat.next_obs, h), flat.next_obs], -1))[:, 0].unflatten(0, (STEPS, ENVS))
    reward = (played.reward.double() / np.sqrt(4 + 1e-8)).clamp(-10, 10)
    delta, advantage = reward + played.discount * ahead - value, torch.zeros(STEPS + 1, ENVS, dtype=F64)
    for t in reversed(range(STEPS)):
        advantage[t] = delta[t] + 0.99 * 0.95 * advantage[t + 1] * ~played.extra["ended"][t]
    cut = advantage[:-1].detach().unflatten(0, (-1, LENGTH)).transpose(1, 2).flatten(0, 1)
    torch.testing.assert_close(rows.extra["advantage"].double(), cut, rtol=1e-4, atol=1e-5)


def test_a_rollout_holds_what_was_remembered_before_each_step_and_goes_on_from_disk():
    feed = made(rollout=STEPS).experience
    ours, again = (experience(SPEC, feed, ENVS, 0, frozenset()) for _ in range(2))
    assert isinstance(ours, SegmentRollout)
    assert feed.minibatches(8) == 1
    assert made(rollout=120, length=15, batch_size=16).experience.minibatches(8) == 4  # 64 sequences

    def step(replay, t):
        zeros = np.zeros(ENVS)
        replay.remember({"hidden": torch.full((1, MEMORY), 10.0 + t)}, torch.tensor([1]))
        replay.remember({"hidden": torch.full((1, MEMORY), 1.0 * t)}, torch.tensor([0]))
        obs = np.zeros((ENVS, OBS), np.float32)
        replay.add(obs, zeros.astype(np.int64), zeros.astype(np.float32), zeros > 0, zeros > 0, obs)

    for t in range(4):
        step(ours, t)
    again.load([], ours.steps)
    again.restore(ours.save())
    for replay in (ours, again):
        for t in (4, 5):
            step(replay, t)
        hidden = replay.batch().extra["hidden"]
        assert hidden[:, 0, 0].tolist() == [0, 1, 2, 3, 4, 5]
        assert hidden[:, 1, 3].tolist() == [10, 11, 12, 13, 14, 15]


def test_a_sequence_has_as_many_steps_as_divide_the_rollout():
    found = [made(rollout=r, length=n).experience.length for r, n in ((120, 15), (128, 15), (16, 15), (7, 3), (4, 9))]
    assert found == [15, 16, 16, 7, 4]


def test_defaults():
    assert_defaults(recurrent_ppo, clip=0.2, gamma=0.99, lam=0.95, rollout=120, length=15)
