"""APO: right answers to hard questions may leave the start, and wrong answers that are longer than right ones count for more.

Paper: Hong et al. 2025, "APO: Enhancing Reasoning Ability of MLLMs via Asymmetric Policy Optimization", arXiv:2506.21655; symbols
and numbers are those of its code.
Parent: GRPO (lite_ppo's preset grpo), which it is with adapt = False and base = 1.
Departures: text, no pictures. The weight of the KL and the base are chosen for answers of tens of tokens, not thousands.
Assumed: the clip is 0.2, and the loss a mean over answers of the mean of each; the standard deviation is by n.
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
    """Adam step size, of a small model (paper, of 3e9 parameters: 1e-6)"""
    max_norm: Positive = 1.0
    """largest norm of the gradient"""
    questions: Count = 32
    """tasks in an update (paper: 128)"""
    group: Count = 8
    """answers to each (paper: 8)"""
    updates: Count = 2
    """minibatches that the answers are dealt to, each learnt from once (paper: 2)"""
    clip: tuple[Fraction, NonNegative] = (0.2, 0.2)
    """how far the ratio may fall below 1, and rise above, before a token stops to count"""
    kl: NonNegative = 1e-2
    """weight of KL(policy, start) in the loss (paper: 1e-3)"""
    adapt: bool = True
    """the KL of right answers by how hard their question is (DADS); else its weight is the same for all"""
    base: Annotated[float, Range(1, 2)] = 1.02
    """a wrong answer that is n tokens longer than right ones counts 2 - base^-n times (STCR; paper: 1.00001); 1: once"""
    correct: float = 1.0
    """return from which an answer is right"""


@dataclass(frozen=True)
class State:
    policy: Model
    reference: dict[str, Model]
    """{"start": the policy as it began}, where it is held to it"""


def make(cfg: Config, spec: object) -> TextLearner:
    if not isinstance(spec, TextSpec):
        raise Fault(f"apo: a world that is spoken to is needed, the environment's actions are {getattr(spec, 'action', spec)}")

    def policy_loss(out: Out, b: Rows) -> tuple[Tensor, Metrics]:
        gain, held = ops.clipped(out.logp, b.old, b.advantage, *cfg.clip)
        told = {"clipped": (b.weight * held).sum(), "kl_old": (b.weight * ops.k3(out.logp, b.old)).sum()}
        if not cfg.kl:
            return -(b.weight * gain).sum(), told
        kl = ops.k3(out.logp, b.reference)
        return -(b.weight * (gain - cfg.kl * b.held * kl)).sum(), told | {"kl": (b.weight * kl).sum()}

    def asymmetric(returns: Tensor, length: Tensor, group: Tensor) -> tuple[Tensor, Tensor]:  # (R,): advantages, the KL's weights
        mean, std = ops.by_group(returns, group)
        advantage = (returns - mean) / (std + 1e-9)
        right = (returns >= cfg.correct).float()
        solved, _ = ops.by_group(right, group)
        held = torch.where(
            (advantage > 0) & (solved > 0) & (solved < 1), 1 - (-math.e * solved).exp(), 1.0
        )  # f(d), d = 1 - solved
        usual = ops.by_group(right * length, group)[0] / solved.clamp(min=1e-9)  # mean length of right answers
        excess = torch.where((right == 0) & (solved > 0), length - usual, 0.0).clamp(min=0)
        return advantage * (2 - cfg.base**-excess), held if cfg.adapt else torch.ones_like(held)

    def init(model: Model) -> State:
        return State(model, {"start": model.frozen()} if cfg.kl else {})

    def update(s: State, t: Turns) -> tuple[State, Metrics]:
        returns, group, plain = t.returns(), t.groups(), t.rows()
        length = plain.mask.sum(-1).float()
        advantage, held = asymmetric(returns, length, group)
        old, entropy = s.policy.read(plain, Out.logp_entropy).unbind(-1)
        rows = plain.also(advantage=t.spread(advantage[t.row]), held=t.spread(held[t.row]), old=old)
        if cfg.kl:
            rows = rows.also(reference=s.reference["start"].read(plain))
        told = []
        for part in rows.dealt(cfg.updates):
            told.append(s.policy.descend(policy_loss, part.also(weight=ops.per_sequence(part.mask)), cfg.lr, cfg.max_norm))
        wrong = (returns < cfg.correct).float()
        return s, means(told) | measured(plain, old, entropy) | {
            "held": held.mean(),
            "wrong_length": (wrong * length).sum() / wrong.sum().clamp(min=1),
        }

    return TextLearner(init, update, lambda s: s.policy, {"policy": policy_loss}, Played(cfg.questions, cfg.group))
