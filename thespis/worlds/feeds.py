"""What worlds of recommendation share: many sessions at once, a log with the propensities of who acted, and the true value.

A world of a feed is two classes: `Sessions`, n users at once in numpy, and a `Feed`, one of them as a Gymnasium environment.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from thespis.fault import Fault

__all__ = ["Feed", "Floats", "Sessions", "chosen", "log", "sigmoid", "worth"]

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
Act = Callable[[NDArray[np.float32]], NDArray[np.integer[Any]]]
"""observations (n, obs) -> choices (n,)"""


class Sessions:
    """n sessions; what a world fills in."""

    rewards: tuple[str, ...]
    choices: int
    size: int
    """numbers of an observation"""
    limit: int
    """steps after which a session is cut off"""
    state: tuple[str, ...]
    """the names of its arrays (n, ...)"""

    def keep(self, rows: Mask) -> None:
        """Goes on with these rows alone."""
        for name in self.state:
            setattr(self, name, getattr(self, name)[rows])

    def begin(self, rows: Mask) -> None:
        """A new session in each of these rows, (n,)."""
        raise NotImplementedError

    def seen(self) -> Floats:
        """Observations (n, size)."""
        raise NotImplementedError

    def behaviour(self) -> Floats:
        """The probability (n, choices) of each choice under the policy that makes logs."""
        raise NotImplementedError

    def step(self, action: NDArray[np.integer[Any]]) -> tuple[Floats, Mask]:
        """Choices (n,) -> rewards (n, R), and whether the user left, (n,)."""
        raise NotImplementedError


class Feed(gym.Env[Any, Any]):
    """One session, as an environment."""

    def __init__(self) -> None:
        self.one = self.sessions(1, np.random.default_rng())
        self.observation_space = spaces.Box(-np.inf, np.inf, (self.one.size,), np.float32)
        self.action_space = spaces.Discrete(self.one.choices)
        self.reward_space = spaces.Box(-np.inf, np.inf, (len(self.one.rewards),), np.float32)

    def sessions(self, n: int, rng: np.random.Generator) -> Any:
        """n sessions that draw from `rng`; a row must `begin` before it is seen."""
        raise NotImplementedError

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.one = self.sessions(1, self.np_random)
        self.one.begin(np.ones(1, bool))
        return self.one.seen()[0].astype(np.float32), {}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        reward, left = self.one.step(np.array([action]))
        return self.one.seen()[0].astype(np.float32), reward[0].astype(np.float32), bool(left[0]), False, {}


def sigmoid(x: Floats) -> Floats:
    return 1 / (1 + np.exp(-x))


def chosen(chance: Floats, rng: np.random.Generator) -> NDArray[np.int64]:
    """One of the choices (n,) of each row of chances (n, choices)."""
    return (chance.cumsum(1) > rng.random((len(chance), 1)) * chance.sum(1, keepdims=True)).argmax(1)


def log(world: Feed, steps: int, seed: int = 0, n: int = 1_000) -> dict[str, NDArray[Any]]:
    """Whole sessions under the world's own behaviour, at least `steps` rows, one session after the other, by the names of
    data/columns.py, and "propensities" (T,): the probability that each recorded choice had. Fault: steps below 1."""
    if steps < 1:
        raise Fault(f"steps is {steps}; allowed: 1 or more")
    rng = np.random.default_rng(seed)
    parts: list[dict[str, NDArray[Any]]] = []
    while sum(len(p["rewards"]) for p in parts) < steps:
        parts.append(_logged(world.sessions(n, rng), n, rng))
    return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}


def _logged(s: Any, n: int, rng: np.random.Generator) -> dict[str, NDArray[Any]]:
    """n sessions."""
    found: list[dict[str, NDArray[Any]]] = []
    which = np.arange(n)
    s.begin(np.ones(n, bool))
    for t in range(s.limit):
        chance, obs = s.behaviour(), s.seen().astype(np.float32)
        action = chosen(chance, rng)
        reward, left = s.step(action)
        found.append({
            "observations": obs, "actions": action, "rewards": reward.astype(np.float32), "terminals": left,
            "timeouts": ~left & (t == s.limit - 1), "next_observations": s.seen().astype(np.float32),
            "propensities": np.take_along_axis(chance, action[:, None], 1)[:, 0], "session": which,
        })  # fmt: skip
        which = which[~left]
        s.keep(~left)
        if not len(which):
            break
    rows = {name: np.concatenate([f[name] for f in found]) for name in found[0]}
    order = rows.pop("session").argsort(kind="stable")
    return {name: x[order] for name, x in rows.items()}


def worth(world: Feed, act: Act, sessions: int, seed: int = 0) -> tuple[Floats, Floats, float]:
    """By playing it: the mean return (R,) of a session, the standard error of each, and the mean number of steps."""
    s = world.sessions(sessions, np.random.default_rng(seed))
    which, total, steps = np.arange(sessions), np.zeros((sessions, len(s.rewards))), 0
    s.begin(np.ones(sessions, bool))
    for _ in range(s.limit):
        reward, left = s.step(act(s.seen().astype(np.float32)))
        total[which] += reward
        steps += len(which)
        which = which[~left]
        s.keep(~left)
        if not len(which):
            break
    return total.mean(0), total.std(0, ddof=1) / sessions**0.5, steps / sessions
