"""Filtered behaviour cloning: of all that was played so far, the best tenth becomes more probable; no critic, no baseline.

Paper: Chen et al. 2021, "Decision Transformer: Reinforcement Learning via Sequence Modeling", arXiv:2106.01345, section 5.1, as
%BC of recorded data; while playing, as here, it is a baseline of arXiv:2402.19446.
Parent: sft, which it is on the episodes that are kept.
Departures: the best are of the episodes that the replay still holds; where many returns are the same as the last that is good
enough, all of these count.
Assumed: nothing.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from thespis import ops
from thespis.config import Count, Fraction, Positive, Rate
from thespis.core import Fault, Metrics
from thespis.data.conversations import Conversations
from thespis.lm import Model
from thespis.turns import Out, Played, Rows, TextLearner, TextSpec, Turns, means, measured


@dataclass(frozen=True)
class Config:
    lr: Rate = 2e-4
    """Adam step size, of a small model"""
    max_norm: Positive = 1.0
    """largest norm of the gradient"""
    questions: Count = 64
    """episodes in an update, each of another task (arXiv:2402.19446: 128)"""
    share: Fraction = 0.1
    """of the episodes, those with the highest returns, which are learnt from (both papers: 0.1)"""
    updates: Count = 3
    """steps in an update (the code of arXiv:2402.19446: 3)"""
    episodes: Count = 64
    """episodes in the batch of a step"""
    capacity: Count = 5_000
    """episodes that the replay holds, 14 bytes for each token of the model's context"""


@dataclass(frozen=True)
class State:
    policy: Model
    replay: Conversations


def make(cfg: Config, spec: object) -> TextLearner:
    if not isinstance(spec, TextSpec):
        raise Fault(
            f"filtered_bc: a world that is spoken to is needed, the environment's actions are {getattr(spec, 'action', spec)}"
        )

    def policy_loss(out: Out, b: Rows) -> tuple[Tensor, Metrics]:
        return -(b.weight * out.logp).sum(), {}

    def init(model: Model) -> State:
        return State(model, Conversations.empty(cfg.capacity, model.context))

    def update(s: State, t: Turns) -> tuple[State, Metrics]:
        plain = t.rows()
        old, entropy = s.policy.read(plain, Out.logp_entropy).unbind(-1)
        s.replay.add(t)
        best = s.replay.best(cfg.share)
        told = []
        for _ in range(cfg.updates):
            rows = s.replay.take(best[torch.randint(len(best), (cfg.episodes,))]).rows()
            told.append(s.policy.descend(policy_loss, rows.also(weight=ops.per_token(rows.mask)), cfg.lr, cfg.max_norm))
        lowest = s.replay.returns[best].min()
        return s, means(told) | measured(plain, old, entropy) | {"return_kept": lowest}

    return TextLearner(init, update, lambda s: s.policy, {"policy": policy_loss}, Played(cfg.questions, 1))
