"""Written answers to learn from: a world's own solutions, or the rows of a file, answers or pairs of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from thespis.core import Fault
from thespis.envs.text import TextWorld
from thespis.lm import Text, padded
from thespis.turns import Rows


class Book:
    """Batches by their number, so that nothing of it need be kept: batch i is always the same."""

    def __init__(
        self, text: Text, context: int, seed: int, world: TextWorld | None, rows: Sequence[Mapping[str, Any]] | None,
        paired: bool = False, columns: Mapping[str, float] | None = None,
    ):  # fmt: skip
        """`rows`: those of a file, gone through in a new order each time; else the solutions that `world` tells. `paired`: each
        row is two answers to a prompt, as `checked_pairs` wants it. `columns`: as `turns.Written` has them."""
        self.columns = dict(columns or {})
        self.text, self.context, self.seed, self.rows, self.paired = text, context, seed, rows, paired
        self.env = world.make() if rows is None and world else None

    def batch(self, i: int, size: int) -> Rows:
        """`size` conversations, or pairs of them. Fault: one is longer than the context, or is not as `Text.written` wants it."""
        wanted = range(i * size, (i + 1) * size)
        drawn = self._solved(wanted) if self.rows is None else self._drawn(wanted)
        found = [x for row in drawn for x in (self.text.pair(row) if self.paired else [self.text.written(row)])]
        if (longest := max(len(tokens) for tokens, _ in found)) > self.context:
            raise Fault(f"a conversation has {longest:,} tokens of {self.context:,} that the model can read; see --model")
        rows = padded(found)
        return replace(rows, block=1 + self.paired, columns={name: self._column(name, drawn, rows.mask) for name in self.columns})

    def _column(self, name: str, drawn: Sequence[Mapping[str, Any]], mask: Tensor) -> Tensor:
        """(R, T) float32. Fault: what a row has is neither a number nor one for each token of the answer."""
        column = torch.zeros(mask.shape)
        for i, row in enumerate(drawn):
            value, places = row.get(name, self.columns[name]), mask[i]
            many = isinstance(value, list)
            if not all(isinstance(x, int | float) and math.isfinite(x) for x in (value if many else [value])):
                raise Fault(f"data: a row has {str(value)[:60]!r} as its {name}; allowed: a number, or one for each token")
            if many and len(value) != int(places.sum()):
                raise Fault(f"data: a row has {len(value)} numbers as its {name}; its answer has {int(places.sum())} tokens")
            column[i, places if many else slice(None)] = torch.tensor(value, dtype=torch.float32)
        return column

    def _solved(self, numbers: range) -> list[dict[str, Any]]:
        assert self.env is not None
        rows = list[dict[str, Any]]()
        for n in numbers:
            prompt, info = self.env.reset(self.seed + n)
            solution = info.get("solution")
            if isinstance(solution, str):
                rows.append({"prompt": prompt, "answer": solution})
            elif isinstance(solution, list) and solution and all(isinstance(x, str) for x in solution):
                rows.append({"messages": self._spoken(prompt, solution)})
            else:
                raise Fault(f"{self.env.name} tells no solution (info['solution'] at a reset): name a .jsonl file with --data")
        return rows

    def _spoken(self, prompt: str, answers: Sequence[str]) -> list[dict[str, str]]:
        """The conversation in which these are the answers, until the environment ends it."""
        assert self.env is not None
        messages, over = list[dict[str, str]](), False
        for answer in answers:
            if not over:
                messages += [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
                prompt, _, terminated, truncated, _ = self.env.step(answer)
                over = terminated or truncated
        return messages

    def _drawn(self, numbers: range) -> list[Mapping[str, Any]]:
        assert self.rows is not None
        orders: dict[int, list[int]] = {}
        for n in numbers:
            if (turn := n // len(self.rows)) not in orders:
                g = torch.Generator().manual_seed(self.seed + turn)
                orders[turn] = torch.randperm(len(self.rows), generator=g).tolist()
        return [self.rows[orders[n // len(self.rows)][n % len(self.rows)]] for n in numbers]


def checked_pairs(rows: Sequence[Mapping[str, Any]], file: str) -> None:
    """Fault: a row that is no prompt with an answer that was chosen and another that was rejected, by its number."""
    for i, row in enumerate(rows, 1):
        if missing := [k for k in ("prompt", "chosen", "rejected") if not isinstance(row.get(k), str)]:
            has = ", ".join(map(str, row)) or "nothing"
            raise Fault(
                f"data: {file} row {i} has no text as its {missing[0]!r} (it has {has}); allowed: prompt, chosen, rejected"
            )
        if row["chosen"] == row["rejected"]:
            raise Fault(f"data: {file} row {i}: chosen and rejected are the same; leave such rows out")
