"""Worlds with few states, few actions and an end: everything about them can be computed."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

__all__ = ["DeepSea", "Finite", "Lock", "RiverSwim"]

Floats = NDArray[np.float64]


class Finite(gym.Env[NDArray[np.int64], np.int64]):
    """A world by its tables. Observation: the step and the state, as choices; the learner sees each one-hot.

    `chance` (H, S, A, S) are the chances of the next state, `gain` (H, S, A) the rewards, each in [0, 1]; `first` (S,) the
    chances of the first state. An episode terminates after H steps.
    """

    def __init__(self, chance: Floats, gain: Floats, first: Floats) -> None:
        self.chance, self.gain, self.first = chance, gain, first
        self._max_episode_steps, states, actions = gain.shape
        self.observation_space = spaces.MultiDiscrete([self._max_episode_steps, states])
        self.action_space = spaces.Discrete(actions)
        self._below = chance.cumsum(-1)

    def best(self) -> Floats:
        """The optimal values (H, S, A), by backward induction."""
        q, ahead = np.zeros_like(self.gain), np.zeros(self.gain.shape[1])
        for h in reversed(range(len(q))):
            q[h] = self.gain[h] + self.chance[h] @ ahead
            ahead = q[h].max(-1)
        return q

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.int64], dict[str, Any]]:
        super().reset(seed=seed)
        self.h, self.state = 0, int(self.np_random.choice(len(self.first), p=self.first))
        return np.array([0, self.state]), {}

    def step(self, action: np.int64) -> tuple[NDArray[np.int64], float, bool, bool, dict[str, Any]]:
        at = self.h, self.state, int(action)
        below = self._below[at]
        self.state = min(int(np.searchsorted(below, self.np_random.random() * below[-1], "right")), len(below) - 1)
        self.h += 1
        over = self.h == len(self.gain)
        return np.array([self.h - over, self.state]), float(self.gain[at]), over, False, {}


class RiverSwim(Finite):
    """Against the stream lies the large reward, and with it a small one.

    Observation: the step in 0 .. horizon - 1 and the place in 0 .. states - 1; it starts at place 0.
    Action: 0 swims left, which succeeds; 1 swims right: by chance 0.35 one place on, by 0.05 one back, else none (at place 0: 0.6
    on; at the last: 0.4 back).
    Reward: 0.005 for left at place 0, 1 for right at the last place.
    Ends: terminated after `horizon` steps.

    Strehl and Littman 2008, with the chances of Osband, Russo and Van Roy 2013 (arXiv:1306.0940, figure 1).
    """

    def __init__(self, states: int = 6, horizon: int = 20) -> None:
        p, r, last = np.zeros((states, 2, states)), np.zeros((states, 2)), states - 1
        for s in range(states):
            p[s, 0, max(s - 1, 0)] = 1
            on, back = (0.6, 0.0) if s == 0 else (0.0, 0.4) if s == last else (0.35, 0.05)
            p[s, 1, min(s + 1, last)] += on
            p[s, 1, max(s - 1, 0)] += back
            p[s, 1, s] += 1 - on - back
        r[0, 0], r[last, 1] = 0.005, 1
        super().__init__(np.tile(p, (horizon, 1, 1, 1)), np.tile(r, (horizon, 1, 1)), np.eye(states)[0])


class Lock(Finite):
    """A combination lock: one wrong action, and the episode is lost.

    Observation: the step in 0 .. horizon - 1 and the state: 0 and 1 are good, 2 is lost; it starts in 0 or 1, by chance 0.5 each.
    Action: one of `actions`. At each step one of them, other ones in state 0 and in state 1, leads to state 0 or 1, by chance
    0.5 each; every other leads to 2, which nothing leaves.
    Reward: 1 after the last step for who is in 0 or 1.
    Ends: terminated after `horizon` steps.

    After the combination locks of Misra et al. 2020 (arXiv:1911.05815). `code` draws which actions are right.
    """

    def __init__(self, horizon: int = 6, actions: int = 4, code: int = 0) -> None:
        self.right = np.random.default_rng(code).integers(actions, size=(horizon, 2))
        p, r = np.zeros((horizon, 3, actions, 3)), np.zeros((horizon, 3, actions))
        p[..., 2] = 1
        for h in range(horizon):
            for s in range(2):
                p[h, s, self.right[h, s]] = [0.5, 0.5, 0]
        r[-1] = p[-1, :, :, :2].sum(-1)
        super().__init__(p, r, np.array([0.5, 0.5, 0]))


class DeepSea(Finite):
    """A diver sinks row by row, and only who goes right in every row finds the treasure.

    Observation: the row in 0 .. size - 1 and the column in 0 .. size - 1; it starts in row 0, column 0.
    Action: 0 goes a column left, 1 a column right.
    Reward: 0.01 / size for left; 1 for right in the last row of the last column.
    Ends: terminated after `size` steps.

    bsuite's deep_sea (Osband et al. 2019, arXiv:1908.03568) without its random actions; there right costs 0.01 / size, here left
    earns it: every return is 0.01 higher.
    """

    def __init__(self, size: int = 8) -> None:
        p, r = np.zeros((size, 2, size)), np.zeros((size, size, 2))
        for s in range(size):
            p[s, 0, max(s - 1, 0)] = p[s, 1, min(s + 1, size - 1)] = 1
        r[..., 0] = 0.01 / size
        r[-1, -1, 1] = 1
        super().__init__(np.tile(p, (size, 1, 1, 1)), r, np.eye(size)[0])
