"""RAD: which rows to ask a teacher about who is sometimes wrong: uncertain ones, but no few that mistakes could be among.

Paper: Baykal, Trinh, Iliopoulos, Menghani, Vee 2023, "Robust Active Distillation", ICLR 2023, arXiv:2210.01213.
Parent: classifier, which it becomes where every row is labelled; with error 0 it asks as margin sampling does.
Departures: an answer is a class, not a distribution; the rows to ask about in a round are drawn together, by the chances that
solve the paper's game for so many questions with none asked twice (the paper: one question; the rest is assumed).
Assumed: of the paper the abstract was read, the game is derived anew (ops/sampling.py); error is measured on labelled rows
beforehand.
Data: a row a point, its action a class: of the first `labelled` rows the right one, of the others the teacher's answer, which
is unknown until it is asked for.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from thespis import nets, ops
from thespis.config import Count, Fraction, Natural, NonNegative, Rate
from thespis.core import Batch, Discrete, Fault, Learner, Metrics, Params, Spec, Trained, replace, tree
from thespis.data import Offline
from thespis.optim import descend, fresh


@dataclass(frozen=True)
class Config:
    choose: Literal["rad", "uniform", "margin", "entropy"] = "rad"
    """how rows are chosen: by the game against mistakes; evenly; the least sure by margin, or by entropy"""
    error: Fraction = 0.25
    """the share of the teacher's answers that are wrong, as measured on labelled rows; rad alone uses it"""
    labelled: Count = 100
    """the first rows of the data, whose classes are known from the beginning"""
    budget: Count = 100
    """questions in a round"""
    rounds: Natural = 3
    """how many rounds of questions there are"""
    ask_every: Count = 300
    """updates before each round"""
    lr: Rate = 1e-3
    """Adam step size"""
    hidden: tuple[Count, ...] = (64,)
    """widths of the hidden layers, ReLU between them"""
    decay: NonNegative = 0.0
    """weight decay of AdamW"""
    batch_size: Count = 64
    """rows in an update, drawn from those whose class is known"""


@tree
class State:
    actor: Trained
    rows: Tensor
    """(n, obs): those of the data"""
    answers: Tensor
    """(n, classes): the class of each, as 0 and 1"""
    known: Tensor
    """(n,): 1 where it is known, or was asked for"""
    round: Tensor


def make(cfg: Config, spec: Spec, actor: nets.Build | None = None) -> Learner:
    """`actor(spec)`: your own module, obs -> a logit a class."""
    if not isinstance(spec.action, Discrete):
        raise Fault(f"rad: one choice is needed, the class; the environment's actions are {spec.action}")
    obs_dim, classes = spec.obs.dim, spec.action.n
    net = nets.custom(actor, spec, obs_dim, classes) or nets.mlp((obs_dim, *cfg.hidden, classes))

    def drawn(s: State) -> Tensor:  # batch_size rows, with replacement, of those that are known
        return ops.choice(torch.where(s.known.sum() > 0, s.known, 1.0), cfg.batch_size)

    def actor_loss(p: Params, rows: Tensor, answers: Tensor) -> tuple[Tensor, Metrics]:
        logits = net.apply(p, rows)
        right = (logits.argmax(-1) == answers.argmax(-1)).type_as(logits).mean()
        return cross_entropy(logits, answers), {"accuracy": right}

    def asked(s: State) -> tuple[State, Metrics]:  # a round of questions
        logp = net.apply(s.actor.params, s.rows).log_softmax(-1)
        prob, free = logp.exp(), 1 - s.known
        two = prob.topk(2, -1).values
        gain = 1 - (two[:, 0] - two[:, 1])
        if cfg.choose == "rad":
            chance = ops.robust_chances(gain, free, cfg.budget, cfg.error * free.sum())
        elif cfg.choose == "uniform":
            chance = free * (cfg.budget / free.sum().clamp(min=1)).clamp(max=1)
        else:
            unsure = gain if cfg.choose == "margin" else -(prob * logp).sum(-1)
            place = torch.where(free > 0, unsure, -1.0).argsort(descending=True).argsort()
            chance = free * (place < cfg.budget)
        new = ops.systematic(chance.type_as(gain)) * (s.round < cfg.rounds)
        known = (s.known + new).clamp(max=1)
        told = {"asked": new.sum(), "gain": (new * gain).sum() / new.sum().clamp(min=1)}
        return replace(s, known=known, round=s.round + 1), told

    def init() -> State:
        one = torch.zeros(1)
        return State(fresh(net.init()), torch.ones(1, obs_dim), torch.full((1, classes), 1 / classes), one, torch.zeros(()))

    def given(s: State, data: Batch) -> State:
        known = torch.arange(len(data.obs), device=data.obs.device) < cfg.labelled
        answers = torch.nn.functional.one_hot(data.action.long(), classes).type_as(data.obs)
        return replace(s, rows=data.obs.clone(), answers=answers, known=known.type_as(data.obs))

    def update(s: State, b: Batch, k: int = 0) -> tuple[State, Metrics]:  # the rows are the State's, not the batch's
        row = drawn(s)
        new, metrics = descend(s.actor, actor_loss, cfg.lr, s.rows[row], s.answers[row], decay=cfg.decay)
        s = replace(s, actor=new)
        if k == cfg.ask_every - 1:
            s, told = asked(s)
            metrics |= told
        return s, metrics

    def act(p: Params, obs: Tensor, explore: bool) -> Tensor:
        logits = net.apply(p, obs)
        if explore:  # the largest of logits plus Gumbel noise is a sample of the softmax
            logits = logits - torch.empty_like(logits).exponential_().log()
        return logits.argmax(-1)

    return Learner(
        init, update, lambda s: s.actor.params, act, losses={"actor": actor_loss}, given=given,
        experience=Offline(gamma=1.0, n_step=1, batch_size=cfg.batch_size),
        period=cfg.ask_every, alike=lambda k: 0 if k < cfg.ask_every - 1 else k,
    )  # fmt: skip
