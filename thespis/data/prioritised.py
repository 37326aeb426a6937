"""A replay whose rows are drawn the more often, the more wrong the critics were about them, and weigh the less in their loss.

Paper: Schaul et al. 2016, "Prioritized Experience Replay", arXiv:1511.05952, the proportional variant (section 3.3).
Departure: the largest weight is that of the batch (the paper leaves open of what; openai/baselines: of all rows).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thespis.core import Batch, OffPolicy, Spec
from thespis.data.replay import Replay

LEAST = 1e-6
"""what is added to an error, so that every row may be drawn again (the paper's epsilon)"""


@dataclass(frozen=True)
class Priority:
    """How rows are drawn: with probability (error + LEAST)^alpha over its sum."""

    alpha: float
    """0: uniformly"""
    beta: float
    """the exponent of the importance weights at the first batch; it rises in a line to 1 ..."""
    batches: int
    """... at this one"""


class SumTree:
    """`rows` numbers >= 0, and their sums: what a row is drawn by in as many steps as the tree is high."""

    def __init__(self, rows: int):
        self.height = max(rows - 1, 0).bit_length()
        self.first = 1 << self.height  # where row 0 lies; node i has the children 2 i and 2 i + 1
        self.nodes = np.zeros(2 * self.first)

    def __getitem__(self, rows: Any) -> np.ndarray:
        return self.nodes[self.first :][rows]

    @property
    def total(self) -> float:
        return float(self.nodes[1])

    def put(self, rows: np.ndarray, values: Any) -> None:
        """Of rows that are there twice, the last value counts."""
        nodes = self.nodes
        at = rows + self.first
        nodes[at] = values
        for _ in range(self.height):
            at = at >> 1
            nodes[at] = nodes[2 * at] + nodes[2 * at + 1]

    def find(self, sums: np.ndarray) -> np.ndarray:
        """The rows at which the running sum passes `sums`, each in [0, total); never one whose number is 0."""
        nodes, left = self.nodes, sums.copy()
        at = np.ones(len(sums), np.int64)
        for _ in range(self.height):
            at = 2 * at
            here = nodes[at]
            beyond = (left >= here) & (nodes[at + 1] > 0)  # the second: rounding may have left a little too much
            left -= np.where(beyond, here, 0.0)
            at += beyond
        return at - self.first


class PrioritisedReplay(Replay):
    """Batches have an extra column "weight" (B,), at most 1; after each update `heed` is told the errors of its batch."""

    def __init__(
        self, spec: Spec, feed: OffPolicy, num_envs: int = 1, seed: int = 0, needs: frozenset[str] = frozenset(),
        device: str = "cpu", priority: Priority = Priority(0.6, 0.4, 1),
    ):  # fmt: skip
        super().__init__(spec, feed, num_envs, seed, needs, device)
        self.priority, self.tree = priority, SumTree(len(self.reward))
        self.largest, self.batches = 1.0, 0  # error seen, and batches drawn
        self.drawn = np.zeros(0, np.int64)

    def add(self, *columns: Any, **named: Any) -> None:
        super().add(*columns, **named)
        self._enter()

    def _enter(self) -> None:
        """The newest step is drawn as what is most wrong; the one that it drives out is drawn no more."""
        gone = self.steps - 1 - (self.length - self.context)
        if gone >= 0:
            self.tree.put(self._places(gone), 0.0)
        self.tree.put(self._places(self.steps - 1), self.largest**self.priority.alpha)

    def _places(self, step: int) -> np.ndarray:
        rows = self._rows(step)
        return np.arange(rows.start, rows.stop)

    def sample(self) -> Batch:
        """A batch, one row from each of B equal parts of the priorities' sum."""
        size, held, total = self.feed.batch_size, len(self), self.tree.total
        drawn = torch.rand(size, generator=self.rng, dtype=torch.float64).numpy()
        self.drawn = self.tree.find((np.arange(size) + drawn) * (total / size))
        self.batches += 1
        done = min((self.batches - 1) / max(self.priority.batches - 1, 1), 1.0)
        beta = self.priority.beta + done * (1 - self.priority.beta)
        weight = (self.tree[self.drawn] * (held / total)) ** -beta
        batch = self.at(torch.from_numpy((self.drawn - (self.added - held)) % len(self.reward)))
        batch.extra["weight"] = torch.from_numpy((weight / weight.max()).astype(np.float32))
        return batch

    def heed(self, errors: Tensor) -> None:
        """How wrong the critics were about each row (B,) of the last batch."""
        sizes = np.abs(errors.cpu().numpy().astype(np.float64)) + LEAST
        self.largest = max(self.largest, float(sizes.max()))
        self.tree.put(self.drawn, sizes**self.priority.alpha)

    # ------------------------------------------------------------------------------------------------- to and from disk

    def save(self) -> dict[str, Tensor]:
        numbers = torch.tensor([self.largest, self.batches, self.priority.batches], dtype=torch.float64)
        return {**super().save(), "priorities": torch.from_numpy(self.tree[self._held()]), "priority": numbers}

    def restore(self, saved: Mapping[str, Tensor]) -> None:
        super().restore(saved)
        self.largest, batches, over = saved["priority"].tolist()
        self.batches = int(batches)
        self.priority = Priority(self.priority.alpha, self.priority.beta, int(over))  # of the run that began
        self.tree.put(self._held(), saved["priorities"].numpy())

    def _held(self) -> np.ndarray:
        """The places of the rows that may be drawn, the oldest first."""
        return (np.arange(len(self)) + (self.added - len(self))) % len(self.reward)
