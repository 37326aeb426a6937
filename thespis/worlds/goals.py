"""Small tasks whose reward depends on a goal that each episode asks for."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

__all__ = ["BitFlip", "Reach", "WallReach"]

Seen = dict[str, NDArray[Any]]


class StepCost(gym.Wrapper[Any, Any, Any, Any]):
    """Around an environment with goals that rewards a step at the goal with 1 and others with 0: -1 for each step until the
    first at the goal, which gives 0 and ends the episode."""

    def step(self, action: Any) -> Any:
        obs, reward, terminated, truncated, info = self.env.step(action)
        there = float(reward) > 0
        return obs, float(reward) - 1, terminated or there, truncated, info | {"is_success": there}

    def compute_reward(self, achieved_goal: NDArray[Any], desired_goal: NDArray[Any], info: Any) -> NDArray[Any]:
        """(..., g), (..., g) -> (...)"""
        return self.env.get_wrapper_attr("compute_reward")(achieved_goal, desired_goal, info) - 1

    def compute_terminated(self, achieved_goal: NDArray[Any], desired_goal: NDArray[Any], info: Any) -> NDArray[np.bool_]:
        """(..., g), (..., g) -> (...)"""
        return self.compute_reward(achieved_goal, desired_goal, info) > -1


class Goal(gym.Env[Any, Any]):
    """Gymnasium's GoalEnv: 0 for a step that ends at the goal, which ends the episode; -1 for any other.

    A subclass has `reached` and `_seen`.
    """

    desired: NDArray[Any]

    def reached(self, achieved: NDArray[Any], desired: NDArray[Any]) -> NDArray[np.bool_]:
        """Whether goals (..., g) are as good as those asked for (..., g): (...)."""
        raise NotImplementedError

    def compute_reward(self, achieved_goal: NDArray[Any], desired_goal: NDArray[Any], info: Any) -> NDArray[Any]:
        """(..., g), (..., g) -> (...)"""
        return self.reached(achieved_goal, desired_goal) - np.float64(1)

    def compute_terminated(self, achieved_goal: NDArray[Any], desired_goal: NDArray[Any], info: Any) -> NDArray[np.bool_]:
        """(..., g), (..., g) -> (...)"""
        return self.reached(achieved_goal, desired_goal)

    def _seen(self) -> Seen:
        raise NotImplementedError

    def _step(self, truncated: bool = False) -> tuple[Seen, float, bool, bool, dict[str, Any]]:
        obs = self._seen()
        there = bool(self.reached(obs["achieved_goal"], self.desired))
        return obs, there - 1.0, there, truncated, {"is_success": there}


class BitFlip(Goal):
    """`n` bits of which each action flips one, until they are as those asked for. Both are drawn uniformly.

    Observation: the bits, twice (as observation and as achieved_goal), and those asked for.
    Action: which bit to flip.
    Reward: 0 if the bits are as asked for after the flip, else -1.
    Ends: terminated then; cut off after `n` steps.

    From Andrychowicz et al. 2017, arXiv:1707.01495, section 3.1. A policy that flips a bit that is wrong succeeds always.
    """

    def __init__(self, n: int = 10) -> None:
        bits = spaces.MultiBinary(n)
        self.observation_space = spaces.Dict({"observation": bits, "achieved_goal": bits, "desired_goal": bits})
        self.action_space = spaces.Discrete(n)
        self.n, self.steps = n, 0

    def reached(self, achieved: NDArray[Any], desired: NDArray[Any]) -> NDArray[np.bool_]:
        return np.asarray((achieved == desired).all(-1))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Seen, dict[str, Any]]:
        super().reset(seed=seed)
        self.bits, self.desired = self.np_random.integers(2, size=(2, self.n), dtype=np.int8)
        self.steps = 0
        return self._seen(), {}

    def step(self, action: int) -> tuple[Seen, float, bool, bool, dict[str, Any]]:
        self.bits[action] ^= 1
        self.steps += 1
        return self._step(self.steps >= self.n)

    def _seen(self) -> Seen:
        return {"observation": self.bits.copy(), "achieved_goal": self.bits.copy(), "desired_goal": self.desired.copy()}


class Reach(Goal):
    """A point in a square that is to get to within 0.05 of a goal. Start and goal are drawn uniformly.

    Observation: the position (x, y), each in [-1, 1], twice (as observation and as achieved_goal), and the goal.
    Action: the displacement of one step in units of 0.1, each in [-1, 1]; the square's sides stop the point.
    Reward: 0 if it is there after the step, else -1.
    Ends: terminated there; cut off after 50 steps.
    """

    within = 0.05

    def __init__(self) -> None:
        place = spaces.Box(-1, 1, (2,), np.float32)
        self.observation_space = spaces.Dict({"observation": place, "achieved_goal": place, "desired_goal": place})
        self.action_space = spaces.Box(-1, 1, (2,), np.float32)
        self.at = np.zeros(2, np.float32)

    def reached(self, achieved: NDArray[Any], desired: NDArray[Any]) -> NDArray[np.bool_]:
        return np.asarray(np.square(achieved - desired).sum(-1) <= self.within**2)

    def draw(self) -> NDArray[Any]:
        """Start and goal, (2, 2)."""
        return self.np_random.uniform(-1, 1, (2, 2))

    def move(self, start: NDArray[np.float32], end: NDArray[np.float32]) -> NDArray[np.float32]:
        """Where a step from one place towards another ends."""
        return np.clip(end, -1, 1)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Seen, dict[str, Any]]:
        super().reset(seed=seed)
        self.at, self.desired = self.draw().astype(np.float32)
        return self._seen(), {}

    def step(self, action: NDArray[Any]) -> tuple[Seen, float, bool, bool, dict[str, Any]]:
        self.at = self.move(self.at, self.at + np.float32(0.1) * np.clip(action, -1, 1).astype(np.float32))
        return self._step()

    def _seen(self) -> Seen:
        return {"observation": self.at.copy(), "achieved_goal": self.at.copy(), "desired_goal": self.desired.copy()}


class WallReach(Reach):
    """Reach with a wall in the middle: x = 0 cannot be crossed where y < 0.6. It starts left of the wall, and the goal is right.

    Observation: as of Reach.
    Action: as of Reach; a step that meets the wall ends before it, where it began in x and with its whole move in y.
    Reward: as of Reach.
    Ends: as of Reach.
    """

    top = 0.6

    def draw(self) -> NDArray[Any]:
        return self.np_random.uniform(np.array([[-1, -1], [0.1, -1]]), np.array([[-0.1, 0.2], [1, 0.2]]))

    def move(self, start: NDArray[np.float32], end: NDArray[np.float32]) -> NDArray[np.float32]:
        end = np.clip(end, -1, 1)
        if start[0] * end[0] <= 0 and end[0] != start[0]:
            crossing = start[1] + (end[1] - start[1]) * start[0] / (start[0] - end[0])
            if crossing < self.top:
                end[0] = start[0]
        return end
