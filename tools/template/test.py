"""NAME's losses against a slow float64 computation, and what it is known by."""

import numpy as np
import pytest
import torch

from thespis.algos.FAMILY import NAME
from thespis.core import Batch, Box, Learner, Params, Spec, replace

OBS, ACTION, BATCH = 3, 2, 5


def learner(width: int = 8, **numbers: float) -> Learner:
    cfg = NAME.Config(hidden=(width, width), **numbers)
    return NAME.make(cfg, Spec(Box(OBS), Box(ACTION)))


@pytest.fixture
def batch() -> Batch:
    torch.manual_seed(0)
    obs, next_obs, action = torch.randn(BATCH, OBS), torch.randn(BATCH, OBS), torch.rand(BATCH, ACTION) * 2 - 1
    return Batch(obs, action, torch.randn(BATCH), torch.tensor([0.99, 0.99, 0.0, 0.99, 0.5]), next_obs)


def by_hand(p: Params, *inputs: torch.Tensor) -> np.ndarray:
    """The network in float64, one row at a time."""
    weights = {k: v.double().numpy() for k, v in p.items()}
    rows = []
    for x in np.concatenate([i.double().numpy() for i in inputs], -1):
        for i in range(3):
            x = x @ weights[f"w{i}"] + weights[f"b{i}"]
            x = np.maximum(x, 0) if i < 2 else x
        rows.append(x)
    return np.stack(rows)


# REPLACE the expected numbers by the paper's equations, computed without thespis.


def test_critic_loss(batch: Batch) -> None:
    made = learner()
    s = made.init()
    s = replace(s, target={k: 2 * p for k, p in s.target.items()})  # so that critic and target differ
    total = 0.0
    for i in range(BATCH):
        row = slice(i, i + 1)
        next_action = torch.from_numpy(np.tanh(by_hand(s.actor.params, batch.next_obs[row])))
        value = by_hand(s.target, batch.next_obs[row], next_action)[0, 0]
        target = float(batch.reward[i]) + float(batch.discount[i]) * value
        total += (by_hand(s.critic.params, batch.obs[row], batch.action[row])[0, 0] - target) ** 2
    loss, _ = made.losses["critic"](s.critic.params, s, batch)
    assert float(loss) == pytest.approx(total / BATCH, rel=1e-5)


def test_actor_loss(batch: Batch) -> None:
    made = learner()
    s = made.init()
    action = torch.from_numpy(np.tanh(by_hand(s.actor.params, batch.obs)))
    loss, _ = made.losses["actor"](s.actor.params, s, batch)
    assert float(loss) == pytest.approx(-by_hand(s.critic.params, batch.obs, action).mean(), rel=1e-5)


# REPLACE by the limit at which NAME becomes its parent.


def test_limit_a_target_that_keeps_nothing_is_the_critic(batch: Batch) -> None:
    made = learner(tau=1.0)
    s, _ = made.update(made.init(), batch, 0)
    for name, p in s.critic.params.items():
        torch.testing.assert_close(s.target[name], p)


# REPLACE by the property that the paper is known for.


def test_signature_the_actor_finds_the_best_action() -> None:
    """One step and no future, reward -|a - best|^2: the best action is known."""
    torch.manual_seed(0)
    best = torch.tensor([0.5, -0.25])
    made = learner(64, lr=3e-3)
    s = made.init()
    for _ in range(600):
        obs, action = torch.randn(64, OBS), torch.rand(64, ACTION) * 2 - 1
        reward = -(action - best).square().sum(-1)
        s, _ = made.update(s, Batch(obs, action, reward, torch.zeros(64), obs), 0)
    acted = made.act(made.policy(s), torch.randn(64, OBS), False)
    torch.testing.assert_close(acted.mean(0), best, atol=0.2, rtol=0)
