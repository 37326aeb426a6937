"""Goals in hindsight: a part of each batch is given goals that its own episodes reached later, and the rewards that follow.

Paper: Andrychowicz et al. 2017, "Hindsight Experience Replay", arXiv:1707.01495. Nothing is stored twice: goals are drawn where a
batch is, so a share of k / (k + 1) is the paper's k goals for each transition.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from thespis.core import Batch
from thespis.data.replay import Replay

Goals = np.ndarray  # (B, goal)


class Judge(Protocol):
    """What an environment says of steps that ended at one goal where another was asked for."""

    def reward(self, achieved: Goals, desired: Goals) -> np.ndarray:
        """(B,)"""

    def terminated(self, achieved: Goals, desired: Goals) -> np.ndarray | None:
        """(B,) bool; None: the goal has no part in it."""


@dataclass(frozen=True)
class Rule:
    """How batches get their goals."""

    achieved: tuple[int, int]
    """(start, stop) of the columns of an observation that are the goal achieved"""
    desired: tuple[int, int]
    """those that are the goal asked for"""
    judge: Callable[[], Judge]
    which: Literal["future", "final"]
    """goals are what was achieved after a step drawn uniformly from the rest of the episode, this one included; or at its end"""
    share: float
    """of a batch's rows, each by chance"""


class Hindsight:
    """Gives goals to batches of one replay, with its generator. An episode under way ends, so far, with its newest step."""

    def __init__(self, replay: Replay, rule: Rule, judge: Judge) -> None:
        self.replay, self.rule, self.judge = replay, rule, judge
        self.ends = np.full((replay.length + 1, replay.num_envs), -1, np.int32)  # by step in the ring, its episode's last one
        self.began = np.zeros(replay.num_envs, np.int64)  # first step of each environment whose episode's end is not noted
        self.noted = 0  # steps whose ends are

    def __call__(self, young: np.ndarray, batch: Batch) -> Batch:
        """The batch of these rows (B,), counted from the oldest held, with other goals in a part of it, in place."""
        replay, rule = self.replay, self.rule
        drawn = torch.rand(2, len(young), generator=replay.rng).numpy()
        chosen = np.flatnonzero(drawn[0] < rule.share)
        step, env = np.divmod(young[chosen] + replay.added - len(replay), replay.num_envs)
        aim = self._end(step, env)
        if rule.which == "future":
            left = aim - step + 1
            aim = step + np.minimum((drawn[1][chosen] * left).astype(np.int64), left - 1)
        goal = self._achieved(self._after(step=aim, env=env))
        reward, discount, next_obs = self._steps(step, env, _numpy(goal))
        next_obs[:, slice(*rule.desired)] = goal
        rows = torch.from_numpy(chosen)
        batch.reward[rows], batch.discount[rows] = torch.from_numpy(reward), torch.from_numpy(discount)
        rows = rows.to(batch.obs.device)
        batch.obs[rows, slice(*rule.desired)], batch.next_obs[rows] = torch.as_tensor(goal), torch.as_tensor(next_obs)
        return batch

    def _steps(self, step: np.ndarray, env: np.ndarray, goal: Goals) -> tuple[np.ndarray, np.ndarray, Any]:
        """The n-step reward, discount and next observation from these steps on, where `goal` is asked for."""
        replay, feed = self.replay, self.replay.feed
        reward, discount = np.zeros(len(step), np.float32), np.ones(len(step), np.float32)
        last, on, over = step, np.ones(len(step), bool), np.zeros(len(step), bool)
        for n in range(feed.n_step):
            last = np.where(on, step + n, last)
            row, after = self._row(last, env), self._after(last, env)
            achieved = _numpy(self._achieved(after))
            reward = reward + np.where(on, discount * self.judge.reward(achieved, goal), np.float32(0))
            discount = np.where(on, discount * np.float32(feed.gamma), discount)
            ends = self.judge.terminated(achieved, goal)
            over |= on & (replay.terminated[row] if ends is None else ends | replay.terminated[row])
            on = on & ~over & ~replay.ended[row] & (last + 1 < replay.steps)
            if not on.any():
                break
        return reward, discount * ~over, after

    def _row(self, step: np.ndarray, env: np.ndarray) -> np.ndarray:
        return (step * self.replay.num_envs + env) % len(self.replay.obs)

    def _after(self, step: np.ndarray, env: np.ndarray) -> Any:
        """The observations after these steps, (B, obs)."""
        replay, row = self.replay, self._row(step, env)
        obs, ended = replay.obs[(row + replay.num_envs) % len(replay.obs)], replay.ended[row]
        if ended.any():
            obs[ended] = replay.finals[replay.final_at[row[ended]]]
        return obs

    def _achieved(self, obs: Any) -> Any:
        return obs[:, slice(*self.rule.achieved)]

    def _end(self, step: np.ndarray, env: np.ndarray) -> np.ndarray:
        """The last step of the episodes of these."""
        replay, n, ring = self.replay, self.replay.num_envs, len(self.ends)
        first = max(self.noted, replay.oldest())
        rows = np.arange(first * n, replay.steps * n) % len(replay.ended)
        for place in np.flatnonzero(replay.ended[rows]).tolist():
            end, i = first + place // n, place % n
            self.ends[np.arange(max(self.began[i], end - replay.length + 1), end + 1) % ring, i] = end
            self.began[i] = end + 1
        self.noted = max(replay.steps - 1, 0)  # the newest step may still be cut
        found = self.ends[step % ring, env].astype(np.int64)
        return np.where(found >= step, found, replay.steps - 1)


def _numpy(x: Any) -> np.ndarray:
    return x.cpu().numpy() if isinstance(x, Tensor) else x
