"""A replay of conversations: the newest episodes of an actor that writes, in tensors, so that a checkpoint holds them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from thespis.turns import Turns


@dataclass(frozen=True)
class Conversations:
    """C episodes of at most L tokens, the oldest of which make room for new ones; changed in place."""

    tokens: Tensor  # (C, L) int32
    said: Tensor  # (C, L) int16: which of its episode's turns sampled the token; -1: it was given, or is padding
    reward: Tensor  # (C, L) float32, of the turn that sampled the token
    discount: Tensor  # (C, L) float32, likewise
    returns: Tensor  # (C,) float32: the undiscounted sum of each episode's rewards
    added: Tensor  # () int64: episodes that were ever added

    @staticmethod
    def empty(capacity: int, length: int) -> Conversations:
        shape = (capacity, length)
        return Conversations(
            torch.zeros(shape, dtype=torch.int32), torch.full(shape, -1, dtype=torch.int16), torch.zeros(shape),
            torch.zeros(shape), torch.zeros(capacity), torch.zeros((), dtype=torch.int64),
        )  # fmt: skip

    def __len__(self) -> int:
        return min(int(self.added), len(self.tokens))

    def add(self, t: Turns) -> None:
        """Puts episodes in; of more than there is room for, the last."""
        width = t.tokens.shape[1]
        keep = torch.arange(len(t.tokens))[-len(self.tokens) :]
        at = (int(self.added) + keep) % len(self.tokens)
        turns = torch.bincount(t.row, minlength=len(t.tokens))
        first = turns.cumsum(0) - turns
        said = torch.where(t.said >= 0, t.said - first[:, None], -1)
        self.said[at] = -1
        for mine, theirs in (
            (self.tokens, t.tokens), (self.said, said), (self.reward, t.spread(t.reward)), (self.discount, t.spread(t.discount)),
        ):  # fmt: skip
            mine[at, :width] = theirs[keep].to(mine.dtype)
        self.returns[at] = t.returns()[keep]
        self.added.add_(len(t.tokens))

    def take(self, index: Tensor) -> Turns:
        """These episodes, by their places (R,), as they were played but for what is not kept: log-probabilities, groups, whether
        an answer was cut off, final answers."""
        said = self.said[index].long()
        width = int((said >= 0).any(0).nonzero().max()) + 1
        said = said[:, :width]
        first = (said >= 0) & (said != torch.nn.functional.pad(said[:, :-1], (1, 0), value=-1))
        row, start = first.nonzero().unbind(-1)
        turns = torch.bincount(row, minlength=len(said))
        numbered = torch.where(said >= 0, said + (turns.cumsum(0) - turns)[:, None], -1)
        none = torch.zeros(len(row), dtype=torch.int64)
        return Turns(
            tokens=self.tokens[index, :width].long(), said=numbered, logp=torch.zeros(numbered.shape), row=row, start=start,
            reward=self.reward[index][row, start], discount=self.discount[index][row, start],
            ended=torch.cat([row[1:] != row[:-1], torch.ones(1, dtype=torch.bool)]), group=row, cut=none > 0, final=none,
        )  # fmt: skip

    def draw(self, count: int) -> Turns:
        """`count` episodes, each as likely as any, with repetition; by torch's generator."""
        return self.take(torch.randint(len(self), (count,)))

    def best(self, share: float) -> Tensor:
        """The places of the episodes whose returns are among the highest, by their share; of the lowest such return all."""
        held = self.returns[: len(self)]
        return (held >= held.topk(max(round(share * len(held)), 1)).values[-1]).nonzero()[:, 0]
