"""Environments with known answers, which any sound algorithm finds in seconds. Importing `thespis.envs` registers them as
`thespis/<Name>-v0`, and with two choices instead of a Box of actions as `thespis/<Name>Discrete-v0`.

An action is a in [-1, 1]; the two choices are a = -0.5 and a = 0.5.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import registry
from numpy.typing import ArrayLike, NDArray

__all__ = ["ActionObservation", "Counter", "Discount", "Gears", "Observation", "OneStep", "TimeLimit", "Value"]

Obs = NDArray[np.float32]
Step = tuple[Obs, float, bool, bool, dict[str, Any]]


class Probe(gym.Env[Obs, Any]):
    length = 1

    def __init__(self, discrete: bool = False) -> None:
        self.observation_space = spaces.Box(-1, 1, (1,), np.float32)
        self.action_space = spaces.Discrete(2) if discrete else spaces.Box(-1, 1, (1,), np.float32)
        self.discrete = discrete
        self.t = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Obs, dict[str, Any]]:
        super().reset(seed=seed)
        self.t = 0
        self.begin()
        return self.obs(), {}

    def step(self, action: Any) -> Step:
        a = int(action) - 0.5 if self.discrete else float(action[0])
        self.t += 1
        reward = self.reward(a)
        return self.obs(), reward, self.t >= self.length, False, {}

    def begin(self) -> None:
        """What an episode draws from `self.np_random`."""

    def obs(self) -> Obs:
        return np.zeros(1, np.float32)

    def reward(self, a: float) -> float:
        """Of the step to time `self.t`."""
        return 1.0


class OneStep(Probe):
    """One step from a constant observation, with reward -k (a - 0.5)^2.

    Known: the best action is 0.5 (or the second choice), with value 0. With an entropy bonus of temperature alpha the best
    policy is proportional to exp(reward / alpha): a normal around 0.5 of variance alpha / 2k, cut to [-1, 1]; see `soft`.
    """

    k = 4.0

    def reward(self, a: float) -> float:
        return -self.k * (a - 0.5) ** 2

    @classmethod
    def soft(cls, alpha: float) -> dict[str, float]:
        """The best policy with an entropy bonus: its value alpha log(integral of exp(reward / alpha)), and the mean, standard
        deviation and entropy of its action, by the midpoint rule on 100,000 points (errors below 1e-6 for alpha >= 1e-4)."""
        a = (np.arange(100_000) + 0.5) / 50_000 - 1
        density = np.exp(-cls.k * (a - 0.5) ** 2 / alpha)
        total = density.sum() / 50_000
        p = density / density.sum()
        mean = float(p @ a)
        value = float(alpha * np.log(total))
        entropy = (value + cls.k * float(p @ (a - 0.5) ** 2)) / alpha
        return {"value": value, "mean": mean, "std": float(np.sqrt(p @ (a - mean) ** 2)), "entropy": entropy}


class Value(Probe):
    """One step from a constant observation, with reward 1 whatever is done. Known: the value is 1."""


class Discount(Probe):
    """Two steps, observed as 0 and 1, with reward 1 at the end only. Known: the values are gamma and 1."""

    length = 2

    def obs(self) -> Obs:
        return np.full(1, min(self.t, 1), np.float32)

    def reward(self, a: float) -> float:
        return float(self.t == 2)


class Observation(Probe):
    """One step from an observation that is -1 or 1 by chance, which is also the reward. Known: the value is the observation."""

    sign = 1.0

    def begin(self) -> None:
        self.sign = float(self.np_random.choice([-1.0, 1.0]))

    def obs(self) -> Obs:
        return np.full(1, self.sign, np.float32)

    def reward(self, a: float) -> float:
        return self.sign


class ActionObservation(Observation):
    """One step from an observation s that is -1 or 1 by chance, with reward -4 (a - s/2)^2. Known: the best action is s/2 (the
    first choice for -1, the second for 1), with value 0."""

    def reward(self, a: float) -> float:
        return -4 * (a - self.sign / 2) ** 2


class TimeLimit(Probe):
    """Reward 1 a step from a constant observation, for ever, though gymnasium cuts an episode off after 10 steps. Known: the
    value is 1 / (1 - gamma), since a time limit is no end; what takes it for one finds something between 1 and 10."""

    def step(self, action: Any) -> Step:
        return self.obs(), 1.0, False, False, {}


class Counter(Probe):
    """Tells where a row comes from: it observes (the low, middle and high 20 bits of its seed, the step). The reward is step + a,
    with the step that it leads to and the action that led there. The episode of a seed has 3 + seed % 5 steps; an even seed's
    ends terminated, an odd seed's truncated.

    Known: two observations belong to one episode if and only if `read` gives them one seed. Reset without a seed draws one.
    """

    def __init__(self, discrete: bool = False) -> None:
        super().__init__(discrete)
        self.observation_space = spaces.Box(0, 2**20, (4,), np.float32)
        self.episode = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Obs, dict[str, Any]]:
        gym.Env.reset(self, seed=seed)
        self.episode = int(self.np_random.integers(2**60)) if seed is None else seed % 2**60
        self.t = 0
        return self.obs(), {}

    def step(self, action: Any) -> Step:
        obs, reward, _, _, info = super().step(action)
        over, even = self.t >= 3 + self.episode % 5, self.episode % 2 == 0
        return obs, reward, over and even, over and not even, info

    def obs(self) -> Obs:
        return np.array([self.episode >> 20 * i & 2**20 - 1 for i in range(3)] + [self.t], np.float32)

    def reward(self, a: float) -> float:
        return self.t + a

    @staticmethod
    def read(obs: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Observations (..., 4) -> (seeds (...), steps (...))."""
        digits = np.asarray(obs).astype(np.int64)
        return digits[..., 0] + (digits[..., 1] << 20) + (digits[..., 2] << 40), digits[..., 3]


class Gears(gym.Env[Obs, Any]):
    """One step from an observation x in [-1, 1], with an action of parts: a gear k of three and a throttle u in [0, 2].

    The reward is 1 - |x - c_k| - (u - v_k)^2, with c = -2/3, 0, 2/3 and v = 1.6, 0.4, 1. Known: the best gear is the one whose
    c_k is nearest, the best throttle its v_k; the value is 1 - min_k |x - c_k|, 5/6 on average.
    """

    at, throttle = (-2 / 3, 0.0, 2 / 3), (1.6, 0.4, 1.0)

    def __init__(self) -> None:
        self.observation_space = spaces.Box(-1, 1, (1,), np.float32)
        self.action_space = spaces.Dict({"gear": spaces.Discrete(3), "throttle": spaces.Box(0, 2, (1,), np.float32)})
        self.x = np.zeros(1, np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Obs, dict[str, Any]]:
        super().reset(seed=seed)
        self.x = self.np_random.uniform(-1, 1, 1).astype(np.float32)
        return self.x, {}

    def step(self, action: Any) -> Step:
        return self.x, self.reward(float(self.x[0]), action), True, False, {}

    @classmethod
    def reward(cls, x: float, action: Any) -> float:
        k, u = int(action["gear"]), float(action["throttle"][0])
        return 1 - abs(x - cls.at[k]) - (u - cls.throttle[k]) ** 2


for _kind in (OneStep, Value, Discount, Observation, ActionObservation, TimeLimit, Counter):
    for _suffix, _discrete in ("", False), ("Discrete", True):
        _id = f"thespis/{_kind.__name__}{_suffix}-v0"
        if _id not in registry:
            gym.register(
                _id,
                entry_point=f"thespis.envs.probes:{_kind.__name__}",
                max_episode_steps=10 if _kind is TimeLimit else None,
                kwargs={"discrete": _discrete},
            )
if "thespis/Gears-v0" not in registry:
    gym.register("thespis/Gears-v0", entry_point="thespis.envs.probes:Gears")
