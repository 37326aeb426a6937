"""Actions of parts, and action masks: what is learnt is the known answer, by way of the whole engine."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

import thespis
from thespis.envs.probes import Gears

OFF = {
    "steps": 700, "warmup": 200, "batch_size": 64, "lr": 3e-3, "tau": 0.05, "hidden": (32,), "replay_size": 1_000,
}  # fmt: skip
ON = {"rollout": 32, "num_envs": 8, "epochs": 4, "batch_size": 64, "lr": 5e-3, "hidden": (32,), "gamma": 0.0}
QUIET = {"log_every": 10_000, "eval_every": 10_000, "checkpoint_every": 10_000, "compile_after": -1, "sinks": (), "panel": False}


def trained(algo: str, env: Any, out: Path, **options: Any) -> thespis.Policy:
    return thespis.load(thespis.train(algo, env, out=out, eval_episodes=10, **QUIET, **options))


def test_a_gear_and_its_throttle(tmp_path: Path) -> None:
    """Regret against the best gear at its best throttle, over all that may be observed (two seeds: 0.006 and 0.007)."""
    policy = trained("hybrid_sac", "thespis/Gears-v0", tmp_path / "run", **OFF, alpha_choice=0.02, alpha_vector=0.01)
    regret = [
        1 - min(abs(x - at) for at in Gears.at) - Gears.reward(x, policy.act(np.array([x], np.float32)))
        for x in np.linspace(-1, 1, 41)
    ]
    assert min(regret) > -1e-6
    assert np.mean(regret) < 0.03


class Panel(gym.Env[Any, Any]):
    """Three signs are seen; the reward is the share of switches that stand as they do, less the square of the dial's distance
    from the first sign, where there is a dial. Known: the best reward is 1."""

    observation_space = spaces.MultiBinary(3)

    def __init__(self, dial: bool) -> None:
        switches = spaces.MultiBinary(3)
        self.dial = dial
        self.action_space = spaces.Tuple((switches, spaces.Box(-1, 2, (1,), np.float64))) if dial else switches

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.x = self.np_random.integers(0, 2, 3, dtype=np.int8)
        return self.x, {}

    def step(self, action: Any) -> Any:
        assert self.action_space.contains(action)
        return self.x, self.reward(self.x, action), True, False, {}

    def reward(self, x: Any, action: Any) -> float:
        switches, dial = action if self.dial else (action, x[:1])
        return float((switches == x).mean() - (dial[0] - x[0]) ** 2)


@pytest.mark.parametrize("dial", [False, True])
def test_every_part_of_an_action_has_its_own_answer(dial: bool, tmp_path: Path) -> None:
    env = Panel(dial)
    policy = trained("ppo", partial(Panel, dial), tmp_path / "run", **ON, steps=2_000)
    every = [np.array([i >> k & 1 for k in range(3)], np.int8) for i in range(8)]
    rewards = [env.reward(x, policy.act(x)) for x in every]
    assert np.mean(rewards) > 0.9
    at_once = policy.act(np.stack(every))
    switches, alone = (at_once[0], [policy.act(x)[0] for x in every]) if dial else (at_once, [policy.act(x) for x in every])
    assert switches.tolist() == np.stack(alone).tolist()


class Doors(gym.Env[Any, Any]):
    """Three steps before four doors, of which the mask leaves some; a door's number is its reward, a closed one a fault.

    Known: the best is the highest open door.
    """

    observation_space = spaces.Box(0, 1, (1,), np.float32)
    action_space = spaces.Discrete(4)

    def said(self) -> Any:
        self.open = self.np_random.permutation([1, 1, 0, 0]).astype(np.int8)
        return np.array([self.t / 3], np.float32), {"action_mask": self.open.copy()}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.t = 0
        return self.said()

    def step(self, action: Any) -> Any:
        assert self.open[action], "a closed door"
        self.t += 1
        obs, info = self.said()
        return obs, float(action) / 3, self.t == 3, False, info


@pytest.mark.parametrize(
    ("algo", "options"),
    [
        ("sac_discrete", {**OFF, "steps": 500, "alpha": 0.05, "gamma": 0.5}),
        ("ppo", {**ON, "steps": 2_000}),
    ],
)
def test_the_highest_open_door(algo: str, options: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No closed one is tried, at random, while training, or in an evaluation: that would end the run."""
    policy = trained(algo, Doors, tmp_path / "run", **options)
    assert "heed" not in "".join(capsys.readouterr())
    wrong = 0
    for t in range(3):
        for i, j in ((1, 0), (2, 0), (2, 1), (3, 0), (3, 1), (3, 2)):
            mask = np.isin(range(4), (i, j)).astype(np.int8)
            chosen = policy.act(np.array([t / 3], np.float32), mask=mask)
            assert mask[chosen]
            wrong += chosen != i
    assert wrong <= 1
    masks = np.array([[1, 0, 1, 0], [0, 1, 0, 0], [0, 0, 1, 1]], np.int8)
    each = [int(policy.act(np.zeros(1, np.float32), mask=mask)) for mask in masks]
    assert policy.act(np.zeros((3, 1), np.float32), mask=masks).tolist() == each
    with pytest.raises(thespis.Fault, match="must be one for each of the 3 observations"):
        policy.act(np.zeros((3, 1), np.float32), mask=masks[:2])
    with pytest.raises(thespis.Fault, match="mask is missing"):
        policy.act(np.zeros(1, np.float32))
