"""A learner acting step by step: what it remembers between steps, and when it may look."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from thespis.core import Learner, Params
from thespis.data import SegmentRollout, SequenceReplay


class Actor:
    """Acts in `rows` episodes at once. It sees a new observation only every `every` steps of an episode.

    In between, what it last saw is shown again: a policy without memory repeats its action, one with memory goes on.
    """

    def __init__(
        self, learner: Learner, rows: int, every: int = 1, device: str | torch.device = "cpu",
        replay: object = None,
    ):  # fmt: skip
        """`replay`: if its rows are sequences, it is told what is remembered before each step."""
        self.learner, self.every, self.device = learner, every, device
        self.replay = replay if isinstance(replay, SequenceReplay | SegmentRollout) else None
        self.memory: Params = self._blank(rows)
        self.age = torch.zeros(rows, dtype=torch.int64)  # steps since the episode began
        self.seen: Tensor | None = None

    def _blank(self, rows: int) -> Params:
        """What is remembered before an episode's first step."""
        memory = self.learner.memory(rows) if self.learner.memory else {}
        return {k: v.to(self.device) for k, v in memory.items()}

    def begin(self, rows: Tensor) -> None:
        """Another episode begins in each of `rows`, (k,) indices."""
        self.age[rows] = 0
        for name, blank in self._blank(len(rows)).items():
            self.memory[name][rows] = blank

    def __call__(self, policy: Any, obs: Tensor, explore: bool, rows: Tensor | None = None) -> Tensor:
        """Actions (k, ...) for observations (k, obs) of the episodes `rows`, (k,) indices; None: all of them."""
        obs = obs.to(self.device)
        if self.every == 1 and self.learner.memory is None:
            with torch.no_grad():
                return self.learner.act(policy, obs, explore)
        rows = torch.arange(len(self.age)) if rows is None else rows
        look = self.age[rows] % self.every == 0
        self.age[rows] += 1
        if self.seen is None:
            self.seen = torch.zeros(len(self.age), obs.shape[1], device=self.device)
        self.seen[rows[look]] = obs[look]
        obs = self.seen[rows]
        with torch.no_grad():
            if self.learner.memory is None:
                return self.learner.act(policy, obs, explore)
            memory = {k: v[rows] for k, v in self.memory.items()}
            if self.replay is not None:
                self.replay.remember(memory, rows)
            action, memory = self.learner.act(policy, obs, explore, memory, look.to(self.device))
        for name, value in memory.items():
            self.memory[name][rows] = value
        return action

    # -------------------------------------------------------------------------------------------------- stop and go on

    def save(self) -> dict[str, Tensor]:
        if self.every == 1 and self.learner.memory is None:
            return {}
        seen = {} if self.seen is None else {"seen": self.seen}
        return {"age": self.age, **seen, **{f"memory.{k}": v for k, v in self.memory.items()}}

    def restore(self, saved: dict[str, Tensor], dim: int) -> None:
        """What `save` gave, where observations have `dim` numbers. Raises KeyError or RuntimeError over anything else."""
        if saved:
            self.seen = torch.zeros(len(self.age), dim, device=self.device).copy_(saved["seen"]) if "seen" in saved else None
            for name, x in self.save().items():
                x.copy_(saved[name])
