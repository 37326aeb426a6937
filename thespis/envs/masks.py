"""Action masks: which choices are allowed, as an environment says it in `info["action_mask"]` or in its observations.

To the learner a mask is the last numbers of an observation, 1 where a choice is allowed and else 0, choice by choice in the
order of the action space's parts. PettingZoo's place, the part "action_mask" of a Dict of observations, is that already; `Masked`
brings the other there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import Space, spaces
from numpy.typing import NDArray

from thespis.core import Fault
from thespis.envs.actions import choice_sizes, leaves
from thespis.envs.observations import masking, short

__all__ = ["Masked", "in_info", "of", "split"]


def in_info(env: gym.Env[Any, Any]) -> bool:
    """Whether an environment gives masks in its infos. Resets it, if it has choices and no mask in its observations."""
    if masking(env.observation_space) is not None or not any(choice_sizes(part) for _, part in leaves(env.action_space)):
        return False
    try:
        _, info = env.reset(seed=0)
        return info.get("action_mask") is not None
    except Exception:  # it will fail again, where the run can tell of it
        return False


def split(observation_space: Space[Any]) -> bool:
    """Whether it is an observation and an action mask, as of `Masked`."""
    return isinstance(observation_space, spaces.Dict) and set(observation_space.spaces) == {"observation", "action_mask"}


def of(space: Space[Any], given: Any, field: str = "action_mask") -> NDArray[np.int8]:
    """A mask of an action space as one row, 1 or 0 a choice. It may be given as that; as an array a choice, nested as the space
    is; or as `space.sample(mask=...)` takes it. None, and what a Dict leaves out, allows all.

    Fault: it is not of the space's shape, or holds other numbers than 0 and 1.
    """
    many = sum(sum(choice_sizes(part)) for _, part in leaves(space))
    if given is None:
        return np.ones(many, np.int8)
    if isinstance(space, spaces.Dict) and isinstance(given, Mapping):
        if unknown := [key for key in given if key not in space.spaces]:
            raise Fault(f"{field} has the part {unknown[0]!r}; the action space has {list(space.spaces)!r}")
        each = [of(part, given.get(key), f"{field}[{key!r}]") for key, part in space.spaces.items()]
        return np.concatenate([np.ones(0, np.int8), *each])
    if isinstance(space, spaces.Tuple) and isinstance(given, tuple):
        if len(given) != len(space.spaces):
            raise Fault(f"{field} has {len(given)} parts; the action space has {len(space.spaces)}")
        each = [of(part, one, f"{field}[{i}]") for i, (part, one) in enumerate(zip(space.spaces, given, strict=True))]
        return np.concatenate([np.ones(0, np.int8), *each])
    try:
        row = np.concatenate([np.ones(0), *_rows(given)])
    except Exception:
        raise Fault(f"{field} is {short(given)}; it must be numbers, one for each choice: {many}") from None
    if isinstance(space, spaces.MultiBinary) and len(row) == many // 2 and np.isin(row, (0, 1, 2)).all():
        row = np.stack([row != 1, row != 0], 1).ravel()  # gymnasium's: 0 and 1 are forced, 2 is free
    if len(row) != many or not np.isin(row, (0, 1)).all():
        raise Fault(f"{field} is {short(given)}; it must be 0 or 1 for each choice: {many} numbers")
    return row.astype(np.int8)


def _rows(given: Any) -> list[NDArray[Any]]:
    if isinstance(given, tuple | list):
        return [row for part in given for row in _rows(part)]
    return [np.asarray(given).astype(np.float64).ravel()]


class Masked(gym.Wrapper[Any, Any, Any, Any]):
    """Observes {"observation": what the environment observes, "action_mask": what its info says}.

    Fault: a reset or a step whose info has no mask. The last step of an episode may lack it: then all is allowed.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        many = len(of(env.action_space, None))
        self.observation_space = spaces.Dict([("observation", env.observation_space), ("action_mask", spaces.MultiBinary(many))])

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        result = self.env.reset(seed=seed, options=options)
        if not isinstance(result, tuple) or len(result) != 2 or not isinstance(result[1], dict):
            return result  # for Flat to tell of
        return self._observed(*result, False), result[1]

    def step(self, action: Any) -> Any:
        result = self.env.step(action)
        if not isinstance(result, tuple) or len(result) != 5 or not isinstance(result[4], dict):
            return result
        obs, reward, terminated, truncated, info = result
        return self._observed(obs, info, bool(terminated) or bool(truncated)), reward, terminated, truncated, info

    def _observed(self, obs: Any, info: dict[str, Any], over: bool) -> dict[str, Any]:
        mask = info.get("action_mask")
        if mask is None and not over:
            raise Fault("info has no action_mask, as it had at the first reset; it must have one at every reset and step")
        return {"observation": obs, "action_mask": of(self.action_space, mask, "info['action_mask']")}
