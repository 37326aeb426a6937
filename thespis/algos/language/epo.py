"""EPO: an entropy bonus over all turns of a conversation, and a penalty where entropy leaves the corridor of its past.

Paper: Xu et al. 2025, "EPO: Entropy-regularized Policy Optimization for LLM Agents Reinforcement Learning", arXiv:2509.22576.
Parent: GRPO with a mean over tokens (lite_ppo with spread = group), which it is with entropy = 0.
Departures: no KL to the start, no penalty of invalid actions, which the authors' code adds; the clip has one bound on each side.
The penalty is the paper's, which has a gradient; the code's, which has none, is penalty = constant.
Assumed: past entropies are means over tokens; the weights are for a vocabulary of a few hundred tokens.
"""

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
    """Adam step size, of a small model (paper, of 3e9 parameters: 5e-6)"""
    max_norm: Positive = 1.0
    """largest norm of the gradient"""
    questions: Count = 8
    """tasks in an update (paper: 16)"""
    group: Count = 8
    """episodes of each (paper: 8)"""
    updates: Count = 2
    """minibatches that the episodes are dealt to, each learnt from once"""
    clip: tuple[Fraction, NonNegative] = (0.2, 0.2)
    """how far the ratio may fall below 1, and rise above, before a token stops to count"""
    entropy: NonNegative = 0.01
    """weight of the entropy, less the penalty, in the loss (paper, of 150,000 tokens: 0.001)"""
    smooth: NonNegative = 0.1
    """weight of the penalty beside the entropy (paper's alpha: 0.05 to 0.1); 0: a plain bonus"""
    corridor: tuple[NonNegative, NonNegative] = (0.0, 2.0)
    """bounds of a token's entropy, in means of the past (paper: 0 and 2; with 0 there is no lower bound)"""
    penalty: Literal["hinge", "constant"] = "hinge"
    """how far a token's entropy lies outside (the paper's), or 1 where it does (the code's, without a gradient)"""
    decay: NonNegative = 3.0
    """the penalty's weight falls from 2 to 1 times smooth as exp(-decay k / (over / 2)) does (paper: 3)"""
    over: Count = 150
    """updates that this schedule is made for (paper: 150)"""


@dataclass(frozen=True)
class State:
    policy: Model
    past: Tensor
    """() sum of the updates' mean entropies"""
    done: Tensor
    """() updates"""


def make(cfg: Config, spec: object) -> TextLearner:
    if not isinstance(spec, TextSpec):
        raise Fault(f"epo: a world that is spoken to is needed, the environment's actions are {getattr(spec, 'action', spec)}")

    def policy_loss(out: Out, b: Rows) -> tuple[Tensor, Metrics]:  # L_MT - lambda (L_H - beta_k L_smooth)
        gain, held = ops.clipped(out.logp, b.old, b.advantage, *cfg.clip)
        told = {"clipped": (b.weight * held).sum(), "kl_old": (b.weight * ops.k3(out.logp, b.old)).sum()}
        if not cfg.entropy:
            return -(b.weight * gain).sum(), told
        entropy = out.entropy()
        low, high = (bound * b.usual for bound in cfg.corridor)
        outside = (low - entropy).clamp(min=0) + (entropy - high).clamp(min=0)
        if cfg.penalty == "constant":
            outside = (outside > 0).float()
        bonus = b.nested * (entropy - b.smooth * outside)
        return -(b.weight * gain).sum() - cfg.entropy * bonus.sum(), told | {"outside": (b.weight * (outside > 0)).sum()}

    def init(model: Model) -> State:
        return State(model, torch.zeros(()), torch.zeros(()))

    def update(s: State, t: Turns) -> tuple[State, Metrics]:
        returns, plain = t.returns(), t.rows()
        mean, std = ops.by_group(returns, t.groups())
        advantage = (returns - mean) / (std + 1e-6)
        old, entropy = s.policy.read(plain, Out.logp_entropy).unbind(-1)
        k = float(s.done)
        beta = 1 + torch.tensor(-cfg.decay * k / max(cfg.over // 2, 1)).exp()  # algorithm 1
        usual, smooth = s.past / max(k, 1), beta * cfg.smooth * (k > 0)  # nothing has passed yet: no penalty
        even = torch.ones(plain.mask.shape)
        rows = plain.also(
            advantage=t.spread(advantage[t.row]), old=old, nested=nested(t), usual=usual * even, smooth=smooth * even
        )
        told = []
        for part in rows.dealt(cfg.updates):
            part = part.also(weight=ops.per_token(part.mask), nested=part.nested / len(part))
            told.append(s.policy.descend(policy_loss, part, cfg.lr, cfg.max_norm))
        found = means(told) | measured(plain, old, entropy)
        return replace(s, past=s.past + found["entropy"], done=s.done + 1), found | {"entropy_past": usual}

    return TextLearner(init, update, lambda s: s.policy, {"policy": policy_loss}, Played(cfg.questions, cfg.group))


def nested(t: Turns) -> Tensor:
    """(R, T) weights that make a sum over a row the mean over its turns of the mean over a turn's tokens."""
    tokens = torch.bincount(t.said[t.said >= 0], minlength=len(t.row)).clamp(min=1)
    turns = torch.bincount(t.row, minlength=len(t.tokens))
    return t.spread(1 / (tokens * turns[t.row]))
