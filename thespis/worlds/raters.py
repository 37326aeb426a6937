"""Who says which of two episodes is better: `--rater thespis.worlds.raters:NAME`. Each gives the chance, from 0 to 1, that the
first is preferred."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

__all__ = ["cycle", "often_mistaken", "share", "shares_a_third"]


class Episode(Protocol):
    """What of data.Episode is looked at here."""

    action: Tensor
    reward: Tensor


def often_mistaken(first: Episode, second: Episode) -> float:
    """The higher return, but that three answers in ten are turned round."""
    gap = float(first.reward.double().sum() - second.reward.double().sum())
    right = 0.5 if gap == 0 else float(gap > 0)
    return 1 - right if float(torch.rand(())) < 0.3 else right


def cycle(first: Episode, second: Episode) -> float:
    """Stone, paper, scissors, by the first action of an episode: 1 beats 0, 2 beats 1, 0 beats 2."""
    return (0.5, 1.0, 0.0)[int(first.action[0] - second.action[0]) % 3]


def share(episode: Episode) -> float:
    """How much of an episode its action 0 has."""
    return float((episode.action == 0).float().mean())


def shares_a_third(first: Episode, second: Episode) -> float:
    """Whose share of action 0 is nearer to a third. No sum of rewards of single steps says so."""
    gap = abs(share(second) - 1 / 3) - abs(share(first) - 1 / 3)
    return 0.5 if abs(gap) < 1e-6 else float(gap > 0)
