"""A reward model of answers: a score whose difference says how probable it is that one answer is preferred to another.

Paper: Ouyang et al. 2022, "Training language models to follow instructions with human feedback", arXiv:2203.02155; the model of
preferences is Bradley and Terry's.
Parent: logistic regression, which it is on the last hidden state of each answer.
Departures: it begins with a supervised start's weights only where --start-from names one; a prompt has two answers, not up to 9.
Assumed: the score is read where the answer's end has been read.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from thespis.config import Count, Positive, Rate
from thespis.core import Fault, Metrics
from thespis.lm import Model
from thespis.turns import Out, Paired, Rows, TextLearner, TextSpec


@dataclass(frozen=True)
class Config:
    lr: Rate = 1e-3
    """Adam step size, of a small model (paper, of 6e9 parameters: 9e-6)"""
    max_norm: Positive = 1.0
    """largest norm of the gradient"""
    batch_size: Count = 64
    """pairs in an update (paper: all pairs of 64 prompts)"""


@dataclass(frozen=True)
class State:
    policy: Model
    """with the head "reward\""""


def make(cfg: Config, spec: object) -> TextLearner:
    if not isinstance(spec, TextSpec):
        found = getattr(spec, "action", spec)
        raise Fault(f"text_reward_model: a world that is spoken to is needed, the environment's actions are {found}")

    def reward_loss(out: Out, b: Rows) -> tuple[Tensor, Metrics]:  # arXiv:2203.02155, eq. 1: -log sigmoid(r - r'), a mean
        score = (b.last * out.heads("reward")).sum(-1)
        margin, weight = score[0::2] - score[1::2], b.weight[0::2, 0]
        told = {"accuracy": (margin > 0).float(), "margin": margin}
        loss = -torch.nn.functional.logsigmoid(margin)
        return (weight * loss).sum(), {name: (weight * x).sum() for name, x in told.items()}

    def init(model: Model) -> State:
        model.add_head("reward")
        return State(model)

    def update(s: State, b: Rows) -> tuple[State, Metrics]:
        rows = b.also(weight=torch.full(b.tokens.shape, 2 / len(b)), last=b.last_written())
        return s, s.policy.descend(reward_loss, rows, cfg.lr, cfg.max_norm)

    return TextLearner(init, update, lambda s: s.policy, {"reward": reward_loss}, Paired(cfg.batch_size))
