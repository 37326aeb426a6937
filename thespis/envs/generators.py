"""What an environment may draw from besides a generator of its own: Python's and NumPy's global generators, and its spaces."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

__all__ = ["Generators", "global_generators_kept", "wrappers"]

WATCHED = 100
"""steps of an environment after which one that has not drawn from the global generators is only looked at when it is reset"""
NOTHING = nullcontext()


def _state() -> tuple[Any, Any]:
    return random.getstate(), np.random.get_state()


def _restore(state: tuple[Any, Any]) -> None:
    random.setstate(state[0])
    np.random.set_state(state[1])


def _same(a: tuple[Any, Any], b: tuple[Any, Any]) -> bool:
    return bool(a[0] == b[0] and a[1][2:] == b[1][2:] and (a[1][1] == b[1][1]).all())


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)


@contextmanager
def global_generators_kept(seed: int) -> Iterator[None]:
    """What is done inside draws from the global generators of Python and NumPy, seeded anew; they are left as they were."""
    before = _state()
    _seed(seed)
    try:
        yield
    finally:
        _restore(before)


class Generators:
    """One environment's own states of the global generators, so that an episode follows from the seed of its reset whatever draws
    beside it. They are put in place for each call of an environment that draws from them; the others pay nothing for it."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        self.spaces = _leaves(env)
        self.used, self.steps = False, 0
        self.own: tuple[Any, Any] | None = None
        self.left: tuple[Any, Any] | None = None  # the global states as the last call left them

    def reset(self, seed: int | None) -> AbstractContextManager[None]:
        """To be around a reset: everything that can be is seeded, and the global states are put back."""
        if self.left is not None and self.steps > WATCHED and not self.used:
            self.used = not _same(_state(), self.left)  # somebody draws: from here on no one disturbs another
        for i, space in enumerate(self.spaces if seed is not None else ()):
            space.seed(seed + i)  # type: ignore[operator]
        return self._in_place(seed)

    def step(self) -> AbstractContextManager[None]:
        """To be around a step."""
        self.steps += 1
        return self._in_place() if self.used or self.steps <= WATCHED else NOTHING

    @contextmanager
    def _in_place(self, seed: int | None = None) -> Iterator[None]:
        outer = _state()
        if seed is not None:
            _seed(seed)
        elif self.own is not None:
            _restore(self.own)
        before = None if self.used else _state()
        try:
            yield
        finally:
            self.own = _state()
            self.used = before is None or not _same(before, self.own)
            _restore(outer)
            self.left = outer


def _leaves(env: gym.Env[Any, Any]) -> list[spaces.Space[Any]]:
    """Every space of the environment and of its wrappers from which something can be sampled, once."""
    found: dict[int, spaces.Space[Any]] = {}

    def add(space: Any) -> None:
        if isinstance(space, spaces.Dict):
            for part in space.spaces.values():
                add(part)
        elif isinstance(space, spaces.Tuple):
            for part in space.spaces:
                add(part)
        elif isinstance(space, spaces.Space):
            found[id(space)] = space

    for layer in (*wrappers(env), env.unwrapped):
        add(getattr(layer, "action_space", None))
        add(getattr(layer, "observation_space", None))
    return list(found.values())


def wrappers(env: gym.Env[Any, Any]) -> Iterator[gym.Wrapper[Any, Any, Any, Any]]:
    """Those around an environment, from outside."""
    while isinstance(env, gym.Wrapper):
        yield env
        env = env.env
