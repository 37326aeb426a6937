"""TW-GRPO: tokens at places where the answers to one question differ in what may come next count for more.

Paper: Dang et al. 2025, "Reinforcing Video Reasoning with Focused Thinking", arXiv:2505.24718; where it and its code differ,
the code.
Parent: GRPO with a mean over tokens (lite_ppo with spread = group), which it is with alpha = 1.
Departures: text, no video. The weights are of the policy before the update, once, and not again in each minibatch.
Assumed: nothing. Its questions of several right options, which earn in parts, are the world Choices.
"""

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from thespis import ops
from thespis.config import Count, Fraction, NonNegative, Positive, Range, Rate
from thespis.core import Fault, Metrics
from thespis.lm import Model
from thespis.turns import Out, Played, Rows, TextLearner, TextSpec, Turns, means, measured


@dataclass(frozen=True)
class Config:
    lr: Rate = 2e-4
    """Adam step size, of a small model (paper, of 7e9 parameters: 1e-6)"""
    max_norm: Positive = 1.0
    """largest norm of the gradient (paper: 20)"""
    questions: Count = 32
    """tasks in an update (paper: 2)"""
    group: Count = 8
    """answers to each (paper: 8)"""
    updates: Count = 2
    """minibatches that the answers are dealt to, each learnt from once"""
    clip: tuple[Fraction, NonNegative] = (0.2, 0.2)
    """how far the ratio may fall below 1, and rise above, before a token stops to count"""
    alpha: Annotated[float, Range(1, 100)] = 1.7
    """weight of the place where a question's answers differ most; where they differ least it is 1 (paper: 1.7)"""
    kl: NonNegative = 0.0
    """weight of KL(policy, start) in the loss (paper: 0); above 0 a copy of the start is kept"""


@dataclass(frozen=True)
class State:
    policy: Model
    reference: dict[str, Model]
    """{"start": the policy as it began}, where it is held to it"""


def make(cfg: Config, spec: object) -> TextLearner:
    if not isinstance(spec, TextSpec):
        raise Fault(
            f"tw_grpo: a world that is spoken to is needed, the environment's actions are {getattr(spec, 'action', spec)}"
        )

    def policy_loss(out: Out, b: Rows) -> tuple[Tensor, Metrics]:  # sum of w (gain - kl k3) / number of tokens
        gain, held = ops.clipped(out.logp, b.old, b.advantage, *cfg.clip)
        told = {"clipped": (b.share * held).sum(), "kl_old": (b.share * ops.k3(out.logp, b.old)).sum()}
        if not cfg.kl:
            return -(b.share * b.focus * gain).sum(), told
        kl = ops.k3(out.logp, b.reference)
        return -(b.share * b.focus * (gain - cfg.kl * kl)).sum(), told | {"kl": (b.share * kl).sum()}

    def focus(policy: Model, rows: Rows, group: Tensor) -> Tensor:  # (R, T), from 1 to alpha
        weight, place = torch.ones(rows.mask.shape), (rows.mask.cumsum(-1) - 1).clamp(min=0)
        for g in group.unique():  # a question at a time: the distributions of all would be large
            mine = (group == g).nonzero()[:, 0]
            longest = int(rows.mask[mine].sum(-1).max())
            d = divergence(policy.read(rows.take(mine), lambda out, n=longest: distributions(out, n)))  # type: ignore[misc]
            between = (d - d.min()) / (d.max() - d.min() + 1e-8)
            weight[mine] += (cfg.alpha - 1) * between[place[mine].clamp(max=longest - 1)]
        return weight

    def init(model: Model) -> State:
        return State(model, {"start": model.frozen()} if cfg.kl else {})

    def update(s: State, t: Turns) -> tuple[State, Metrics]:
        returns, group, plain = t.returns(), t.groups(), t.rows()
        mean, std = ops.by_group(returns, group)
        advantage = (returns - mean) / (std + 1e-4)
        old, entropy = s.policy.read(plain, Out.logp_entropy).unbind(-1)
        rows = plain.also(advantage=t.spread(advantage[t.row]), old=old, focus=focus(s.policy, plain, group))
        if cfg.kl:
            rows = rows.also(reference=s.reference["start"].read(plain))
        told = []
        for part in rows.dealt(cfg.updates):
            told.append(s.policy.descend(policy_loss, part.also(share=ops.per_token(part.mask)), cfg.lr, cfg.max_norm))
        written = plain.mask
        return s, means(told) | measured(plain, old, entropy) | {
            "focus": rows.focus[written].mean(),
            "focus_entropy": correlation(rows.focus[written], entropy[written]),
        }

    return TextLearner(init, update, lambda s: s.policy, {"policy": policy_loss}, Played(cfg.questions, cfg.group))


def distributions(out: Out, length: int) -> Tensor:
    """(R, length, V): the log-probabilities of all tokens at the 1st, 2nd, ... written token; uniform where a row has no more."""
    assert out.rows is not None
    logp, mask = out.logits.log_softmax(-1), out.rows.mask
    full = logp.new_full((len(mask), length, logp.shape[-1]), -math.log(logp.shape[-1]))
    full[mask.nonzero()[:, 0], (mask.cumsum(-1) - 1)[mask]] = logp
    return full


def divergence(logp: Tensor) -> Tensor:
    """(G, L, V) to (L,): how far the members lie from the mean of their log-probabilities, sum over V of e^d - d - 1."""
    d = (logp.mean(0) - logp).clamp(-11, 11)
    return (d.exp() - d - 1).sum(-1).mean(0)


def correlation(x: Tensor, y: Tensor) -> Tensor:
    """Pearson's; 0 where one of them is constant."""
    x, y = x - x.mean(), y - y.mean()
    return (x * y).mean() / (x.square().mean() * y.square().mean()).sqrt().clamp(min=1e-12)
