"""A replay and a rollout whose rows are sequences: of the replay's, the first steps are there to remember by.

What acting remembered before each step is stored with it, so that a memory begins where it was and not empty; the burn-in then
brings it up to what today's parameters would remember (Kapturowski et al. 2019, "Recurrent Experience Replay in Distributed
Reinforcement Learning", section 3).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thespis.core import Batch, OffPolicy, Params, Spec, tree_map
from thespis.data.replay import COLUMNS, Replay
from thespis.data.rollout import OnPolicy, Rollout


@dataclass(frozen=True)
class Sequences(OffPolicy):
    """How a learner with a memory is fed: rows of a batch are T = burn_in + length steps, so obs is (B, T, obs) and so on.

    The step drawn is the first of those that are learnt from; no sequence leaves its episode. Extra columns: "valid" (B, T),
    which steps there are; and "hidden" (B, memory), what acting remembered before the first of these. Steps that there are not
    repeat the nearest one.
    """

    burn_in: int = 0
    """steps before those that are learnt from"""
    length: int = 1
    """steps that are learnt from"""
    memory: int = 0
    """numbers of what acting remembers under "hidden" """


class SequenceReplay(Replay):
    """As a Replay; before each step that a policy takes, `remember` is told what that remembers."""

    behind = 1  # the action before the oldest step that is drawn is known

    def __init__(
        self, spec: Spec, feed: Sequences, num_envs: int = 1, seed: int = 0, needs: frozenset[str] = frozenset(),
        device: str = "cpu",
    ):  # fmt: skip
        super().__init__(spec, feed, num_envs, seed, needs, device)
        self.kind, self.columns = feed, (*COLUMNS, "hidden")
        self.hidden = np.zeros((len(self.reward), feed.memory), np.float32)
        self.now = np.zeros((num_envs, feed.memory), np.float32)  # zeros where no policy acts, as in the warm-up

    def remember(self, memory: Params, rows: Tensor) -> None:
        """What is remembered, {"hidden": (k, memory), ...}, as the environments `rows`, (k,) indices, take their next step."""
        self.now[rows] = memory["hidden"].cpu().numpy()

    def add(self, *columns: Any, **named: Any) -> None:
        self.hidden[self._rows(self.steps)], self.now[:] = self.now, 0
        super().add(*columns, **named)

    def at(self, age: Tensor) -> Batch:
        """The sequences whose first steps to learn from are these rows (B,), counted from the oldest that may be drawn."""
        n, held, ring = self.num_envs, len(self), len(self.reward)
        oldest = self.steps * n - held
        place, valid = [age.numpy()], [np.ones(len(age), bool)]
        for _ in range(self.kind.length - 1):
            there = valid[-1] & ~self.ended[(place[-1] + oldest) % ring] & (place[-1] + n < held)
            place, valid = [*place, np.where(there, place[-1] + n, place[-1])], [*valid, there]
        for _ in range(self.kind.burn_in):
            before = place[0] - n
            there = valid[0] & (before >= 0) & ~self.ended[(before + oldest) % ring]
            place, valid = [np.where(there, before, place[0]), *place], [there, *valid]
        steps = np.stack(place, 1)
        batch = tree_map(lambda x: x.unflatten(0, steps.shape), super().at(torch.from_numpy(steps.ravel())))
        batch.extra["valid"] = torch.from_numpy(np.stack(valid, 1))
        batch.extra["hidden"] = torch.from_numpy(self.hidden[(place[0] + oldest) % ring])
        return batch


@dataclass(frozen=True)
class Segments(OnPolicy):
    """How an on-policy learner with a memory is fed.

    The rollout has the extra column "hidden" (T, N, memory): what acting remembered before each step, zeros where an episode
    begins. `prepare` cuts it into rows (N * T / length, length, ...), of which minibatches have batch_size.
    """

    length: int = 1
    """steps of a row; the rollout is a multiple of it"""
    memory: int = 0
    """numbers of what acting remembers under "hidden" """

    def minibatches(self, num_envs: int) -> int:
        return max(self.rollout // self.length * num_envs // self.batch_size, 1)


class SegmentRollout(Rollout):
    """As a Rollout; before each step that a policy takes, `remember` is told what that remembers."""

    def __init__(self, spec: Spec, feed: Segments, num_envs: int = 1, seed: int = 0, needs: frozenset[str] = frozenset()):
        super().__init__(spec, feed, num_envs, seed, needs)
        self.hidden = torch.zeros(feed.rollout, num_envs, feed.memory)

    def remember(self, memory: Params, rows: Tensor) -> None:
        """As a SequenceReplay's."""
        self.hidden[self.steps % self.length, rows] = memory["hidden"].cpu()

    def batch(self) -> Batch:
        batch = super().batch()
        batch.extra["hidden"] = self.hidden
        return batch

    def save(self) -> dict[str, Tensor]:
        return {**super().save(), "hidden": self.hidden[: self.steps % self.length]}

    def restore(self, saved: Mapping[str, Tensor]) -> None:
        super().restore(saved)
        self.hidden[: len(saved["hidden"])] = saved["hidden"]
