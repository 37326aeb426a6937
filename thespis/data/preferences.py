"""Episodes held against each other: what a rater is, and the comparisons of a rollout."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from thespis.core import Batch, Fault, tree, tree_map


class Episode(NamedTuple):
    """A whole one of T steps, as a learner saw it."""

    obs: Tensor
    """(T, obs)"""
    action: Tensor
    """(T, ...), as core.Batch has it"""
    reward: Tensor
    """(T,), the environment's own; a rater need not look at it"""


Rater = Callable[[Episode, Episode], float]
"""(first, second) -> the chance, from 0 to 1, that the first is preferred. What it draws, it draws from torch's generator."""


def higher_return(first: Episode, second: Episode) -> float:
    """The rater where none is named: the higher return is preferred; equal ones are level."""
    return float(torch.heaviside((first.reward.double().sum() - second.reward.double().sum()), torch.tensor(0.5).double()))


def rater(name: str | None) -> Rater:
    """By "module:function"; None: higher_return. Fault: there is none of that name."""
    if name is None:
        return higher_return
    module, _, function = name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # as for an environment's module
    try:
        found = getattr(importlib.import_module(module), function)
    except Exception as error:
        raise Fault(f"rater is {name!r}, which cannot be imported ({_words(error)})") from error
    if not callable(found):
        raise Fault(f"rater is {name!r}, which is a {type(found).__name__} and cannot be called")
    return found


@tree
class Compared:
    """Of one rollout of T steps in N environments."""

    episode: Tensor
    """(T, N), the number of each step's episode; T * N for a step whose episode is not whole"""
    first: Tensor
    """(K,), the numbers of the episodes on one side of each comparison"""
    second: Tensor
    """(K,), on the other"""
    won: Tensor
    """(K,), the chance that the first is preferred"""
    weight: Tensor
    """(K,), 1; all 0 where there are fewer than two whole episodes"""


def compared(rollout: Batch, rate: Rater, comparisons: int) -> Compared:
    """So many comparisons of two different whole episodes of a rollout (T, N, ...) that began with new ones, drawn at random.

    An episode that the rollout's end cut off is not whole. Fault: an answer that is no number from 0 to 1.
    """
    ended, over = rollout.extra["ended"], rollout.discount == 0
    steps, count = ended.shape
    number, found = torch.full((steps, count), steps * count), list[Episode]()
    columns = tree_map(lambda x: x.cpu(), Batch(rollout.obs, rollout.action, rollout.reward, rollout.discount, rollout.obs))
    for env in range(count):
        start = 0
        for t in torch.nonzero(ended[:, env])[:, 0].tolist():
            if t < steps - 1 or bool(over[t, env]):
                number[start : t + 1, env] = len(found)
                found.append(Episode(*(x[start : t + 1, env] for x in (columns.obs, columns.action, columns.reward))))
            start = t + 1
    if len(found) < 2:
        none = torch.zeros(comparisons, dtype=torch.long)
        told = Compared(number, none, none, torch.full((comparisons,), 0.5), torch.zeros(comparisons))
        return tree_map(lambda x: x.to(ended.device), told)
    first = torch.randint(len(found), (comparisons,))
    second = (first + torch.randint(1, len(found), (comparisons,))) % len(found)
    won = [_answer(rate, found[i], found[j]) for i, j in zip(first.tolist(), second.tolist(), strict=True)]
    told = Compared(number, first, second, torch.tensor(won), torch.ones(comparisons))
    return tree_map(lambda x: x.to(ended.device), told)


def _answer(rate: Rater, first: Episode, second: Episode) -> float:
    try:
        answer = float(rate(first, second))
    except Fault:
        raise
    except Exception as error:
        raise Fault(f"the rater raised {_words(error)}") from error
    if not 0 <= answer <= 1:
        raise Fault(f"the rater answered {answer:g}; allowed: from 0 (the second is preferred) to 1 (the first is)")
    return answer


def _words(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def win_rates(found: Compared) -> Tensor:
    """Of each whole episode over its comparisons, (T * N,) by number; 0.5 where it has none."""
    none = torch.zeros_like(found.episode, dtype=found.won.dtype).flatten()
    numbers = torch.cat([found.first, found.second])
    won, weight = torch.cat([found.won, 1 - found.won]), found.weight.repeat(2)
    total = none.index_add(0, numbers, (won - 0.5) * weight)
    return 0.5 + total / none.index_add(0, numbers, weight).clamp(min=1)
