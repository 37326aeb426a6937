"""Written answers to learn from: a world's own solutions, or the rows of a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from thespis.core import Fault
from thespis.envs.text import TextWorld
from thespis.lm import Text, padded
from thespis.turns import Rows


class Book:
    """Batches by their number, so that nothing of it need be kept: batch i is always the same."""

    def __init__(self, text: Text, context: int, seed: int, world: TextWorld | None, rows: Sequence[Mapping[str, Any]] | None):
        """`rows`: those of a file, gone through in a new order each time; else the solutions that `world` tells."""
        self.text, self.context, self.seed, self.rows = text, context, seed, rows
        self.env = world.make() if rows is None and world else None

    def batch(self, i: int, size: int) -> Rows:
        """`size` conversations. Fault: one is longer than the context, or is not as `Text.written` wants it."""
        wanted = range(i * size, (i + 1) * size)
        found = [self.text.written(row) for row in (self._solved(wanted) if self.rows is None else self._drawn(wanted))]
        if (longest := max(len(tokens) for tokens, _ in found)) > self.context:
            raise Fault(f"a conversation has {longest:,} tokens of {self.context:,} that the model can read; see --model")
        return padded(found)

    def _solved(self, numbers: range) -> list[dict[str, str]]:
        assert self.env is not None
        rows = []
        for n in numbers:
            prompt, info = self.env.reset(self.seed + n)
            if not isinstance(info.get("solution"), str):
                raise Fault(f"{self.env.name} tells no solution (info['solution'] at a reset): name a .jsonl file with --data")
            rows.append({"prompt": prompt, "answer": info["solution"]})
        return rows

    def _drawn(self, numbers: range) -> list[Mapping[str, Any]]:
        assert self.rows is not None
        orders: dict[int, list[int]] = {}
        for n in numbers:
            if (turn := n // len(self.rows)) not in orders:
                g = torch.Generator().manual_seed(self.seed + turn)
                orders[turn] = torch.randperm(len(self.rows), generator=g).tolist()
        return [self.rows[orders[n // len(self.rows)][n % len(self.rows)]] for n in numbers]
