"""The parts of an action, whatever its kind: a vector of `dim` numbers, and choices beside it, the i-th one of ns[i]."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from thespis.core import Box, Discrete, Mixed, MultiDiscrete, Spec

Action = Box | Discrete | MultiDiscrete | Mixed
FORBIDDEN = -1e9
"""the logit of a choice that the mask forbids: its probability is 0, and 0 times its logarithm is 0, where -inf gives nan"""


def sizes(kind: Action) -> tuple[int, tuple[int, ...]]:
    """(dim, ns): 0 where there is no vector, () where there are no choices."""
    dim = kind.dim if isinstance(kind, Box | Mixed) else 0
    return dim, (kind.n,) if isinstance(kind, Discrete) else () if isinstance(kind, Box) else kind.ns


def parts(kind: Action, action: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The vector (..., dim) and the choices, (...) integers each, of actions laid out as core.Batch says."""
    if isinstance(kind, Box):
        return action, ()
    if isinstance(kind, Discrete):
        return action[..., None][..., :0], (action,)
    dim = sizes(kind)[0]
    return action[..., :dim], action[..., dim:].long().unbind(-1)


def joined(kind: Action, vector: Tensor | None, choices: Sequence[Tensor]) -> Tensor:
    """The inverse of `parts`. A vector of no numbers may be None."""
    if isinstance(kind, Discrete):
        return choices[0]
    if isinstance(kind, MultiDiscrete):
        return torch.stack([*choices], -1)
    assert vector is not None
    return torch.cat([vector, *(choice[..., None] for choice in choices)], -1) if choices else vector


def features(kind: Action, action: Tensor) -> Tensor:
    """What a network is shown of an action, (..., dim + sum of ns): the vector as it is, and each choice one-hot."""
    vector, choices = parts(kind, action)
    hot = [choice[..., None] == torch.arange(n, device=action.device) for choice, n in zip(choices, sizes(kind)[1], strict=True)]
    return torch.cat([vector, *hot], -1) if isinstance(kind, Mixed) else torch.cat(hot, -1) if hot else vector


def pick(rows: Tensor, index: Tensor) -> Tensor:
    """rows[b, index[b]] for every b: of (B, K, ...) and (B,) the (B, ...)."""
    at = index[(..., *[None] * (rows.dim() - 1))]
    return rows.gather(1, at.expand(-1, -1, *rows.shape[2:])).squeeze(1)


def allowed(spec: Spec, obs: Tensor) -> Tensor | None:
    """The action mask of observations (..., obs): (..., sum of ns), True where a choice is allowed. None: there is none."""
    return obs[..., -spec.mask :] > 0.5 if spec.mask else None


def masked(logits: Tensor, mask: Tensor | None) -> Tensor:
    """Logits (..., n) with those of forbidden choices so low that they are never taken."""
    return logits if mask is None else logits.masked_fill(~mask, FORBIDDEN)


def ravelled(choices: Sequence[Tensor], ns: Sequence[int]) -> Tensor:
    """The number, (...), of a combination of choices, (...) each, of ns: row-major, as numpy.ravel_multi_index counts."""
    index = choices[0]
    for choice, n in zip(choices[1:], ns[1:], strict=True):
        index = index * n + choice
    return index


def unravelled(index: Tensor, ns: Sequence[int]) -> list[Tensor]:
    """The inverse of `ravelled`."""
    choices: list[Tensor] = []
    for n in reversed(ns):
        choices.insert(0, index % n)
        index = index // n
    return choices


def combinations(mask: Tensor, ns: Sequence[int]) -> Tensor:
    """Which combinations an action mask (..., sum of ns) allows, (..., product of ns): those whose every choice is allowed."""
    first, *others = mask.split(tuple(ns), -1)
    for other in others:
        first = (first.unsqueeze(-1) & other.unsqueeze(-2)).flatten(-2)
    return first
