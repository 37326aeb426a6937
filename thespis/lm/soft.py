"""Soft thinking: until a sign ends it, a model reads mixtures of its likeliest tokens in place of tokens (arXiv:2511.06411)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from thespis.turns import Rows

LOW, HIGH = -1.5, 3.0
"""bounds of the noise, in sampling and in its density alike"""
FLOOR = 1e-6
"""added to a probability before its logarithm"""


@dataclass(frozen=True)
class Soft:
    end: int
    """the token that ends the thinking"""
    longest: int = 16
    """soft tokens at most"""
    top: int = 5
    """tokens of a mixture"""
    tau: float = 0.1
    """temperature of the mixture's weights"""
    noise: float = 1.0
    """what Gumbel noise is multiplied by"""


def scores(logits: Tensor, ids: Tensor) -> Tensor:
    """(P, V), (P, k) -> (P, k): the logarithms of these tokens' probabilities, which sum to 1."""
    return (logits.gather(-1, ids).softmax(-1) + FLOOR).log()


def density(logits: Tensor, ids: Tensor, g: Tensor, noise: float) -> Tensor:
    """(P,): the log-density of the scores with noise, `g` (P, k): a mean over tokens of more than e^-3 of their probability."""
    score = scores(logits, ids)
    e = ((g - score) / noise).clamp(LOW, HIGH)
    counts = (score > -3).float()
    return (counts * (-e - (-e).exp())).sum(-1) / counts.sum(-1)


def mixture(table: Tensor, ids: Tensor, g: Tensor, tau: float) -> Tensor:
    """(..., k) -> (..., H): what is read in place of a token's embedding."""
    return ((g / tau).softmax(-1)[..., None] * table[ids]).sum(-2)


@torch.no_grad()
def sample(
    model: Any,
    soft: Soft,
    prompts: Sequence[Sequence[int]],
    limit: int,
    rng: torch.Generator | None,
    greedy: bool,
    asked: Sequence[int] | None = None,
) -> list[tuple[list[int], list[float], list[tuple[list[int], list[float]] | None]]]:
    """As Model.sample, and of each token the ids and noisy scores of its mixture; None: it is an ordinary token. A soft token is
    told as the one of most weight. `greedy`: without noise."""
    table = model.module.get_input_embeddings().weight
    answers: list[tuple[list[int], list[float], list[tuple[list[int], list[float]] | None]]] = [([], [], []) for _ in prompts]
    hidden, cache, there = model.begin(prompts, asked)
    alive, thinks = torch.arange(len(prompts)), torch.ones(len(prompts), dtype=torch.bool)
    position = there.sum(1)
    for i in range(limit):
        logits = model._score(hidden)
        logp = logits.log_softmax(-1)
        plain = logp.argmax(-1) if greedy else torch.multinomial(logp.exp(), 1, generator=rng)[:, 0]
        ids = logp.topk(soft.top, -1).indices
        eps = torch.zeros(ids.shape) if greedy else -(-torch.rand(ids.shape, generator=rng).clamp(1e-9).log()).log()
        g = scores(logits, ids) + soft.noise * eps.clamp(LOW, HIGH)
        most = ids.gather(1, g.argmax(-1, keepdim=True))[:, 0]
        thinks = thinks & (i < soft.longest)
        token = torch.where(thinks, most, plain)
        thinks = thinks & (most != soft.end) & (most != model.text.end)  # these two signs are ordinary tokens
        value = torch.where(thinks, density(logits, ids, g, soft.noise), logp.gather(1, token[:, None])[:, 0])
        for r, t, v, is_soft, a, b in zip(*(x.tolist() for x in (alive, token, value, thinks, ids, g)), strict=True):
            answers[r][0].append(t)
            answers[r][1].append(v)
            answers[r][2].append((a, b) if is_soft else None)
        goes_on = token != model.text.end
        if i == limit - 1 or not goes_on.any():
            break
        given = torch.where(thinks[:, None], mixture(table, ids, g, soft.tau), table[token])
        if not goes_on.all():
            cache.batch_select_indices(goes_on.nonzero()[:, 0])
            alive, given, there, position, thinks = (x[goes_on] for x in (alive, given, there, position, thinks))
        there = torch.cat([there, there.new_ones(len(there), 1)], 1)
        hidden, cache = model._read_on(given[:, None], there, position[:, None], cache)
        position = position + 1
    return answers


def embeddings(model: Any, soft: Soft, rows: Rows) -> Tensor:
    """(R, T, H): what the model reads of rows with soft tokens; no gradient goes through the mixtures."""
    table = model.module.get_input_embeddings()
    mixed = mixture(table.weight.detach(), rows.soft_ids, rows.soft_g, soft.tau)
    return torch.where(rows.soft[..., None], mixed, table(rows.tokens))


def columns(talks: Sequence[Sequence[tuple[list[int], list[float]] | None]], width: int) -> dict[str, Tensor]:
    """Of each row's tokens the mixtures, as columns of Rows: `soft` (R, width) bool, `soft_ids` and `soft_g` (R, width, k)."""
    k = next((len(x[0]) for talk in talks for x in talk if x), 0)
    if not k:
        return {}
    there = torch.zeros(len(talks), width, dtype=torch.bool)
    ids, g = torch.zeros(len(talks), width, k, dtype=torch.int64), torch.zeros(len(talks), width, k)
    for r, talk in enumerate(talks):
        for t, x in enumerate(talk):
            if x:
                there[r, t], ids[r, t], g[r, t] = True, torch.tensor(x[0]), torch.tensor(x[1])
    return {"soft": there, "soft_ids": ids, "soft_g": g}
