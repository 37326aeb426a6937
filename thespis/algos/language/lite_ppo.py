"""Lite PPO: answers better than their group's mean become more probable, by the spread of the whole batch; no critic.

Paper: Liu et al. 2025, "Part I: Tricks or Traps? A Deep Dive into RL for LLM Reasoning", arXiv:2508.08221.
Presets: grpo, Shao et al. 2024, "DeepSeekMath", arXiv:2402.03300; dr_grpo, Liu et al. 2025, "Understanding R1-Zero-Like
Training", arXiv:2503.20783; rloo, Ahmadian et al. 2024, "Back to Basics", arXiv:2402.14740; reinforce_pp, Hu 2025,
"REINFORCE++", arXiv:2501.03262; clip_higher, Yu et al. 2025, "DAPO", arXiv:2503.14476; dapo, Yu et al. 2025, "DAPO",
arXiv:2503.14476.
Parent: PPO, which it is with the group's mean for a critic and one reward an episode; at ratio 1 its gradient is REINFORCE's.
Departures: an episode's advantage is of the sum of its rewards. grpo's spread is by n, not n - 1. rloo and reinforce_pp leave out
the KL that their papers take off the reward. clip_higher is DAPO's loss without its dynamic sampling and
its length penalty; dapo leaves out groups that are alike, but samples no others in their place, and has no such penalty either.
Assumed: the batch's spread is that of raw rewards, as the authors' framework has it.
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
    """Adam step size, of a small model (the papers, of 4e9 parameters: 1e-6)"""
    max_norm: Positive = 1.0
    """largest norm of the gradient"""
    questions: Count = 32
    """tasks in an update (paper: 128)"""
    group: Count = 8
    """episodes of each task (paper: 8)"""
    updates: Count = 2
    """minibatches that the episodes are dealt to, each learnt from once; with one the ratio is 1 and nothing is clipped"""
    baseline: Literal["group", "others", "batch"] = "group"
    """what is taken off a return: the mean of its group, of the others in it (arXiv:2402.14740, eq. 8), or of the batch"""
    spread: Literal["batch", "group", "none"] = "batch"
    """what it is divided by: the standard deviation of the returns of the batch, of its group, or nothing"""
    average: Literal["token", "sequence", "constant"] = "token"
    """the loss: a mean over all tokens (arXiv:2503.14476), over answers of the mean of each (arXiv:2402.03300), or over answers
    of the sum of each by a length (arXiv:2503.20783)"""
    length: Count = 1
    """constant that sums over an answer are divided by"""
    clip: tuple[Fraction, NonNegative] = (0.2, 0.2)
    """how far the ratio may fall below 1, and rise above, before a token stops to count"""
    alike: Literal["keep", "drop"] = "keep"
    """groups whose returns are all the same: they count in the loss's mean, or not (arXiv:2503.14476, eq. 11)"""
    kl: NonNegative = 0.0
    """weight of KL(policy, start) in the loss (arXiv:2402.03300, eqs. 3, 4); above 0 a copy of the start is kept"""


PRESETS = {
    "grpo": Config(spread="group", average="sequence", kl=0.04),  # arXiv:2402.03300
    "dr_grpo": Config(spread="none", average="constant", length=32),  # arXiv:2503.20783, algorithm 1
    "rloo": Config(baseline="others", spread="none", average="constant", updates=1),  # arXiv:2402.14740, eq. 8
    "reinforce_pp": Config(baseline="batch"),  # arXiv:2501.03262, eq. 8
    "clip_higher": Config(spread="group", clip=(0.2, 0.28)),  # arXiv:2503.14476, eqs. 8 to 10
    "dapo": Config(spread="group", clip=(0.2, 0.28), alike="drop"),  # arXiv:2503.14476, eqs. 8 to 11
}


@dataclass(frozen=True)
class State:
    policy: Model
    reference: dict[str, Model]
    """{"start": the policy as it began}, where it is held to it"""


def make(cfg: Config, spec: object) -> TextLearner:
    if not isinstance(spec, TextSpec):
        raise Fault(
            f"lite_ppo: a world that is spoken to is needed, the environment's actions are {getattr(spec, 'action', spec)}"
        )
    weights = {"token": ops.per_token, "sequence": ops.per_sequence, "constant": lambda m: ops.per_constant(m, cfg.length)}

    def policy_loss(out: Out, b: Rows) -> tuple[Tensor, Metrics]:  # arXiv:2508.08221, eq. 3; arXiv:2402.03300, eq. 3
        gain, held = ops.clipped(out.logp, b.old, b.advantage, *cfg.clip)
        told = {"clipped": (b.share * held).sum(), "kl_old": (b.share * ops.k3(out.logp, b.old)).sum()}
        if not cfg.kl:
            return -(b.weight * gain).sum(), told
        kl = ops.k3(out.logp, b.reference)
        return -(b.weight * (gain - cfg.kl * kl)).sum(), told | {"kl": (b.share * kl).sum()}

    def advantage(returns: Tensor, group: Tensor) -> Tensor:  # arXiv:2508.08221, section 4
        mean, std = ops.by_group(returns, group)
        base = {"group": mean, "others": ops.of_others(returns, group), "batch": returns.mean()}[cfg.baseline]
        by = {"batch": returns.std(unbiased=False), "group": std, "none": torch.tensor(1.0)}[cfg.spread]
        return (returns - base) / (by if cfg.spread == "none" else by + 1e-6)

    def init(model: Model) -> State:
        return State(model, {"start": model.frozen()} if cfg.kl else {})

    def update(s: State, t: Turns) -> tuple[State, Metrics]:
        plain, a = t.rows(), advantage(t.returns(), t.groups())
        old, entropy = s.policy.read(plain, Out.logp_entropy).unbind(-1)
        rows = plain.also(advantage=t.spread(a[t.row]), old=old)
        if cfg.kl:
            rows = rows.also(reference=s.reference["start"].read(plain))
        if cfg.alike == "drop" and (differs := ops.by_group(t.returns(), t.groups())[1] > 0).any():
            rows = rows.take(differs)
        told = []
        for part in rows.dealt(cfg.updates):
            part = part.also(weight=weights[cfg.average](part.mask), share=ops.per_token(part.mask))
            told.append(s.policy.descend(policy_loss, part, cfg.lr, cfg.max_norm))
        return s, means(told) | measured(plain, old, entropy) | {"advantage_max": a.abs().max()}

    return TextLearner(init, update, lambda s: s.policy, {"policy": policy_loss}, Played(cfg.questions, cfg.group))
