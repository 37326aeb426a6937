"""Environments that are one object: n rows that are stepped at once, behind the interface of `Vector`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from thespis.core import Fault
from thespis.envs.flat import describe_error
from thespis.envs.observations import LARGEST, Floats, at
from thespis.envs.statistics import Statistics
from thespis.envs.vector import Mask, Vector
from thespis.envs.world import World

__all__ = ["Batched", "Mask", "Rows"]


class Rows(Protocol):
    """n simulations. A row that is not `asked`, (n,) bool, stays as it is. Where a world has R rewards they are (n, R). One with
    a context_space is given a third argument at reset: contexts (n, C), or None."""

    action_dim: int
    """0: an action is a choice, (n,)"""

    def reset(self, seeds: Sequence[int], asked: Mask) -> Floats:
        """Begins an episode of each row that is asked, from its seed: observations (n, obs)."""

    def step(self, actions: Floats, asked: Mask) -> tuple[Floats, Floats, Mask, Mask]:
        """Actions (n, action_dim) in [-1, 1] -> observations (n, obs), rewards, terminated, truncated, (n,) each."""

    def infos(self, rows: Sequence[int]) -> dict[int, dict[str, float]]:
        """Of these rows, whose episodes have just ended, what numbers their last step has besides."""

    def close(self) -> None: ...


class Batched(Vector):
    """`Vector`, and the guards of `Flat`, for n environments that are one object. Contexts stand behind its observations."""

    def __init__(self, make: Callable[[int], Rows], world: World, n: int, restart: Callable[[Fault], None] | None) -> None:
        self._blank(world, n, restart)
        self.rows, self.limit = make(n), world.spec.horizon
        self.shape = (n, self.rows.action_dim) if self.rows.action_dim else (n,)
        self.takes = world.spec.context > 0  # what each episode is about; else that is shown
        self.seeds, self.steps, self.over = np.zeros(n, np.int64), np.zeros(n, np.int64), np.ones(n, bool)

    def reset(self, seed: Sequence[int], mask: Mask | None = None) -> tuple[Floats, Mask]:
        asked = self._asked(mask)
        self.seeds[asked], self.steps[asked] = np.asarray(seed)[asked], 0
        obs = self._shown(self._called("reset", seed, asked, *([self.contexts] if self.takes else [])))
        good = self._good(asked, observation=obs)
        self.obs = np.where(good[:, None], obs, self.obs)
        self.over[asked] = ~good[asked]
        return self.obs.copy(), asked & ~good

    def step(self, actions: NDArray[Any], mask: Mask | None = None) -> tuple[Floats, NDArray[np.float64], Mask, Mask, Mask]:
        asked, actions = self._asked(mask), np.asarray(actions, np.float32)
        if actions.shape != self.shape:
            raise Fault(f"{self.world.name}: actions have the shape {actions.shape}; it must be {self.shape}")
        if (early := asked & self.over).any():
            raise self._fault(
                int(early.argmax()), "step was called on an episode that is over or not begun; reset must come first"
            )
        self.steps += asked
        obs, reward, terminated, truncated = self._called("step", actions, asked)
        obs, earned = self._shown(obs), np.asarray(reward, np.float64)
        reward = self.world.total(earned) if self.world.weights else earned
        good = self._good(asked, action=actions, observation=obs, reward=reward)
        self.in_a_row[good] = 0
        late = self.steps >= self.limit if self.limit else np.zeros(self.num_envs, bool)
        self.obs = np.where(good[:, None], obs, self.obs)
        self.reward[good], self.task_reward[good] = reward[good], earned[good]
        self.terminated = np.where(good, terminated, self.terminated)
        self.truncated = np.where(good, truncated | late, self.truncated)
        self.over = np.where(asked, ~good | self.terminated | self.truncated, self.over)
        if self.infos:
            self.infos = {i: info for i, info in self.infos.items() if not asked[i]}
        if (ended := asked & good & self.over).any():
            self.infos |= self.rows.infos(np.flatnonzero(ended).tolist())
        return self.obs.copy(), self.reward.copy(), self.terminated.copy(), self.truncated.copy(), asked & ~good

    def reenact(
        self, seeds: Sequence[int], actions: Sequence[NDArray[Any]], mask: Mask | None = None, gathered: Any = None
    ) -> tuple[Floats, NDArray[np.float64], NDArray[np.int64]]:
        asked, lengths = self._asked(mask), np.array([len(a) for a in actions])
        past = np.zeros((int(lengths.max(initial=0)), *self.shape), np.float32)
        for i in np.flatnonzero(asked).tolist():
            past[: lengths[i], i] = actions[i]
        failed, returns = self.reset(seeds, asked)[1], np.zeros_like(self.reward)
        for t, action in enumerate(past):
            if not (going := asked & ~self.over & (t < lengths)).any():
                break
            _, reward, *_, lost = self.step(action, going)
            returns[going] += reward[going]
            failed |= lost
        returns[~asked | failed] = 0
        return self.obs.copy(), returns, np.where(asked & ~failed, self.steps, -1)

    def gathered(self) -> list[Statistics]:
        return [{}] * self.num_envs

    def use(self, gathered: Sequence[Statistics], frozen: bool, mask: Mask | None = None) -> None:
        """There are no wrappers."""

    def close(self) -> None:
        self.rows.close()

    def _shown(self, obs: Floats) -> Floats:
        return obs if self.contexts is None or self.takes else np.concatenate([obs, self.contexts], 1)

    def _called(self, call: str, *given: Any) -> Any:
        try:
            return getattr(self.rows, call)(*given)
        except Exception as error:  # as of JAX: out of memory, a state that changes its shape
            raise Fault(f"{self.world.name}: {call} raised {describe_error(error)}") from error

    def _asked(self, mask: Mask | None) -> Mask:
        return np.ones(self.num_envs, bool) if mask is None else mask.copy()

    def _good(self, asked: Mask, **fields: NDArray[Any]) -> Mask:
        """Who was asked and is sound, (n,); the others are told of."""
        faults: dict[int, Fault] = {}
        for field, values in fields.items():
            sane = np.abs(values.reshape(self.num_envs, -1)) <= LARGEST  # not where it is nan
            for i in np.flatnonzero(asked & ~sane.all(-1)).tolist():
                k = int(sane[i].argmin())
                what = f"{at(field, k, values.shape[1:])} is {values[i].flat[k]}"
                faults.setdefault(i, self._fault(i, f"{what}; it must be finite and at most {LARGEST:g} in size"))
        self._tell(faults)
        good = asked.copy()
        good[list(faults)] = False
        return good

    def _fault(self, i: int, what: str) -> Fault:
        when = f"at step {self.steps[i]} after the reset" if self.steps[i] else "at the reset"
        return Fault(f"{self.world.name}: {what} ({when} with seed {self.seeds[i]})")
