"""SofT-GRPO: GRPO of answers whose thinking is soft, mixtures of tokens with Gumbel noise, whose density the ratio is of.

Paper: Zheng and Lee 2025, "SofT-GRPO: Surpassing Discrete-Token LLM Reinforcement Learning via Gumbel-Reparameterized
Soft-Thinking Policy Optimization", arXiv:2511.06411; where it and its code differ, the code.
Parent: GRPO (lite_ppo's preset grpo), which it is with think = 0: no token is soft.
Departures: ordinary tokens are drawn from the whole distribution, and mixtures are not cut at a share of 0.95 (top-p).
Assumed: the sign that ends the thinking counts as an ordinary token. Evaluations of the most probable answers have no noise.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from thespis import ops
from thespis.config import Count, Fraction, Natural, NonNegative, Positive, Rate
from thespis.core import Fault, Metrics
from thespis.lm import Model, Soft
from thespis.turns import Out, Played, Rows, TextLearner, TextSpec, Turns, means, measured


@dataclass(frozen=True)
class Config:
    lr: Rate = 2e-4
    """Adam step size, of a small model (paper, of 1.5e9 parameters: 1e-6)"""
    max_norm: Positive = 1.0
    """largest norm of the gradient"""
    questions: Count = 32
    """tasks in an update (paper: 64)"""
    group: Count = 8
    """answers to each (paper: 8)"""
    updates: Count = 2
    """minibatches that the answers are dealt to, each learnt from once (paper: 2)"""
    clip: tuple[Fraction, NonNegative] = (0.2, 0.2)
    """how far the ratio may fall below 1, and rise above, before a token stops to count"""
    kl: NonNegative = 1e-3
    """weight of KL(policy, start) in the loss, soft tokens by their density (paper: 1e-3)"""
    think: Natural = 16
    """soft tokens of an answer at most; 0: none"""
    end: str = "="
    """the one token that ends the thinking"""
    top: Count = 5
    """most probable tokens that are mixed (paper: 5)"""
    tau: Positive = 0.1
    """temperature of the mixture's weights (paper: 0.1)"""
    noise: Positive = 1.0
    """what the noise is multiplied by (paper: 1)"""


@dataclass(frozen=True)
class State:
    policy: Model
    reference: dict[str, Model]
    """{"start": the policy as it began}, where it is held to it"""


def make(cfg: Config, spec: object) -> TextLearner:
    if not isinstance(spec, TextSpec):
        raise Fault(
            f"soft_grpo: a world that is spoken to is needed, the environment's actions are {getattr(spec, 'action', spec)}"
        )

    def policy_loss(out: Out, b: Rows) -> tuple[Tensor, Metrics]:  # GRPO's; of soft tokens logp is the density
        gain, held = ops.clipped(out.logp, b.old, b.advantage, *cfg.clip)
        told = {"clipped": (b.weight * held).sum(), "kl_old": (b.weight * ops.k3(out.logp, b.old)).sum()}
        if not cfg.kl:
            return -(b.weight * gain).sum(), told
        kl = ops.k3(out.logp, b.reference)
        return -(b.weight * (gain - cfg.kl * kl)).sum(), told | {"kl": (b.weight * kl).sum()}

    def init(model: Model) -> State:
        if cfg.think:
            if len(end := model.text.encode(cfg.end)) != 1:
                raise Fault(f"end is {cfg.end!r}, which is {len(end)} tokens of this model's; allowed: one")
            model.soft = Soft(end[0], cfg.think, cfg.top, cfg.tau, cfg.noise)
        return State(model, {"start": model.frozen()} if cfg.kl else {})

    def update(s: State, t: Turns) -> tuple[State, Metrics]:
        returns, plain = t.returns(), t.rows()
        mean, std = ops.by_group(returns, t.groups())
        advantage = (returns - mean) / (std + 1e-6)
        old, entropy = s.policy.read(plain, Out.logp_entropy).unbind(-1)
        rows = plain.also(advantage=t.spread(advantage[t.row]), old=old)
        if cfg.kl:
            rows = rows.also(reference=s.reference["start"].read(plain))
        told = []
        for part in rows.dealt(cfg.updates):
            told.append(s.policy.descend(policy_loss, part.also(weight=ops.per_sequence(part.mask)), cfg.lr, cfg.max_norm))
        soft = plain.soft.sum() if t.soft else torch.zeros(())
        return s, means(told) | measured(plain, old, entropy) | {"soft": soft / plain.mask.sum()}

    return TextLearner(init, update, lambda s: s.policy, {"policy": policy_loss}, Played(cfg.questions, cfg.group))
