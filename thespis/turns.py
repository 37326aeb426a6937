"""What was played by an actor that writes, and what a loss is given of it. Imports nothing of ours."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class TextSpec:
    """All that an algorithm may know of a world that is spoken to."""

    horizon: int | None = None
    """turns after which an episode is cut off, where there is such a limit"""
    answer_tokens: int = 32
    """tokens of an answer at most"""


@dataclass(frozen=True)
class Rows:
    """R rows of T tokens, padded on the right, and columns of the same shape, each of the token at its place.

    `mask` is True where the actor wrote the token: only there a loss looks. Padding is False in it; which id fills it is free,
    since attention looks backwards alone.
    """

    tokens: Tensor  # (R, T) int64
    mask: Tensor  # (R, T) bool
    columns: dict[str, Tensor] = field(default_factory=dict)  # each (R, T)
    block: int = 1
    """rows that stay together in a part: the two of a pair"""

    def __getattr__(self, name: str) -> Tensor:
        try:
            return self.__dict__["columns"][name]
        except KeyError:
            raise AttributeError(f"rows have no column {name!r}") from None

    def __len__(self) -> int:
        return len(self.tokens)

    def also(self, **columns: Tensor) -> Rows:
        """The same rows with further columns (R, T)."""
        return replace(self, columns=self.columns | columns)

    def take(self, index: Tensor | slice) -> Rows:
        """Some of the rows, in the order of `index`."""
        return Rows(self.tokens[index], self.mask[index], {k: v[index] for k, v in self.columns.items()}, self.block)

    def parts(self, size: int) -> Iterator[Rows]:
        """All rows, in pieces of at most `size` tokens (padding counts), but of one block of rows at least."""
        step = max(size // max(self.tokens.shape[1], 1) // self.block, 1) * self.block
        for first in range(0, len(self), step):
            yield self.take(slice(first, first + step))

    def last_written(self) -> Tensor:
        """(R, T) bool: the last token of each row that the actor wrote."""
        return self.mask & (self.mask.flip(-1).cumsum(-1).flip(-1) == 1)

    def dealt(self, count: int) -> Iterator[Rows]:
        """The rows in random order, in `count` minibatches as even as can be; fewer where there are fewer rows."""
        for index in torch.randperm(len(self)).chunk(min(count, len(self))):
            yield self.take(index)


@dataclass(frozen=True)
class Out:
    """What a model says about rows of tokens; every tensor is aligned with `rows.tokens`.

    `logp` (R, T) is the log-probability of the token at each place that the actor wrote, given what stands before it, in the
    distribution that it is drawn from; 0 elsewhere. `logits` are only ever made at these places.
    """

    logp: Tensor
    rows: Rows | None = None
    hidden: Tensor | None = None  # (R, T, H): what was known when the token at the place had been read
    score: Callable[[Tensor], Tensor] | None = None  # (P, H) -> (P, V), logits divided by the temperature
    modules: dict[str, Any] = field(default_factory=dict)

    @property
    def places(self) -> Tensor:
        """(R, T - 1) bool: where what predicts a written token stands."""
        assert self.rows is not None
        return self.rows.mask[:, 1:]

    @property
    def logits(self) -> Tensor:
        """(P, V) at the P places before written tokens, row by row."""
        assert self.hidden is not None
        assert self.score is not None
        return self.score(self.hidden[:, :-1][self.places])

    def entropy(self) -> Tensor:
        """(R, T): of the distribution that each written token was drawn from, in nats; 0 elsewhere."""
        logp = self.logits.log_softmax(-1)
        return self.placed(-(logp.exp() * logp).sum(-1))

    def logp_entropy(self) -> Tensor:
        """(R, T, 2): both."""
        return torch.stack([self.logp, self.entropy()], -1)

    def placed(self, values: Tensor) -> Tensor:
        """(P,) values of written tokens to their places in (R, T)."""
        inner = torch.zeros(self.places.shape, dtype=values.dtype, device=values.device).masked_scatter(self.places, values)
        return torch.nn.functional.pad(inner, (1, 0))

    def heads(self, name: str, detached: bool = False) -> Tensor:
        """(R, T): a head of one number at each place. `detached`: the rest of the model learns nothing from it."""
        assert self.hidden is not None
        head: Tensor = self.modules[name](self.hidden.detach() if detached else self.hidden)
        return head.squeeze(-1)


@dataclass(frozen=True)
class Turns:
    """R episodes, one a row, and their N turns, an episode's one after the other."""

    tokens: Tensor  # (R, T) int64, padded on the right
    said: Tensor  # (R, T) int64: the turn that sampled this token; -1: it was given, or is padding
    logp: Tensor  # (R, T) float32, of sampled tokens in the distribution that they were drawn from; 0 elsewhere
    row: Tensor  # (N,) int64: the row of each turn
    start: Tensor  # (N,) int64: the place of its first sampled token
    reward: Tensor  # (N,) float32
    discount: Tensor  # (N,) float32: gamma, 0 where the episode terminated with this turn
    ended: Tensor  # (N,) bool: the last turn of its episode, terminated or cut off
    group: Tensor  # (N,) int64: episodes of one task share a number, 0 .. groups - 1
    cut: Tensor  # (N,) bool: the answer was cut off at the limit of tokens
    final: Tensor  # (N,) int64: turns with the same final answer share a number
    soft: dict[str, Tensor] = field(default_factory=dict)  # columns of soft tokens, where there are any: see lm.soft.columns

    def spread(self, values: Tensor) -> Tensor:
        """(N,) to the tokens that each turn sampled: (R, T), 0 elsewhere."""
        return torch.where(self.said >= 0, values[self.said.clamp(min=0)], torch.zeros((), dtype=values.dtype))

    def before(self, values: Tensor) -> Tensor:
        """(N,) to the place before each turn, where the value of a state is read: (R, T), 0 elsewhere."""
        out = torch.zeros(self.tokens.shape, dtype=values.dtype)
        out[self.row, self.start - 1] = values
        return out

    @property
    def stop(self) -> Tensor:
        """(N,) int64: the place of each turn's last sampled token."""
        return self.start + torch.bincount(self.said[self.said >= 0], minlength=len(self.row)) - 1

    def at_stop(self, values: Tensor) -> Tensor:
        """(N,) to the last token that each turn sampled: (R, T), 0 elsewhere."""
        out = torch.zeros(self.tokens.shape, dtype=values.dtype)
        out[self.row, self.stop] = values
        return out

    def prompts(self, which: Tensor) -> list[list[int]]:
        """All that stood before each of these turns."""
        return [self.tokens[r, :n].tolist() for r, n in zip(self.row[which].tolist(), self.start[which].tolist(), strict=True)]

    def rows(self, **columns: Tensor) -> Rows:
        """As a loss is given them; `sampled` is the log-probability that the sampler told."""
        return Rows(self.tokens, self.said >= 0, {"sampled": self.logp, **self.soft, **columns})

    def returns(self) -> Tensor:
        """(R,): the undiscounted sum of each episode's rewards."""
        return torch.zeros(len(self.tokens)).index_add(0, self.row, self.reward)

    def groups(self) -> Tensor:
        """(R,) int64: the group of each episode."""
        return torch.zeros(len(self.tokens), dtype=torch.int64).index_copy(0, self.row, self.group)

    def tensors(self) -> dict[str, Tensor]:
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "soft"} | self.soft


def measured(rows: Rows, logp: Tensor, entropy: Tensor) -> dict[str, Tensor]:
    """Of what a policy says of rows that it has just played, the mean over tokens: the entropy, and how far `logp` lies from what
    was sampled."""
    share = rows.mask / rows.mask.sum().clamp(min=1)
    return {"entropy": (share * entropy).sum(), "mismatch": (share * (rows.mask * (logp - rows.sampled)).abs()).sum()}


def means(told: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Of several steps' metrics the mean of each."""
    return {name: torch.stack([metrics[name] for metrics in told]).mean() for name in told[0]}


@dataclass(frozen=True)
class Played:
    """How a learner that plays is fed."""

    questions: int
    """tasks in an update"""
    group: int
    """episodes of each"""
    gamma: float = 1.0


@dataclass(frozen=True)
class Written:
    """How a learner of written answers is fed."""

    batch_size: int
    """rows in an update"""
    columns: Mapping[str, float] = field(default_factory=dict)
    """numbers of a row that become columns, and what they are where the row has none; a list has one for each token of its
    answer, the end among them, and is 0 at the other tokens"""


@dataclass(frozen=True)
class Paired:
    """How a learner of pairs is fed: rows 2i hold the answer that was chosen, rows 2i + 1 the one that was rejected."""

    batch_size: int
    """pairs in an update"""


@dataclass(frozen=True)
class TextLearner:
    """An algorithm of the language wing, as the engine sees it. Every number that learns is in State or in a model of it."""

    init: Callable[[Any], Any]
    """model -> State"""
    update: Callable[[Any, Any], tuple[Any, dict[str, Tensor]]]
    """(state, turns; of Written and Paired: rows) -> (state, metrics); changes the models and replays of the state in place, and
    nothing else"""
    policy: Callable[[Any], Any]
    """state -> the model that speaks"""
    losses: dict[str, Callable[..., tuple[Tensor, dict[str, Tensor]]]]
    """by name: (out, rows) -> (sum, metrics); none calls a model"""
    experience: Played | Written | Paired
