"""A buffer of levels, and which of them are played: the ones that score high, and the ones that were not played for long.

Prioritised level replay (Jiang et al. 2021, arXiv:2010.03934). All is tensors of a fixed size, so that a State holds it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from thespis.core import Batch, Fault, replace, tree

EMPTY = -1.0
"""the score of a place whose level was not played yet, or that has none; other scores are not negative"""


@tree
class Levels:
    """K places for levels of C numbers; the first `given` hold data, and keep it."""

    rows: Tensor  # (K, C)
    score: Tensor  # (K,), EMPTY where not known
    played: Tensor  # (K,), the round in which each was last played
    best: Tensor  # (K,), the highest return of an episode in it
    given: Tensor  # ()
    round: Tensor  # (), of those so far

    @property
    def known(self) -> Tensor:
        """(K,) bool: there is a score"""
        return self.score > EMPTY

    @property
    def protected(self) -> Tensor:
        """(K,) bool: it is data"""
        return torch.arange(len(self.score), device=self.score.device) < self.given


def empty(places: int, numbers: int) -> Levels:
    zero = torch.zeros(places)
    return Levels(torch.zeros(places, numbers), zero + EMPTY, zero, zero, torch.zeros(()), torch.zeros(()))


def filled(levels: Levels, data: Tensor) -> Levels:
    """With data (D, C), D <= K, in the first places."""
    return replace(levels, rows=torch.cat([data, levels.rows[len(data) :]]), given=torch.tensor(float(len(data))))


def ranked(score: Tensor, among: Tensor, temperature: float) -> Tensor:
    """Chances (K,) proportional to (1 / rank)^(1 / temperature), the highest score having rank 1, of those `among` (K,) bool; 0
    where there are none (arXiv:2010.03934, eq. 3)."""
    order = torch.where(among, score, -torch.inf).argsort(descending=True, stable=True)
    rank = torch.zeros_like(score).scatter(0, order, torch.arange(1.0, len(score) + 1, device=score.device, dtype=score.dtype))
    return shares(rank.pow(-1 / temperature), among)


def stale(levels: Levels, among: Tensor) -> Tensor:
    """Chances (K,) proportional to the rounds since each was played (arXiv:2010.03934, eq. 4)."""
    return shares(levels.round - levels.played, among)


def shares(weight: Tensor, among: Tensor) -> Tensor:
    """Chances (K,) by weight of those `among`; the same for all of them where each weight is 0; all 0 where there are none."""
    weight = torch.where(among, weight, 0.0)
    weight = torch.where(weight.sum() > 0, weight, among.type_as(weight))
    return weight / weight.sum().clamp(min=1e-12)


def scored(levels: Levels, place: Tensor, score: Tensor, best: Tensor) -> Levels:
    """After a round in which n environments were in levels: their places (n,), below 0 for one that has none; scores (n,), of
    which a level gets the mean; and highest returns (n,)."""
    k, mine = len(levels.score), place >= 0
    at = torch.where(mine, place, k).long()  # those without a place go to one more

    def gathered(x: Tensor) -> Tensor:
        return torch.zeros(k + 1, dtype=x.dtype, device=x.device).index_add(0, at, x)[:k]

    count = gathered(torch.ones_like(score))
    now, here = levels.round + 1, count > 0
    highest = torch.cat([levels.best, levels.best[:1]]).scatter_reduce(0, at, best, "amax")[:k]
    mean = torch.where(here, gathered(score) / count.clamp(min=1), levels.score)
    return replace(levels, score=mean, best=highest, played=torch.where(here, now, levels.played), round=now)


def insert(levels: Levels, rows: Tensor, score: Tensor, best: Tensor, new: Tensor) -> tuple[Levels, Tensor]:
    """The K best of those there and of rows (n, C) that are `new` (n,) bool, by score; data stay. Returns also which of n came
    in, (n,) bool."""
    k, n = len(levels.score), len(score)
    first = torch.cat([torch.where(levels.protected, torch.inf, levels.score), torch.where(new, score, EMPTY - 1)])
    kept = first.argsort(descending=True, stable=True)[:k].sort().values

    def of(old: Tensor, more: Tensor) -> Tensor:
        return torch.cat([old, more])[kept]

    came = torch.zeros(k + n, dtype=torch.bool, device=score.device).index_fill(0, kept, True)[k:]
    played = of(levels.played, levels.round.expand(n))
    return replace(
        levels, rows=of(levels.rows, rows), score=of(levels.score, score), played=played, best=of(levels.best, best)
    ), came


def highest(reward: Tensor, ended: Tensor) -> Tensor:
    """The highest return (N,) that an episode of a rollout, reward and ended (T, N), had at any of its steps."""
    total, most = torch.zeros_like(reward[0]), torch.full_like(reward[0], -torch.inf)
    for r, over in zip(reward, ended, strict=True):
        total = total + r
        most, total = torch.maximum(most, total), torch.where(over, 0.0, total)
    return most


def groups(ns: Sequence[int]) -> list[tuple[int, list[int], Tensor]]:
    """The numbers of a level by how many choices they have: (count, their columns, where their logits stand (columns, count))."""
    first = torch.tensor([0, *ns]).cumsum(0)
    found = [(count, [i for i, m in enumerate(ns) if m == count]) for count in sorted(set(ns))]
    return [(count, columns, first[columns][:, None] + torch.arange(count)) for count, columns in found]


def one_hot(rows: Tensor, ns: Sequence[int]) -> Tensor:
    """Levels (n, C) as 0 and 1, (n, sum of ns)."""
    first = torch.tensor([0, *ns[:-1]], device=rows.device).cumsum(0)
    return torch.zeros(len(rows), sum(ns), dtype=rows.dtype, device=rows.device).scatter(1, rows.long() + first, 1.0)


def log_prob(logits: Tensor, rows: Tensor, ns: Sequence[int]) -> Tensor:
    """Of levels (n, C) whose numbers are drawn by logits (n, sum of ns), each by itself: (n,)."""
    total = torch.zeros_like(logits[:, 0])
    for _, columns, places in groups(ns):
        logp = logits[:, places].log_softmax(-1)
        total = total + logp.gather(-1, rows[:, columns, None].long())[..., 0].sum(-1)
    return total


def drawn(logits: Tensor, ns: Sequence[int]) -> Tensor:
    """Levels (n, C) by logits (n, sum of ns)."""
    out = torch.zeros(len(logits), len(ns), dtype=logits.dtype, device=logits.device)
    for _, columns, places in groups(ns):
        noisy = logits[:, places] - torch.empty_like(logits[:, places]).exponential_().log()
        out[:, columns] = noisy.argmax(-1).type_as(out)
    return out


def random(ns: Sequence[int], n: int, like: Tensor) -> Tensor:
    """n levels (n, C) without any thought: numbers with the same count of choices are drawn from one distribution, which each
    level draws anew, evenly from all that there are (a flat Dirichlet). Device and type are those of `like`."""
    logits = torch.zeros(n, sum(ns), dtype=like.dtype, device=like.device)
    for count, _, places in groups(ns):
        weight = torch.empty(n, 1, count, dtype=like.dtype, device=like.device).exponential_()
        logits[:, places] = weight.log().expand(-1, len(places), -1)
    return drawn(logits, ns)


def slerp(one: Tensor, two: Tensor, at: Tensor) -> Tensor:
    """From one (n, D) to two along the great circle, at (n, 1) of the way; straight where they are nearly parallel."""
    unit = [x / x.norm(dim=-1, keepdim=True).clamp(min=1e-12) for x in (one, two)]
    cosine = (unit[0] * unit[1]).sum(-1, keepdim=True)
    angle = cosine.clamp(-1, 1).acos()
    curved = (((1 - at) * angle).sin() * one + (at * angle).sin() * two) / angle.sin().clamp(min=1e-12)
    return torch.where(cosine.abs() > 0.955, torch.lerp(one, two, at), curved)


def edited(rows: Tensor, ns: Sequence[int], edits: int) -> Tensor:
    """Levels (n, C) in each of which `edits` random places were given a random choice."""
    count = torch.tensor(ns, device=rows.device)
    for _ in range(edits):
        at = torch.randint(len(ns), (len(rows), 1), device=rows.device)
        rows = rows.scatter(1, at, (torch.rand(len(rows), 1, device=rows.device) * count[at]).floor().type_as(rows))
    return rows


def distinct(data: Batch, most: int, ns: Sequence[int]) -> Tensor:
    """The levels (D, C) of a dataset's rows, each once. Fault: they do not say in which level they are, or in none such;
    or D is above `most`."""
    if "context" not in data.extra:
        raise Fault("data has no levels: the column contexts must say in which one each row is")
    rows = data.extra["context"].unique(dim=0)
    if rows.shape[1] != len(ns) or bool(((rows < 0) | (rows >= torch.tensor(ns)) | (rows != rows.round())).any()):
        raise Fault(f"data: contexts are rows of {rows.shape[1]} numbers; a level here has {len(ns)}, whole and from 0 up")
    if len(rows) > most:
        raise Fault(f"buffer is {most}; the data have {len(rows)} levels, and it must have room for all of them")
    return rows
