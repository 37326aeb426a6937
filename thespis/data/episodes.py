"""Recorded episodes, and how what is recorded becomes what a learner sees."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import numpy as np
from gymnasium import Space, spaces

from thespis.core import Fault

Convert = Callable[[Any, Any], np.ndarray]
"""(space, a value of it) -> (dim,) float32, or a Fault"""


@dataclass(frozen=True)
class Dataset:
    """Whole episodes, one after another. A row is a step, but in `lengths` and `last` an episode."""

    obs: np.ndarray
    """(T, obs)"""
    action: np.ndarray
    """(T, ...)"""
    reward: np.ndarray
    """(T,), or (T, R) of several rewards"""
    terminated: np.ndarray
    """(T,)"""
    lengths: np.ndarray
    """(episodes,), the steps of each"""
    last: np.ndarray
    """(episodes, obs), the observation that each ends with"""
    notes: tuple[str, ...] = ()
    """what a person should know of it, a line each"""
    context: np.ndarray | None = None
    """(T, C), what the episode of each step was about, where that is recorded"""

    def returns(self) -> np.ndarray:
        """(episodes,), undiscounted; of several rewards their sum."""
        reward = self.reward.astype(np.float64)
        return np.add.reduceat(reward if reward.ndim == 1 else reward.sum(1), np.cumsum(self.lengths) - self.lengths)

    def weighted(self, rewards: Sequence[str], weights: Sequence[float]) -> Dataset:
        """As a world with these rewards has it, whose learner is given their sum by `weights`, if there are some. Fault: a step
        has not as many."""
        wanted = self.reward.shape[:1] if len(rewards) == 1 else (len(self.reward), len(rewards))
        if self.reward.shape != wanted:
            many, names = self.reward[0].size, f"{len(rewards)}: {', '.join(rewards)}"
            hint = "; give a weight for each with weights" if len(rewards) == 1 else ""
            raise Fault(f"data: a step has {many} rewards, and the environment's are {names}{hint}")
        return replace(self, reward=(self.reward @ np.array(weights)).astype(np.float32)) if weights else self

    def digest(self) -> str:
        """A checksum of all its numbers: with the same one, the same is learnt."""
        total = hashlib.sha256()
        for field in fields(self):
            if field.name != "notes" and getattr(self, field.name) is not None:
                total.update(np.ascontiguousarray(getattr(self, field.name)).tobytes())
        return total.hexdigest()


class Origin(NamedTuple):
    """Where a dataset is from."""

    name: str
    env: str | None
    """the id of its environment, where it says one"""
    observation_space: Space[Any]
    action_space: Space[Any]


class Beyond:
    """Counts the actions that lie beyond the bounds of a Box, alone or in a Dict or Tuple, which are taken at the bound."""

    def __init__(self, space: Space[Any]):
        self.space, self.steps, self.over, self.worst = space, 0, 0, (0.0, 0.0, 0.0)

    def look(self, action: Any, part: Space[Any] | None = None) -> None:
        """Of T steps, (T, ...)."""
        space = self.space if part is None else part
        if isinstance(space, spaces.Dict | spaces.Tuple):
            for key, inner in _named(space):
                self.look(action[key], inner)
            return
        if not isinstance(space, spaces.Box) or np.shape(action)[1:] != space.shape or not len(action):
            return  # what is wrong with it is told elsewhere
        low, high = (bound.astype(np.float64).ravel() for bound in (space.low, space.high))
        flat = np.asarray(action, np.float64).reshape(len(action), -1)
        past = np.maximum(low - flat, flat - high) / np.where(np.isfinite(high - low), high - low, 1)
        self.steps, self.over = self.steps + len(flat), self.over + int((past > 1e-4).any(1).sum())  # less is rounding
        if past.max() > max(self.worst[0], 1e-4):
            row, i = np.unravel_index(past.argmax(), past.shape)
            self.worst = float(past.max()), float(flat[row, i]), float(high[i] if flat[row, i] > high[i] else low[i])

    def notes(self) -> tuple[str, ...]:
        if not self.over:
            return ()
        share = f"{self.over:,} of {self.steps:,} actions ({self.over / self.steps:.1%})"
        return (
            f"data: {share} lie beyond the environment's bounds, as far as {self.worst[1]:.3g} where {self.worst[2]:.3g} is "
            "allowed; they are taken at the bound, as the environment itself would take them",
        )


def acted(column: Any, space: Space[Any], unscale: Convert, beyond: Beyond) -> np.ndarray:
    """The actions of T steps, (T, ...), as a learner takes them."""
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
        return _choices(column, space)
    beyond.look(column)
    return rows(column, space, unscale)


def rows(column: Any, space: Space[Any], convert: Convert) -> np.ndarray:
    """Each row of a column, converted: (T, dim). To `convert`, T values of a Box are one of a higher Box."""
    if isinstance(space, spaces.Box):
        low, high = (np.broadcast_to(bound, (len(column), *space.shape)) for bound in (space.low, space.high))
        higher = spaces.Box(low, high, dtype=space.dtype)
        return convert(higher, column).reshape(len(column), -1)
    return np.stack([convert(space, _at(column, space, t)) for t in range(_length(column))])


def _length(column: Any) -> int:
    return _length(next(iter(column.values()))) if isinstance(column, dict) else len(column)


def _at(column: Any, space: Space[Any], t: int) -> Any:
    """Row t of a column, as a value of the space."""
    if not isinstance(space, spaces.Dict | spaces.Tuple):
        return column[t]
    values = {key: _at(column[key], part, t) for key, part in _named(space)}
    return values if isinstance(space, spaces.Dict) else tuple(values.values())


def _named(space: spaces.Dict | spaces.Tuple) -> list[tuple[str, Space[Any]]]:
    """The parts by what their columns are called."""
    return list(space.spaces.items() if isinstance(space, spaces.Dict) else ((f"_index_{i}", x) for i, x in enumerate(space)))


def _choices(column: Any, space: Any) -> np.ndarray:
    """Actions of a Discrete, (T,), or of a MultiDiscrete, (T, choices), counted from 0."""
    count = np.asarray(space.n if isinstance(space, spaces.Discrete) else space.nvec)
    action = np.asarray(column)
    if action.dtype.kind not in "iu" or action.shape[1:] != count.shape:
        raise Fault(f"actions are {action.dtype} of shape {action.shape}; they must be rows of {space}")
    action = action.astype(np.int64) - space.start
    if ((action < 0) | (action >= count)).any():
        raise Fault(f"actions are not all in {space}")
    return action.reshape(len(action), -1) if count.ndim else action
