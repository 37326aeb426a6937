"""D3S: learns from the answers whose advantages differ most, and in them from the tokens that were least certain.

Paper: Wang et al. 2025, "Learning More with Less: A Dynamic Dual-Level Down-Sampling Framework for Efficient Policy
Optimization", arXiv:2509.22115.
Parent: GRPO with a mean over tokens (lite_ppo with spread = group), which it is where all is kept.
Departures: none that we know of; the authors' code was not at hand, and the equations are second-hand.
Assumed: the shares; tokens are ranked over the batch; the loss is a mean over kept tokens; ties fall at random.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from thespis import ops
from thespis.config import Count, Fraction, NonNegative, Positive, Rate
from thespis.core import Fault, Metrics
from thespis.lm import Model
from thespis.turns import Out, Played, Rows, TextLearner, TextSpec, Turns, means, measured


@dataclass(frozen=True)
class Config:
    lr: Rate = 2e-4
    """Adam step size, of a small model"""
    max_norm: Positive = 1.0
    """largest norm of the gradient"""
    questions: Count = 32
    """tasks in an update"""
    group: Count = 8
    """answers to each"""
    updates: Count = 2
    """minibatches that what is kept is dealt to, each learnt from once"""
    clip: tuple[Fraction, NonNegative] = (0.2, 0.2)
    """how far the ratio may fall below 1, and rise above, before a token stops to count"""
    answers: tuple[Fraction, Fraction] = (0.25, 0.75)
    """share of the answers that is kept, in the first update and in that after as many as over says"""
    tokens: tuple[Fraction, Fraction] = (0.2, 0.6)
    """share of the kept answers' tokens that is kept, likewise"""
    over: Count = 150
    """updates until the second of these shares is reached, along a line"""
    among: Literal["batch", "group", "random"] = "batch"
    """answers are chosen among all, or so many of each question's (D3S-I); random: any, to compare with"""


@dataclass(frozen=True)
class State:
    policy: Model
    done: Tensor
    """() updates"""


def make(cfg: Config, spec: object) -> TextLearner:
    if not isinstance(spec, TextSpec):
        raise Fault(f"d3s: a world that is spoken to is needed, the environment's actions are {getattr(spec, 'action', spec)}")

    def policy_loss(out: Out, b: Rows) -> tuple[Tensor, Metrics]:  # GRPO's, of kept tokens
        gain, held = ops.clipped(out.logp, b.old, b.advantage, *cfg.clip)
        told = {"clipped": (b.weight * held).sum(), "kl_old": (b.weight * ops.k3(out.logp, b.old)).sum()}
        return -(b.weight * gain).sum(), told

    def chosen(advantage: Tensor, group: Tensor, share: float) -> Tensor:  # the indices of answers
        if cfg.among == "random":
            return torch.randperm(len(advantage))[: count(share, len(advantage))]
        pools: Iterator[Tensor] = iter([torch.arange(len(advantage))])
        if cfg.among == "group":
            pools = ((group == g).nonzero()[:, 0] for g in group.unique())
        return torch.cat([pool[extremes(advantage[pool], count(share, len(pool)))] for pool in pools])

    def certain(score: Tensor, mask: Tensor, share: float) -> Tensor:  # (R, T) bool: the tokens with the highest scores
        best = score[mask].topk(count(share, int(mask.sum()))).indices
        return torch.zeros_like(mask).masked_scatter(
            mask, torch.zeros(int(mask.sum()), dtype=torch.bool).index_fill(0, best, True)
        )

    def update(s: State, t: Turns) -> tuple[State, Metrics]:
        returns, group, plain = t.returns(), t.groups(), t.rows()
        mean, std = ops.by_group(returns, group)
        advantage = (returns - mean) / (std + 1e-6)
        old, entropy = s.policy.read(plain, Out.logp_entropy).unbind(-1)
        way = min(float(s.done) / cfg.over, 1.0)
        n, k = ((1 - way) * first + way * last for first, last in (cfg.answers, cfg.tokens))
        index = chosen(advantage, group, n)
        rows = plain.also(advantage=t.spread(advantage[t.row]), old=old, entropy=entropy).take(index)
        rows = replace(rows, mask=certain(rows.advantage.abs() * rows.entropy, rows.mask, k))
        told = []
        for part in rows.dealt(cfg.updates):
            told.append(s.policy.descend(policy_loss, part.also(weight=ops.per_token(part.mask)), cfg.lr, cfg.max_norm))
        return replace(s, done=s.done + 1), means(told) | measured(plain, old, entropy) | {
            "kept": rows.mask.sum() / plain.mask.sum(),
            "advantage_std": advantage[index].std(unbiased=False),
        }

    def init(model: Model) -> State:
        return State(model, torch.zeros(()))

    return TextLearner(init, update, lambda s: s.policy, {"policy": policy_loss}, Played(cfg.questions, cfg.group))


def count(share: float, of: int) -> int:
    return max(math.ceil(share * of - 1e-9), 1)


def extremes(x: Tensor, n: int) -> Tensor:
    """The indices of the `n` numbers whose variance is largest: the m smallest and the n - m largest, for the best m."""
    order = torch.randperm(len(x))  # numbers that are alike are taken at random
    order = order[x[order].argsort(stable=True)]
    y = x[order].double()
    below = torch.arange(n + 1)
    first, second = (torch.cat([p.new_zeros(1), p.cumsum(0)]) for p in (y, y.square()))  # sums of the smallest 0, 1, 2, ...
    total, square = (c[below] + c[-1] - c[len(x) - n + below] for c in (first, second))
    m = int((square / n - (total / n).square()).argmax())
    return torch.cat([order[:m], order[len(x) - n + m :]])
