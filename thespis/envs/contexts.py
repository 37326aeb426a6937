"""Contexts: numbers that a learner draws for each episode, and that are given to `reset(options={"context": row})`.

An environment with a `context_space` takes them itself, as a level or a task: a Box with one row of numbers, or a MultiDiscrete,
whose numbers are choices. Any other is wrapped: then they are the last part
of what is observed, the same at every step of the episode.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from thespis.core import Fault
from thespis.envs.actions import spec
from thespis.envs.flat import Flat
from thespis.envs.observations import short
from thespis.envs.world import World

__all__ = ["size", "split", "widened", "with_context"]


def size(env: gym.Env[Any, Any]) -> tuple[int, tuple[int, ...]]:
    """How many numbers of a context an environment takes at its reset, 0: none; and where they are choices, of how many each is.
    Fault: a space that is no row."""
    if not env.has_wrapper_attr("context_space"):
        return 0, ()
    space = env.get_wrapper_attr("context_space")
    if isinstance(space, spaces.MultiDiscrete) and space.nvec.ndim == 1 and not space.start.any():
        return len(space.nvec), tuple(space.nvec.tolist())
    if not isinstance(space, spaces.Box) or len(space.shape) != 1 or not space.shape[0]:
        raise Fault(f"context_space is {short(space)}; it must be a Box or a MultiDiscrete with one row of numbers")
    return int(space.shape[0]), ()


def with_context(space: gym.Space[Any], dim: int) -> spaces.Dict:
    """A space of observations with a context of `dim` numbers behind."""
    return spaces.Dict([("observation", space), ("context", spaces.Box(-np.inf, np.inf, (dim,), np.float32))])


def split(space: gym.Space[Any]) -> bool:
    """Whether it is an observation and a context, as of `with_context`."""
    return isinstance(space, spaces.Dict) and list(space.spaces) == ["observation", "context"]


def widened(world: World, dim: int) -> World:
    """The world as a learner is shown it that draws contexts of `dim` numbers. Fault: it cannot have them."""
    if world.spec.context:
        if world.spec.context != dim:
            raise Fault(f"context has {dim} numbers; {world.name} takes {world.spec.context}")
        return world
    if world.spec.mask:
        raise Fault(f"context: {world.name} has action masks, which stand where a context would; the two do not go together")
    observed = with_context(world.observation_space, dim)
    wide = world.spec._replace(obs=spec(observed, world.action_space).obs)

    def make(render_mode: str | None = None) -> Flat:
        flat = world.make() if render_mode is None else world.make(render_mode)
        flat.show(_Shown(flat.env, dim))
        return flat

    return replace(world, observation_space=observed, spec=wide, make=make)


class _Shown(gym.Wrapper[Any, Any, Any, Any]):
    """Observes {"observation": what the environment observes, "context": that of the episode}."""

    def __init__(self, env: gym.Env[Any, Any], dim: int) -> None:
        super().__init__(env)
        self.observation_space = with_context(env.observation_space, dim)
        self.context = np.zeros(dim, np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        options = dict(options or {})
        self.context = np.array(options.pop("context"), np.float32)
        result = self.env.reset(seed=seed, options=options or None)
        if not isinstance(result, tuple) or len(result) != 2:
            return result  # for Flat to tell of
        return {"observation": result[0], "context": self.context}, result[1]

    def step(self, action: Any) -> Any:
        result = self.env.step(action)
        if not isinstance(result, tuple) or len(result) != 5:
            return result
        return {"observation": result[0], "context": self.context}, *result[1:]
