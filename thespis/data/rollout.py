"""What the policy did since it last learnt: T steps of N environments, learnt from as a whole and then forgotten."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from thespis import ops
from thespis.core import Batch, Fault, Spec, leaves, replace, tree_map
from thespis.data.replay import ReturnScale, empty_actions

EXTRAS = ("return_scale",)
"""What `Learner.needs` may name here: "return_std" and "return_max" (T, N), as in data/replay.py."""
COLUMNS = ("obs", "action", "reward", "terminated", "ended", "next_obs")


@dataclass(frozen=True)
class OnPolicy:
    """How an on-policy learner is fed: each rollout is learnt from in epochs of minibatches, and then forgotten."""

    gamma: float
    rollout: int
    """steps of every environment in a rollout"""
    epochs: int
    """passes over a rollout"""
    batch_size: int
    """rows of a minibatch; what is left of an epoch after the last whole one is passed over"""
    whole: bool = False
    """whether every rollout begins with new episodes: those that are under way at its end are cut off there"""
    policies: int = 0
    """how many policies act side by side in training, an environment each: Learner.collect gives the actions of the environments
    that its `rows` number, each by its policy. 0: one acts in all"""
    replay_size: int = 0
    """rows of all rollouts that are kept, the newest; minibatches are drawn from them, `epochs` for each rollout. 0: none"""
    warmup: ClassVar[int] = 0
    look_every: ClassVar[int] = 1
    reset_every: ClassVar[None] = None
    pretrain: ClassVar[int] = 0
    n_step: ClassVar[int] = 1  # this and the next: of the rows of a dataset that a learner is given
    frames: ClassVar[int] = 1

    def minibatches(self, num_envs: int) -> int:
        """Of one epoch. Where a rollout has fewer rows than batch_size, all of them are one."""
        return 1 if self.replay_size else max(self.rollout * num_envs // self.batch_size, 1)

    def updates(self, steps: int, num_envs: int) -> int:
        """That so many steps of all environments call for."""
        return steps // (self.rollout * num_envs) * self.epochs * self.minibatches(num_envs)


def described(algo: str, spec: Spec, steps: int | None) -> tuple[int, int]:
    """(numbers of a descriptor, steps of an episode) where policies are tried side by side: all rewards but the first, each
    summed over an episode, say how it differs. Fault: a single reward, or neither `steps` nor a time limit."""
    if len(spec.rewards) < 2:
        raise Fault(f"{algo}: the environment has one reward; the others say how episodes differ: see docs/diversity.md")
    if (limit := steps or spec.horizon) is None:
        raise Fault("episode_steps is None, and the environment has no time limit: say in how many steps a policy is tried")
    return len(spec.rewards) - 1, limit


class Rollout:
    """Takes steps as a Replay does; when it is full, `batch` is the rollout and `sample` gives minibatches of `rows`."""

    def __init__(self, spec: Spec, feed: OnPolicy, num_envs: int = 1, seed: int = 0, needs: frozenset[str] = frozenset()):
        if unknown := needs.difference(EXTRAS):
            raise ValueError(f"a learner needs {sorted(unknown)}; a rollout gives {EXTRAS}")
        self.feed, self.num_envs, self.needs, self.length = feed, num_envs, needs, feed.rollout
        self.scale = ReturnScale(num_envs, feed.gamma, ops.reward_shape(spec))
        shape = (feed.rollout, num_envs)
        self.obs, self.next_obs = torch.zeros(2, *shape, spec.obs.dim)
        self.action = torch.from_numpy(empty_actions(spec, feed.rollout * num_envs)).unflatten(0, shape)
        self.reward = torch.zeros(*shape, *ops.reward_shape(spec))
        self.terminated, self.ended = torch.zeros(2, *shape, dtype=torch.bool)
        self.steps = 0  # ever added
        self.rng = torch.Generator().manual_seed(seed)
        self.rows: Batch | None = None
        self.order: list[Tensor] = []  # of the minibatches that are left of this epoch
        self.kept = 0  # rows that ever went to the replay, where there is one

    @property
    def added(self) -> int:
        """Transitions ever added."""
        return self.steps * self.num_envs

    def due(self, steps: int) -> int:
        """Updates that so many environment steps call for."""
        return self.feed.updates(steps, self.num_envs)

    @property
    def parts(self) -> list[Rollout]:
        """As a Replay's: itself."""
        return [self]

    def add(
        self, obs: np.ndarray, action: np.ndarray, reward: np.ndarray, terminated: np.ndarray, truncated: np.ndarray,
        last: np.ndarray,
    ) -> None:  # fmt: skip
        """One step of every environment: obs and last (N, obs), action (N, ...), reward (N,) or (N, R), the others (N,)."""
        t = self.steps % self.length
        row = (obs, action, reward, terminated, terminated | truncated, last)
        for name, value in zip(COLUMNS, row, strict=True):
            getattr(self, name)[t] = torch.from_numpy(value)
        if "return_scale" in self.needs:
            self.scale.add(reward, terminated | truncated)
        self.steps += 1

    def cut(self, env: int) -> None:
        """Ends the newest step of one environment as a time limit would: what follows is another episode."""
        self.ended[(self.steps - 1) % self.length, env] = True
        self.scale.past[env] = 0.0

    def batch(self) -> Batch:
        """The rollout, (T, N, ...), with extra "ended" (T, N): where an episode terminated or was cut off."""
        extra = {"ended": self.ended}
        if "return_scale" in self.needs:
            columns = self.scale.columns(self.length * self.num_envs)
            extra |= {k: v.reshape(self.reward.shape) for k, v in columns.items()}
        discount = self.feed.gamma * ~self.terminated
        if self.reward.ndim > 2:
            discount = discount[..., None].expand_as(self.reward)
        return Batch(self.obs, self.action, self.reward, discount, self.next_obs, extra)

    def learn_from(self, rows: Batch) -> None:
        """The rows (M, ...) that `sample` draws from; where there is a replay it takes those whose extra "kept" is True."""
        if self.feed.replay_size:
            self._keep(rows)
        else:
            self.rows, self.order = rows, []

    def _keep(self, rows: Batch) -> None:
        extra, size = dict(rows.extra), self.feed.replay_size
        chosen = extra.pop("kept").nonzero()[:, 0][-size:]
        new = tree_map(lambda x: x[chosen], replace(rows, extra=extra))
        if self.rows is None:
            self.rows = tree_map(lambda x: x.new_zeros(size, *x.shape[1:]), new)
        place = (self.kept + torch.arange(len(chosen), device=chosen.device)) % size
        for old, x in zip(leaves(self.rows).values(), leaves(new).values(), strict=True):
            old[place] = x
        self.kept += len(chosen)

    def sample(self) -> Batch:
        """The next minibatch; each epoch has an order of its own. Of a replay any rows, with replacement."""
        assert self.rows is not None
        if self.feed.replay_size:
            index = torch.randint(min(self.kept, self.feed.replay_size), (self.feed.batch_size,), generator=self.rng)
            return tree_map(lambda x: x[index], self.rows)
        if not self.order:
            count, size = len(self.rows.reward), self.feed.batch_size
            self.order = list(torch.randperm(count, generator=self.rng).split(size))[: self.feed.minibatches(self.num_envs)]
        index = self.order.pop(0)
        return tree_map(lambda x: x[index], self.rows)

    # ------------------------------------------------------------------------------------------------- to and from disk

    def save(self) -> dict[str, Tensor]:
        """The steps that are not learnt from yet. A rollout is small, so all of it is in the checkpoint; so is a replay."""
        rows = {name: getattr(self, name)[: self.steps % self.length] for name in COLUMNS}
        if self.rows is not None and self.feed.replay_size:
            filled = min(self.kept, self.feed.replay_size)
            rows |= {f"rows.{k}": x[:filled] for k, x in leaves(self.rows).items()} | {"kept": torch.tensor(self.kept)}
        return rows | (self.scale.tensors() if "return_scale" in self.needs else {})

    def restore(self, saved: Mapping[str, Tensor]) -> None:
        for name in COLUMNS:
            getattr(self, name)[: len(saved[name])] = saved[name]
        if self.feed.replay_size and "kept" in saved:
            found = {k.removeprefix("rows."): x for k, x in saved.items() if k.startswith("rows.")}
            columns = {k: x.new_zeros(self.feed.replay_size, *x.shape[1:]) for k, x in found.items()}
            for k, x in found.items():
                columns[k][: len(x)] = x
            extra = {k.removeprefix("extra."): columns.pop(k) for k in list(columns) if k.startswith("extra.")}
            self.rows, self.kept = Batch(**columns, extra=extra), int(saved["kept"])
        if "return_scale" in self.needs:
            self.scale.restore(saved)

    def oldest(self) -> int:
        """No step is kept on disk apart."""
        return self.steps

    def segment(self, start: int, stop: int) -> dict[str, Tensor]:
        return {}

    def can(self, action: Tensor) -> bool:
        """Whether a segment may hold these actions."""
        return False

    def load(self, segments: Iterable[tuple[int, Any]], stop: int) -> None:
        self.steps = stop
