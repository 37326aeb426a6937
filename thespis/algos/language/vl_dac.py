"""VL-DAC: each token has a ratio of its own, each turn one advantage, from a critic whose gradient never reaches the model.

Paper: Bredis et al. 2025, "Enhancing Vision-Language Model Training with Reinforcement Learning in Synthetic Worlds for
Real-World Success", arXiv:2508.04280.
Presets: rl4vlm, Zhai et al. 2024, "Fine-Tuning Large Vision-Language Models as Decision-Making Agents via Reinforcement
Learning", arXiv:2405.10292.
Parent: Lite PPO, which it is with a value of 0, lambda = gamma = 1, baseline = batch and one turn an episode (reinforce_pp).
Departures: the critic is a network with an optimiser of its own, on hidden states read once an update; the paper's is a head that
one optimiser trains with the model. Its loss is the squared error. Where an episode is cut off, the value of its last turn stands
for what would follow. Every sampled token counts, the first too, at the temperature that it is drawn at. rl4vlm has this critic
too, whose gradient does not reach the model; a thought is all but an answer's last word.
Assumed: advantages are normalised by their standard deviation over n.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from thespis import nets, ops, optim
from thespis.config import Count, Fraction, Natural, NonNegative, Positive, Rate
from thespis.core import Fault, Metrics, Params, Trained
from thespis.lm import Model, Text
from thespis.turns import Out, Played, Rows, TextLearner, TextSpec, Turns, means, measured


@dataclass(frozen=True)
class Config:
    lr: Rate = 2e-4
    """Adam step size of the model, a small one (paper, of 7e9 parameters: 5e-5)"""
    value_lr: Rate = 1e-3
    """Adam step size of the critic"""
    max_norm: Positive = 1.0
    """largest norm of the model's gradient"""
    questions: Count = 32
    """tasks in an update"""
    group: Count = 1
    """episodes of each; nothing is compared within a group"""
    gamma: Fraction = 0.99
    """discount of a turn (paper: 0.9 to 1)"""
    lam: Fraction = 0.95
    """lambda of the advantage (paper: 0.95 to 1)"""
    epochs: Count = 2
    """passes over the episodes of an update (paper: 2)"""
    updates: Count = 2
    """minibatches that the episodes are dealt to in each"""
    clip: Fraction = 0.2
    """how far a ratio may go from 1 before it stops to count"""
    far: Positive = 10.0
    """ratio above which all of its turn counts with clipped ratios alone (code: 10)"""
    kl: NonNegative = 0.05
    """weight of KL(policy, start) in the loss (paper: 0.05); above 0 a copy of the start is kept"""
    warmup: Natural = 2
    """first updates, in which the critic alone learns (paper: 2)"""
    value_steps: Count = 16
    """steps of the critic in an update, each on all of its turns"""
    width: Count = 64
    """of the critic's hidden layer (code: 2048)"""
    ratio: Literal["token", "turn"] = "token"
    """what has a ratio: each token, or a turn as a whole, of the log-probability thought x log p(thought) + log p(action)"""
    thought: NonNegative = 1.0
    """weight of a thought in a turn's ratio (arXiv:2405.10292, eq. 4.3: lambda); the action is the last word of an answer"""


PRESETS = {"rl4vlm": Config(ratio="turn", thought=0.5, kl=0.0, warmup=0)}


@dataclass(frozen=True)
class State:
    policy: Model
    value: Trained
    done: Tensor
    """() updates"""
    reference: dict[str, Model]
    """{"start": the policy as it began}, where it is held to it"""


def make(cfg: Config, spec: object) -> TextLearner:
    if not isinstance(spec, TextSpec):
        raise Fault(f"vl_dac: a world that is spoken to is needed, the environment's actions are {getattr(spec, 'action', spec)}")

    def policy_loss(out: Out, b: Rows) -> tuple[Tensor, Metrics]:  # section 3: L_policy + beta KL; arXiv:2405.10292, eq. 4.3
        gap = out.logp - b.old
        if cfg.ratio == "turn":
            gap = ops.over_turn(gap * b.counts, b.turn)
        gain, held = ops.clipped(gap, torch.zeros_like(gap), b.advantage, cfg.clip, cfg.clip)
        far = ops.over_turn(gap, b.turn, "amax") > math.log(cfg.far)
        gain = torch.where(far, gap.exp().clamp(1 - cfg.clip, 1 + cfg.clip) * b.advantage, gain)
        told = {"clipped": (b.weight * (held | far)).sum(), "kl_old": (b.share * ops.k3(out.logp, b.old)).sum()}
        if not cfg.kl:
            return -(b.weight * gain).sum(), told
        kl = (b.share * ops.k3(out.logp, b.reference)).sum()
        return cfg.kl * kl - (b.weight * gain).sum(), told | {"kl": kl}

    def value_loss(p: Params, known: Tensor, returns: Tensor) -> tuple[Tensor, Metrics]:  # V(s_t) to A_t + V(s_t)
        return 0.5 * (value(p, known) - returns).square().mean(), {}

    def value(p: Params, known: Tensor) -> Tensor:  # known (N, H): the model's last hidden state before each turn
        return nets.mlp([known.shape[1], cfg.width, 1]).apply(p, known)[:, 0]

    def init(model: Model) -> State:
        p = nets.mlp([model.module.config.hidden_size, cfg.width, 1]).init()
        p |= {"w1": torch.zeros_like(p["w1"]), "b1": torch.zeros_like(p["b1"])}  # it begins at 0
        return State(model, optim.fresh(p), torch.zeros(()), {"start": model.frozen()} if cfg.kl else {})

    def update(s: State, t: Turns) -> tuple[State, Metrics]:
        plain, at = t.rows(), t.before(torch.ones(len(t.row), dtype=torch.bool))
        known = s.policy.read(plain.also(at=at), before_turns)
        v = value(s.value.params, known)
        advantage = ops.lambda_advantage(t.reward, t.discount, t.ended, v, cfg.lam)
        critic, told_value = s.value, Metrics()
        for _ in range(cfg.value_steps):
            critic, told_value = optim.descend(critic, value_loss, cfg.value_lr, known, advantage + v)
        old, entropy = s.policy.read(plain, Out.logp_entropy).unbind(-1)
        found = told_value | measured(plain, old, entropy) | {"value": v.mean()}
        s = replace(s, value=critic, done=s.done + 1)
        if s.done <= cfg.warmup:
            return s, found
        a = (advantage - advantage.mean()) / (advantage.std(unbiased=False) + 1e-6)
        rows = plain.also(advantage=t.spread(a), old=old, turn=turn_of(t), even=plain.mask.float())  # even: what counts alike
        if cfg.ratio == "turn":
            tokens = torch.bincount(t.said[t.said >= 0], minlength=len(t.row))
            counts = torch.where(thoughts(t, s.policy.text), cfg.thought, 1.0)
            rows = rows.also(counts=counts, even=t.spread(1 / tokens))
        if cfg.kl:
            rows = rows.also(reference=s.reference["start"].read(plain))
        told = []
        for part in (part for _ in range(cfg.epochs) for part in rows.dealt(cfg.updates)):
            part = part.also(weight=part.even / part.even.sum(), share=ops.per_token(part.mask))
            told.append(s.policy.descend(policy_loss, part, cfg.lr, cfg.max_norm))
        return s, means(told) | found | {"advantage_max": a.abs().max()}

    return TextLearner(init, update, lambda s: s.policy, {"policy": policy_loss}, Played(cfg.questions, cfg.group, cfg.gamma))


def before_turns(out: Out) -> Tensor:
    """(N, H): the last hidden state before each turn, row by row, as turns are."""
    assert out.hidden is not None
    assert out.rows is not None
    return out.hidden[out.rows.at].float()


def turn_of(t: Turns) -> Tensor:
    """(R, T): which turn of its episode a token was sampled in, from 0 on; -1 elsewhere."""
    count = torch.bincount(t.row, minlength=len(t.tokens))
    return torch.where(t.said >= 0, t.said - (count.cumsum(0) - count)[:, None], -1)


def thoughts(t: Turns, text: Text) -> Tensor:
    """(R, T) bool: the tokens of a turn before its last word, which begins at the last token with white space in it."""
    spaces = torch.tensor([i for i in map(int, t.tokens.unique()) if any(map(str.isspace, text.decode([i])))])
    place = torch.arange(t.tokens.shape[1]).expand_as(t.tokens)
    last = ops.over_turn(torch.where((t.said >= 0) & torch.isin(t.tokens, spaces), place, 0), turn_of(t), "amax")
    return (t.said >= 0) & (place < last)
