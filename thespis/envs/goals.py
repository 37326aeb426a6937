"""Environments with goals: where an observation holds them, and the environment's own word on any other goal.

Gymnasium's GoalEnv: the observation is a Dict with the parts "achieved_goal" and "desired_goal", and
`compute_reward(achieved, desired, info)` is the reward of a step that ended at `achieved` where `desired` was asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from thespis.core import Fault
from thespis.envs.flat import describe_error
from thespis.envs.observations import LARGEST, Floats, flat_dim, flatten, ordered, short, unflatten

__all__ = ["Goals", "found"]

PARTS = "achieved_goal", "desired_goal"
REWARD, TERMINATED = "compute_reward", "compute_terminated"
TRIED = 16
"""steps of an episode with random actions on which the functions of an environment are tried"""


@dataclass(frozen=True)
class Goals:
    """The goals of a kind of environment."""

    name: str
    achieved: tuple[int, int]
    """(start, stop) of the columns of an observation, as `spaces.flatten` gives it, that are the goal achieved"""
    desired: tuple[int, int]
    """those that are the goal asked for"""
    space: spaces.Dict
    make: Callable[[], gym.Env[Any, Any]]

    def judge(self) -> Judge:
        """The functions of an environment that is made for this. Fault: they do not say what its steps say."""
        return Judge(self)


def found(name: str, env: gym.Env[Any, Any], make: Callable[[], gym.Env[Any, Any]]) -> Goals | None:
    """The goals of an environment of which `make` makes another; None where it has none."""
    space = env.observation_space
    if not isinstance(space, spaces.Dict) or not all(part in space.spaces for part in PARTS):
        return None
    if not env.has_wrapper_attr(REWARD) or not callable(env.get_wrapper_attr(REWARD)):
        return None
    columns, start = {}, 0
    for key, part in ordered(space).spaces.items():  # type: ignore[attr-defined]
        columns[key] = (start, start := start + flat_dim(part))
    achieved, desired = (columns[part] for part in PARTS)
    if achieved[1] - achieved[0] != desired[1] - desired[0]:
        return None
    return Goals(name, achieved, desired, space, make)


class Judge:
    """compute_reward, and compute_terminated where the environment has it, for rows of flat goals.

    Each is given whole arrays where it takes them, else one row after the other; `info` is empty.
    """

    def __init__(self, goals: Goals) -> None:
        self.name, self.spaces, self.env = goals.name, [goals.space[part] for part in PARTS], goals.make()
        self.functions = {k: self.env.get_wrapper_attr(k) for k in (REWARD, TERMINATED) if self.env.has_wrapper_attr(k)}
        self.whole: set[str] = set()
        """which take whole arrays"""
        self._try()

    def reward(self, achieved: Floats, desired: Floats) -> Floats:
        """Of steps that ended at `achieved` (n, goal) where `desired` (n, goal) was asked for: (n,)."""
        return self._called(REWARD, achieved, desired).astype(np.float32)

    def terminated(self, achieved: Floats, desired: Floats) -> NDArray[np.bool_] | None:
        """Whether these steps end their episode, (n,); None where the environment has no such function."""
        return self._called(TERMINATED, achieved, desired) != 0 if TERMINATED in self.functions else None

    def close(self) -> None:
        self.env.close()

    def _called(self, which: str, achieved: Floats, desired: Floats) -> NDArray[Any]:
        call = self.functions[which]
        given = [unflatten(space, rows) for space, rows in zip(self.spaces, (achieved, desired), strict=True)]
        try:
            if which in self.whole:
                values = np.asarray(call(*given, {}))
            else:
                values = np.array([np.asarray(call(*pair, {})).item() for pair in zip(*map(_rows, given), strict=True)])
        except Exception as error:
            raise Fault(f"{self.name}: {which}(achieved_goal, desired_goal, {{}}) raised {describe_error(error)}") from error
        if values.shape != (len(achieved),) or values.dtype.kind not in "fiub" or not (np.abs(values) <= LARGEST).all():
            raise Fault(f"{self.name}: {which} returned {short(values)}; it must be {len(achieved)} finite numbers")
        return values

    def _try(self) -> None:
        """Holds the functions against an episode's first steps, and finds out which take whole arrays."""
        env, steps = self.env, []
        env.action_space.seed(0)
        try:
            env.reset(seed=0)
            for _ in range(TRIED):
                obs, reward, terminated, truncated, _ = env.step(env.action_space.sample())
                steps.append(
                    (float(reward), *(flatten(space, obs[part]) for space, part in zip(self.spaces, PARTS, strict=True)))
                )
                if terminated or truncated:
                    env.reset()
        except Exception as error:
            raise Fault(f"{self.name}: its steps cannot be tried for hindsight ({describe_error(error)})") from error
        rewards, achieved, desired = map(np.array, zip(*steps, strict=True))
        said = self._called(REWARD, achieved, desired)
        if not np.allclose(said, rewards, rtol=1e-4, atol=1e-5):
            i = int(np.abs(said - rewards).argmax())
            raise Fault(
                f"{self.name}: {REWARD} says {said[i]:g} of a step whose reward was {rewards[i]:g}; they must be the same, so a"
                f" wrapper that changes rewards must change {REWARD} too"
            )
        pairs = np.concatenate([achieved] * 3), np.concatenate([desired, np.roll(desired, 1, 0), achieved])
        for which in self.functions:
            one_by_one = self._called(which, *pairs)
            self.whole.add(which)
            try:
                same = bool((self._called(which, *pairs) == one_by_one).all())
            except Fault:
                same = False
            if not same:
                self.whole.remove(which)


def _rows(given: Any) -> list[Any]:
    """An array's rows, or those of a Dict's or Tuple's arrays."""
    if isinstance(given, dict):
        return [dict(zip(given, row, strict=True)) for row in zip(*map(_rows, given.values()), strict=True)]
    return list(zip(*map(_rows, given), strict=True)) if isinstance(given, tuple) else list(given)
