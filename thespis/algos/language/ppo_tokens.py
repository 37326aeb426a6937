"""PPO over tokens: every token is an action, and a head of the model values what stands before it; the parent of critics here.

Paper: Ziegler et al. 2019, "Fine-Tuning Language Models from Human Preferences", arXiv:1909.08593; PPO is Schulman et al. 2017,
arXiv:1707.06347, its advantages arXiv:1506.02438.
Parent: lite_ppo, which it is in groups of one (baseline = others, spread = none) with lam 1, no whitening, value_weight 0 and a
head that says 0.
Departures: rewards are not whitened, and advantages are over all tokens of an update, not of a minibatch; the weight of the KL
does not adapt, and the step size does not fall by itself; episodes may have several turns, and what is given in between is no
action; where one is cut off, the value before its last token stands for what would have followed.
Assumed: the head begins at 0.
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
    """Adam step size, of a small model (the authors' code, of 1.2e8 parameters: 5e-6)"""
    max_norm: Positive = 1.0
    """largest norm of the gradient (the authors' code: none)"""
    questions: Count = 128
    """tasks in an update (the authors' code: 64)"""
    group: Count = 1
    """episodes of each task (paper: 1)"""
    epochs: Count = 4
    """times that each episode is learnt from (the authors' code: 4)"""
    updates: Count = 1
    """minibatches of an epoch (the authors' code: 1)"""
    gamma: Fraction = 1.0
    """discount from a token to the next (the authors' code: 1)"""
    lam: Fraction = 0.95
    """lambda of the advantages (arXiv:1506.02438, eq. 16; the authors' code: 0.95)"""
    clip: tuple[Fraction, NonNegative] = (0.2, 0.2)
    """how far the ratio may fall below 1, and rise above, before a token stops to count (arXiv:1707.06347, eq. 7)"""
    clip_value: Positive | None = 0.2
    """how far a value may move from the one before the update; none: freely (the authors' code: 0.2, of whitened rewards)"""
    value_weight: NonNegative = 0.1
    """weight of the values' loss (the authors' code: 0.1)"""
    value_learns: Literal["all", "head"] = "all"
    """what learns from the values' loss: the whole model (the authors' code), or the head alone"""
    whiten: bool = True
    """whether advantages are shifted and divided to mean 0 and variance 1 (the authors' code does)"""
    kl: NonNegative = 0.0
    """weight of log(policy / start), taken off the reward of each token (paper, eq. 2); above 0 a copy of the start is kept"""


@dataclass(frozen=True)
class State:
    policy: Model
    """with the head "value" """
    reference: dict[str, Model]
    """{"start": the policy as it began}, where it is held to it"""


def make(cfg: Config, spec: object) -> TextLearner:
    if not isinstance(spec, TextSpec):
        raise Fault(
            f"ppo_tokens: a world that is spoken to is needed, the environment's actions are {getattr(spec, 'action', spec)}"
        )

    def value(out: Out) -> Tensor:
        """(R, T): of what stands before each token."""
        return torch.nn.functional.pad(out.heads("value", cfg.value_learns == "head")[:, :-1], (1, 0))

    def policy_loss(out: Out, b: Rows) -> tuple[Tensor, Metrics]:  # arXiv:1707.06347, eqs. 7, 9
        gain, held = ops.clipped(out.logp, b.old, b.advantage, *cfg.clip)
        v = value(out)
        error = (v - b.returns).square()
        if cfg.clip_value is not None:
            near = torch.maximum(torch.minimum(v, b.value + cfg.clip_value), b.value - cfg.clip_value)
            error = torch.maximum(error, (near - b.returns).square())
        told = {"clipped": held, "kl_old": ops.k3(out.logp, b.old), "value_error": (v - b.returns).square()}
        loss = -gain + cfg.value_weight * 0.5 * error
        return (b.weight * loss).sum(), {name: (b.weight * x).sum() for name, x in told.items()}

    def init(model: Model) -> State:
        start = {"start": model.frozen()} if cfg.kl else {}
        model.add_head("value")
        return State(model, start)

    def update(s: State, t: Turns) -> tuple[State, Metrics]:
        plain = t.rows()
        said = s.policy.read(plain, lambda out: torch.cat([out.logp_entropy(), value(out)[..., None]], -1))
        old, entropy, v = said.unbind(-1)
        reward = t.at_stop(t.reward)
        if cfg.kl:
            reward = reward - cfg.kl * plain.mask * (old - s.reference["start"].read(plain))
        a = advantage(t, reward, v, cfg.gamma, cfg.lam)
        m = plain.mask
        usual = (a[m] - a[m].mean()) / (a[m].std(unbiased=False) + 1e-8) if cfg.whiten else a[m]
        rows = plain.also(old=old, value=v, returns=a + v, advantage=torch.zeros_like(a).masked_scatter(m, usual))
        told = []
        for part in (part for _ in range(cfg.epochs) for part in rows.dealt(cfg.updates)):
            told.append(s.policy.descend(policy_loss, part.also(weight=ops.per_token(part.mask)), cfg.lr, cfg.max_norm))
        explained = 1 - a[m].var(unbiased=False) / (a + v)[m].var(unbiased=False).clamp(min=1e-8)
        return s, means(told) | measured(plain, old, entropy) | {"value": v[m].mean(), "explained": explained}

    return TextLearner(init, update, lambda s: s.policy, {"policy": policy_loss}, Played(cfg.questions, cfg.group, cfg.gamma))


def advantage(t: Turns, reward: Tensor, value: Tensor, gamma: float, lam: float) -> Tensor:
    """Generalised advantages (R, T) of written tokens, 0 elsewhere, with `reward` after each and `value` before it."""
    said = t.said >= 0
    discount = torch.where(t.at_stop(torch.ones(len(t.row))) > 0, t.spread(t.discount), gamma)
    out, ahead, following = torch.zeros_like(value), torch.zeros_like(value[:, 0]), torch.zeros_like(value[:, 0])
    later = torch.zeros_like(said[:, 0])  # whether the episode goes on behind the place
    for i in reversed(range(value.shape[1])):
        here, d, v = said[:, i], discount[:, i], value[:, i]
        found = reward[:, i] + d * torch.where(later, following, v) - v + later * d * lam * ahead
        ahead, following, later = torch.where(here, found, ahead), torch.where(here, v, following), later | here
        out[:, i] = here * found
    return out
