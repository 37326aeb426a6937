"""COPO: answers that all earn the same still teach, by how often their question is solved beside the others of the batch.

Paper: Han et al. 2025, "Consistency-Aware Policy Optimization", arXiv:2508.04138.
Parent: GRPO (lite_ppo with spread = group, average = sequence), which it is with mix =
blended and a rho far below 0: the gate is open.
Departures: none that we know of; the authors' code was not at hand, and the equations are second-hand.
Assumed: no KL to the start; both clips are 0.2; a standard deviation is by n; all wrong: no answer earned anything.
"""

from dataclasses import dataclass
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
    """Adam step size, of a small model (paper, of 3e9 parameters: 1e-6)"""
    max_norm: Positive = 1.0
    """largest norm of the gradient"""
    questions: Count = 32
    """tasks in an update, which the statistics of the batch are of (paper: 512)"""
    group: Count = 6
    """answers to each (paper: 6)"""
    updates: Count = 2
    """minibatches that the answers are dealt to, each learnt from once (paper: 32)"""
    clip: tuple[Fraction, NonNegative] = (0.2, 0.2)
    """how far the ratio may fall below 1, and rise above, before a token stops to count"""
    gamma: Positive = 20.0
    """steepness of the gate (paper: 20)"""
    rho: float = 1.5
    """nats of the final answers' entropy at which the gate is half open (paper: 1.5; six answers have at most ln 6 = 1.79)"""
    mix: Literal["full", "blended", "selective", "global"] = "full"
    """full: the gate, and the batch's advantage alone for questions that are all wrong; blended: the gate for all; selective:
    the batch's advantage for questions that are all wrong, the group's for the others; global: the batch's for all"""


@dataclass(frozen=True)
class State:
    policy: Model


def make(cfg: Config, spec: object) -> TextLearner:
    if not isinstance(spec, TextSpec):
        raise Fault(f"copo: a world that is spoken to is needed, the environment's actions are {getattr(spec, 'action', spec)}")

    def policy_loss(out: Out, b: Rows) -> tuple[Tensor, Metrics]:  # w L_local + (1 - w) L_global
        local, held = ops.clipped(out.logp, b.old, b.local, *cfg.clip)
        whole, _ = ops.clipped(out.logp, b.old, b.whole, *cfg.clip)
        told = {"clipped": (b.weight * held).sum(), "kl_old": (b.weight * ops.k3(out.logp, b.old)).sum()}
        return -(b.weight * (b.gate * local + (1 - b.gate) * whole)).sum(), told

    def gates(returns: Tensor, group: Tensor, final: Tensor) -> tuple[Tensor, Tensor]:  # (R,): w_local, H
        together = group[:, None] == group
        share = (together & (final[:, None] == final)).sum(1) / together.sum(1)
        entropy, _ = ops.by_group(-share.log(), group)  # -sum p log p over the distinct final answers of a question
        gate = torch.sigmoid(cfg.gamma * (entropy - cfg.rho))
        earned, _ = ops.by_group((returns > 0).float(), group)
        some = (earned > 0).float()  # 0 where all are wrong
        return {"full": gate * some, "blended": gate, "selective": some, "global": torch.zeros_like(gate)}[cfg.mix], entropy

    def update(s: State, t: Turns) -> tuple[State, Metrics]:
        returns, group, plain = t.returns(), t.groups(), t.rows()
        mean, std = ops.by_group(returns, group)
        local = (returns - mean) / (std + 1e-6)
        whole = (mean - mean.mean()) / (mean.std(unbiased=False) + 1e-6)  # one number for all answers to a question
        gate, diverse = gates(returns, group, t.final[t.ended])
        old, entropy = s.policy.read(plain, Out.logp_entropy).unbind(-1)
        rows = plain.also(old=old, **{n: t.spread(x[t.row]) for n, x in (("local", local), ("whole", whole), ("gate", gate))})
        told = []
        for part in rows.dealt(cfg.updates):
            told.append(s.policy.descend(policy_loss, part.also(weight=ops.per_sequence(part.mask)), cfg.lr, cfg.max_norm))
        return s, means(told) | measured(plain, old, entropy) | {
            "answers_entropy": diverse.mean(),
            "gate": gate.mean(),
            "without_gradient": ((gate * local).abs() + ((1 - gate) * whole).abs() < 1e-3).float().mean(),
        }

    return TextLearner(State, update, lambda s: s.policy, {"policy": policy_loss}, Played(cfg.questions, cfg.group))
