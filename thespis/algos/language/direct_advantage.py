"""Direct advantage policy optimisation: steps better than others from the same state become more probable, by a regression.

Paper: Liu et al. 2024, "Improving Multi-Step Reasoning Abilities of Large Language Models with Direct Advantage Policy
Optimization", arXiv:2412.18279 (its DAPO is not the one of arXiv:2503.14476).
Presets: direct_advantage_critic, Liu et al. 2024, "Improving Multi-Step Reasoning Abilities of Large Language Models with Direct
Advantage Policy Optimization", arXiv:2412.18279, the critic.
Parent: lite_ppo, whose gradient it has at the start, of steps and their advantages / beta in place of answers.
Departures: the critic is as large as the policy.
Assumed: the squared loss is half the square of A / beta - log(policy / start), a mean over steps.
"""

from dataclasses import dataclass
from math import nan
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from thespis.config import Count, Positive, Rate
from thespis.core import Fault, Metrics
from thespis.lm import Model
from thespis.turns import Out, Rows, TextLearner, TextSpec, Written


@dataclass(frozen=True)
class Config:
    learn: Literal["policy", "critic"] = "policy"
    """what writes, or what tells from the steps so far how probable it is that the answer will be right"""
    lr: Rate = 1e-4
    """Adam step size, of a small model (paper, of 7e9 parameters: 5e-7, of the critic 5e-6)"""
    max_norm: Positive = 1.0
    """largest norm of the gradient"""
    batch_size: Count = 256
    """steps in an update (paper: 2,048), or answers, of whose states the critic learns (512 states)"""
    beta: Positive = 0.1
    """how strongly the policy is held to the start: a step's log-ratio is to be its advantage divided by this (paper: 0.01)"""


PRESETS = {"direct_advantage_critic": Config(learn="critic", lr=1e-3, batch_size=64)}


@dataclass(frozen=True)
class State:
    policy: Model
    reference: dict[str, Model]
    """{"start": the policy as it began}, but of a critic"""


def make(cfg: Config, spec: object) -> TextLearner:
    """A row's numbers: "step", of each token whether it is of the step that is learnt from, and that step's "advantage"; or, of a
    critic, "value", of each token the chance of a right answer when it has been read, and -1 where there is no state."""
    if not isinstance(spec, TextSpec):
        found = getattr(spec, "action", spec)
        raise Fault(f"direct_advantage: a world that is spoken to is needed, the environment's actions are {found}")

    def policy_loss(out: Out, b: Rows) -> tuple[Tensor, Metrics]:  # 1/2 (A / beta - log ratio)^2 of a step, a mean over steps
        ratio = (b.step * b.mask * (out.logp - b.reference)).sum(-1)  # (R,): log of policy / start of a step
        weight, advantage = b.weight[:, 0], b.advantage[:, 0]
        told = {"ratio": ratio, "agrees": (ratio * advantage > 0).float(), "differs": (advantage != 0).float()}
        loss = (advantage / cfg.beta - ratio).square() / 2
        return (weight * loss).sum(), {name: (weight * x).sum() for name, x in told.items()}

    def critic_loss(out: Out, b: Rows) -> tuple[Tensor, Metrics]:  # -(v log V + (1 - v) log(1 - V)), a mean over states
        logit, value = out.heads("value"), b.value.clamp(min=0)
        cross = binary_cross_entropy_with_logits(logit, value, reduction="none")
        return (b.weight * cross).sum(), {"error": (b.weight * (logit.sigmoid() - value).square()).sum()}

    def init(model: Model) -> State:
        if cfg.learn == "critic":
            model.add_head("value")
        return State(model, {"start": model.frozen()} if cfg.learn == "policy" else {})

    def learn_policy(s: State, b: Rows) -> tuple[State, Metrics]:
        rows = b.also(weight=torch.full(b.tokens.shape, 1 / len(b)), reference=s.reference["start"].read(b))
        return s, s.policy.descend(policy_loss, rows, cfg.lr, cfg.max_norm)

    def learn_critic(s: State, b: Rows) -> tuple[State, Metrics]:
        states = b.mask & (b.value >= 0)
        return s, s.policy.descend(critic_loss, b.also(weight=states / states.sum().clamp(min=1)), cfg.lr, cfg.max_norm)

    if cfg.learn == "critic":
        feed = Written(cfg.batch_size, {"value": nan})
        return TextLearner(init, learn_critic, lambda s: s.policy, {"critic": critic_loss}, feed)
    feed = Written(cfg.batch_size, {"step": 1.0, "advantage": nan})
    return TextLearner(init, learn_policy, lambda s: s.policy, {"policy": policy_loss}, feed)


def values(out: Out) -> Tensor:
    """(R, T): the critic's chance of a right answer when the token at the place has been read."""
    return out.heads("value").sigmoid()
