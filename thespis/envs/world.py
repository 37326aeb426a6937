"""What a kind of environment is to the rest: its spaces, and how to make one, or several in one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from thespis import core
from thespis.envs.flat import Flat
from thespis.envs.goals import Goals

__all__ = ["World"]


@dataclass(frozen=True)
class World:
    """A kind of environment: what it looks like, and how to make one."""

    name: str
    """the id as it was given ("HalfCheetah-v5", "module:Env-v0"), or the name of the callable or class"""
    observation_space: gym.Space[Any]
    """the environment's own; where its infos have action masks, that of `masks.Masked`"""
    action_space: gym.Space[Any]
    """the environment's own"""
    spec: core.Spec
    make: Callable[..., Flat]
    """make(render_mode=None) -> a fresh one, as the learner sees it. Fault: it cannot be made; or it cannot be rendered here,
    which a first frame shows at once"""
    batch: Callable[..., Any] | None = None
    """batch(world, n, restart) -> a Vector of n of them in one, where they need not be made one by one; see `vector`"""
    rewards: tuple[str, ...] = ("reward",)
    """the name of each number of a step's reward, in the task's own unit"""
    weights: tuple[float, ...] = ()
    """one for each of `rewards`, where the learner is given their weighted sum; none: it is given all of them"""
    counts: tuple[float, ...] = ()
    """what each of `rewards` counts in an episode's return where there are no weights: metadata["reward_weights"]; none: 1"""
    simulated: bool = True
    """False: its spaces are those of recorded data, and there is no environment to make"""
    recorded: Callable[[], Mapping[str, Any]] | None = None
    """the columns (data/columns.py) that come with it, where a learner from data is given none; None: none come"""
    goals: Goals | None = None
    """where an observation holds goals, and who judges others; None: it holds none"""

    def total(self, returns: NDArray[Any]) -> NDArray[Any]:
        """(..., R) -> (...): by the weights where there are some, or what each counts; of one reward (...), itself."""
        if len(self.rewards) == 1:
            return returns
        return returns @ np.array(self.weights or self.counts or [1.0] * len(self.rewards))

    def named(self, returns: NDArray[Any]) -> dict[str, float]:
        """ "return/NAME" of each reward, (R,); of one, nothing."""
        return {f"return/{k}": float(v) for k, v in zip(self.rewards, returns, strict=True)} if len(self.rewards) > 1 else {}
