"""A point that moves in the plane."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

__all__ = ["MultiGoal"]

Point = NDArray[np.float32]


class MultiGoal(gym.Env[Point, Point]):
    """A point near the middle of a square, with a goal on each of its four sides: four ways that are equally good.

    Observation: the position (x, y), in units of length, each in [-7, 7]; it starts at normal noise of std 0.1 around (0, 0).
    Action: the displacement of one step, each in [-1, 1]; walls stop the point.
    Reward: -action_cost |action|^2 - distance_cost (distance from the nearest goal)^2, after the move; and goal_reward on
    arrival. Goals lie at (5, 0), (-5, 0), (0, 5) and (0, -5).
    Ends: terminated where the nearest goal is less than 1 away; cut off after 30 steps.

    From haarnoja/sac (sac/envs/multigoal.py; the 30 steps: examples/multigoal_sac.py, which sets action_cost to 10).
    """

    goals = np.array([[5, 0], [-5, 0], [0, 5], [0, -5]], np.float32)

    def __init__(self, action_cost: float = 30.0, distance_cost: float = 1.0, goal_reward: float = 10.0) -> None:
        self.observation_space = spaces.Box(-7, 7, (2,), np.float32)
        self.action_space = spaces.Box(-1, 1, (2,), np.float32)
        self.costs, self.goal_reward = (action_cost, distance_cost), goal_reward
        self.at = np.zeros(2, np.float32)

    @classmethod
    def distances(cls, position: Point) -> Point:
        """Positions (..., 2) -> how far each goal is (..., 4)."""
        return np.linalg.norm(position[..., None, :] - cls.goals, axis=-1)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Point, dict[str, Any]]:
        super().reset(seed=seed)
        self.at = self.np_random.normal(0, 0.1, 2).astype(np.float32)
        return self.at.copy(), {}

    def step(self, action: Point) -> tuple[Point, float, bool, bool, dict[str, Any]]:
        action = np.clip(action, -1, 1)
        self.at = np.clip(self.at + action, -7, 7).astype(np.float32)
        nearest = float(self.distances(self.at).min())
        there = nearest < 1
        reward = -self.costs[0] * float(action @ action) - self.costs[1] * nearest**2 + self.goal_reward * there
        return self.at.copy(), reward, there, False, {}
