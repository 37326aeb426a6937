"""Supervised fine-tuning: makes written answers more probable, token by token.

Paper: Ouyang et al. 2022, "Training language models to follow instructions with human feedback", arXiv:2203.02155.
Parent: maximum likelihood, which it is on the tokens that the actor is to write.
Departures: no learning-rate schedule by default, no packing of several conversations into a row.
Assumed: nothing.
"""

from dataclasses import dataclass
from typing import Annotated

from torch import Tensor

from thespis import ops
from thespis.config import Count, NonNegative, Positive, Range, Rate
from thespis.core import Fault, Metrics
from thespis.lm import Model
from thespis.turns import Out, Rows, TextLearner, TextSpec, Written


@dataclass(frozen=True)
class Config:
    lr: Rate = 1e-3
    """Adam step size, of a small model (the paper's of 1.3e9 parameters: 9.65e-6)"""
    max_norm: Positive = 1.0
    """largest norm of the gradient"""
    batch_size: Count = 64
    """conversations in an update (paper: 32)"""
    smooth: Annotated[float, Range(0, 0.999)] = 0.0
    """share of each token's weight that goes to all tokens alike: label smoothing (arXiv:1512.00567, section 7)"""
    entropy: NonNegative = 0.0
    """weight of the entropy of each token's distribution, which is raised (arXiv:1701.06548, eq. 3)"""


@dataclass(frozen=True)
class State:
    policy: Model


def make(cfg: Config, spec: object) -> TextLearner:
    if not isinstance(spec, TextSpec):
        raise Fault(f"sft: a world that is spoken to is needed, the environment's actions are {getattr(spec, 'action', spec)}")

    def policy_loss(out: Out, b: Rows) -> tuple[Tensor, Metrics]:  # -log p of what was written, a mean over tokens
        if not (cfg.smooth or cfg.entropy):
            return -(b.weight * out.logp).sum(), {}
        logp = out.logits.log_softmax(-1)
        evenly, entropy = out.placed(logp.mean(-1)), out.placed(-(logp.exp() * logp).sum(-1))
        gain = (1 - cfg.smooth) * out.logp + cfg.smooth * evenly + cfg.entropy * entropy
        return -(b.weight * gain).sum(), {"entropy": (b.weight * entropy).sum()}

    def update(s: State, b: Rows) -> tuple[State, Metrics]:
        told = s.policy.descend(policy_loss, b.also(weight=ops.per_token(b.mask)), cfg.lr, cfg.max_norm)
        return s, told

    return TextLearner(State, update, lambda s: s.policy, {"policy": policy_loss}, Written(cfg.batch_size))
