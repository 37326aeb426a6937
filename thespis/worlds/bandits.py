"""Nothing to see, and actions to choose."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

__all__ = ["Rounds", "TwoPeaks"]

Floats = NDArray[np.float32]


class TwoPeaks(gym.Env[Floats, Floats]):
    """Two actions are equally good, and half-way between them lies one that only looks so from nearby.

    Observation: always 0. Action: one number a in [-1, 1].
    Reward: the largest of h exp(-(a - c)^2 / (2 * 0.15^2)), with height h = 1 at c = -0.6 and at c = 0.6, and h = `decoy` at
    c = 0. So the best reward is 1.
    Ends: terminated after one step.
    """

    centres = np.array([-0.6, 0.0, 0.6])
    width = 0.15

    def __init__(self, decoy: float = 0.5) -> None:
        self.observation_space = spaces.Box(-1, 1, (1,), np.float32)
        self.action_space = spaces.Box(-1, 1, (1,), np.float32)
        self.heights = np.array([1.0, decoy, 1.0])

    def reward(self, a: NDArray[Any]) -> NDArray[Any]:
        """Of any number of actions at once, (...) -> (...)."""
        return (self.heights * np.exp(-0.5 * ((a[..., None] - self.centres) / self.width) ** 2)).max(-1)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Floats, dict[str, Any]]:
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action: Floats) -> tuple[Floats, float, bool, bool, dict[str, Any]]:
        return np.zeros(1, np.float32), float(self.reward(np.asarray(action, np.float64)[0])), True, False, {}


class Rounds(gym.Env[Floats, np.int64]):
    """The same choice again and again, and no reward: what an episode is worth, a rater says.

    Observation: always 0. Action: one of `actions`.
    Reward: 0.
    Ends: terminated after `rounds` steps.
    """

    def __init__(self, actions: int = 3, rounds: int = 1) -> None:
        self.observation_space = spaces.Box(-1, 1, (1,), np.float32)
        self.action_space = spaces.Discrete(actions)
        self._max_episode_steps = rounds

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Floats, dict[str, Any]]:
        super().reset(seed=seed)
        self.round = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: np.int64) -> tuple[Floats, float, bool, bool, dict[str, Any]]:
        self.round += 1
        return np.zeros(1, np.float32), 0.0, self.round == self._max_episode_steps, False, {}
