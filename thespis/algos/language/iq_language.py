"""IQ-Learn for language: the likelihood of written answers, and a penalty on the rewards that its logits imply as soft values.

Paper: Wulfmeier et al. 2024, "Imitating Language via Scalable Inverse Reinforcement Learning", arXiv:2409.01369; the objective is
that of Garg et al. 2021, "IQ-Learn", arXiv:2106.12142, offline.
Parent: sft, which it is at td 0.
Departures: only the offline objective; no KL to the start, and no answers of its own in the batch.
Assumed: the factor of the penalty, which the paper sweeps, is one number, `td`; the value after an answer's end is 0.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from thespis import ops
from thespis.config import Count, Fraction, Natural, NonNegative, Positive, Rate
from thespis.core import Fault, Metrics
from thespis.lm import Model
from thespis.turns import Out, Rows, TextLearner, TextSpec, Written


@dataclass(frozen=True)
class Config:
    lr: Rate = 1e-3
    """Adam step size, of a small model"""
    max_norm: Positive = 1.0
    """largest norm of the gradient"""
    batch_size: Count = 64
    """conversations in an update"""
    td: NonNegative = 0.1
    """weight of the squared reward of each token; 0: maximum likelihood"""
    warmup: Natural = 100
    """updates over which this weight grows from 0: logits at random imply a value of the log of the vocabulary"""
    gamma: Fraction = 1.0
    """discount of a token"""


@dataclass(frozen=True)
class State:
    policy: Model


def rewards(gamma: float = 1.0) -> Callable[[Out], Tensor]:
    """(R, T): Q - gamma V' of each written token, 0 elsewhere. Q is its logit; V' is the log-sum-exp of all logits at the next
    token that is written in its row, and 0 after the last. For `Model.read`, and in the loss."""

    def of(out: Out) -> Tensor:
        value = out.logits.logsumexp(-1)  # (P,)
        row = out.places.nonzero()[:, 0]
        after = torch.nn.functional.pad(torch.where(row[1:] == row[:-1], value[1:], torch.zeros_like(value[1:])), (0, 1))
        return out.logp + out.placed(value - gamma * after)  # Q = log p + V

    return of


def make(cfg: Config, spec: object) -> TextLearner:
    if not isinstance(spec, TextSpec):
        found = getattr(spec, "action", spec)
        raise Fault(f"iq_language: a world that is spoken to is needed, the environment's actions are {found}")
    reward = rewards(cfg.gamma)

    def policy_loss(out: Out, b: Rows) -> tuple[Tensor, Metrics]:  # -log p and r^2 of what was written, means over tokens
        r = reward(out)
        return (b.penalty * r.square() - b.weight * out.logp).sum(), {"reward": (b.weight * r).sum()}

    def update(s: State, b: Rows) -> tuple[State, Metrics]:
        weight = ops.per_token(b.mask) * cfg.gamma ** (b.mask.cumsum(-1) - 1).clamp(min=0)
        td = cfg.td * (s.policy.t / cfg.warmup).clamp(max=1) if cfg.warmup else cfg.td
        return s, s.policy.descend(policy_loss, b.also(weight=weight, penalty=td * weight), cfg.lr, cfg.max_norm)

    return TextLearner(State, update, lambda s: s.policy, {"policy": policy_loss}, Written(cfg.batch_size))
