"""CodeRL: programs that were sampled count by what became of them, token by token as a critic finds it; answers stay in view.

Paper: Le et al. 2022, "CodeRL: Mastering Code Generation through Pretrained Models and Deep Reinforcement Learning",
arXiv:2207.01780; where it and its code differ, the code.
Presets: coderl_critic, Le et al. 2022, "CodeRL", arXiv:2207.01780, section 3.3, the critic.
Parent: supervised fine-tuning (sft), which it is where every row is a right answer.
Departures: a step on right answers and a step on samples in each update, of the rows of each kind that are in the batch, in place
of every second update. The critic is a causal model like the actor's, and its four classes are linear heads, without a hidden
layer.
Assumed: Adam's moments are common to both steps.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from thespis import ops
from thespis.config import Count, NonNegative, Positive, Rate
from thespis.core import Fault, Metrics
from thespis.lm import Model
from thespis.turns import Out, Rows, TextLearner, TextSpec, Written

OUTCOMES = ("syntax_error", "runtime_error", "failed_test", "passed")


@dataclass(frozen=True)
class Config:
    learn: Literal["actor", "critic"] = "actor"
    """what writes programs, or what tells from a program what becomes of it"""
    lr: Rate = 3e-4
    """Adam step size, of a small model (paper, of 7e8 parameters: 2e-5)"""
    max_norm: Positive = 1.0
    """largest norm of the gradient"""
    batch_size: Count = 64
    """rows in an update, samples and right answers (paper: 32 of a kind)"""
    returns: tuple[float, float, float, float] = (-1.0, -0.6, -0.3, 1.0)
    """of a syntax error, a run-time error, a failed test and a pass (paper's eq. 3)"""
    baseline: bool = True
    """whether the return of the most probable program is taken off"""
    weight: NonNegative = 1.0
    """of what samples say, beside right answers (paper: 1, with a step size of 2e-5)"""
    values: bool = True
    """whether a token counts by the critic's chance of the outcome there, or all count the same"""


PRESETS = {"coderl_critic": Config(learn="critic", lr=1e-3)}


@dataclass(frozen=True)
class State:
    policy: Model


def make(cfg: Config, spec: object) -> TextLearner:
    """A row's numbers: "outcome", 0 to 3; of a sample, "sampled" is 1, and it has "baseline", the most probable program's outcome
    (-1: unknown), and "value", of each token what `values` says."""
    if not isinstance(spec, TextSpec):
        raise Fault(f"coderl: a world that is spoken to is needed, the environment's actions are {getattr(spec, 'action', spec)}")
    returns = torch.tensor([*cfg.returns, 0.0])  # the last is of what is unknown, -1

    def policy_loss(out: Out, b: Rows) -> tuple[Tensor, Metrics]:  # eq. 9: -(R - R of the baseline) q log p, a mean over tokens
        return -(b.weight * b.gain * out.logp).sum(), {}

    def critic_loss(out: Out, b: Rows) -> tuple[Tensor, Metrics]:  # eq. 6: cross-entropy of the largest logits of all tokens
        logits = classes(out).masked_fill(~b.mask[..., None], -torch.inf).amax(1).log_softmax(-1)
        outcome, weight = b.outcome[:, :1].long().clamp(min=0), b.weight[:, 0]
        right = logits.argmax(-1, keepdim=True) == outcome
        return -(weight * logits.gather(1, outcome)[:, 0]).sum(), {"accuracy": (weight * right[:, 0]).sum()}

    def init(model: Model) -> State:
        for name in OUTCOMES if cfg.learn == "critic" else ():
            model.add_head(name)
        return State(model)

    def gain(b: Rows) -> Tensor:
        base = returns[b.baseline.long()] if cfg.baseline else 0.0
        q = b.value if cfg.values else 1.0
        return torch.where(b.sampled > 0, cfg.weight * (returns[b.outcome.long()] - base) * q, 1.0)

    def learn_actor(s: State, b: Rows) -> tuple[State, Metrics]:
        found: Metrics = {}
        for name, chosen in (("", b.sampled[:, 0] == 0), ("sampled_", b.sampled[:, 0] > 0)):
            if chosen.any():
                rows = b.take(chosen)
                rows = rows.also(weight=ops.per_token(rows.mask), gain=gain(rows))
                told = s.policy.descend(policy_loss, rows, cfg.lr, cfg.max_norm)
                found |= {f"{name}{key}": x for key, x in told.items()}
        return s, found

    def learn_critic(s: State, b: Rows) -> tuple[State, Metrics]:
        rows = b.also(weight=torch.full(b.tokens.shape, 1 / len(b)))
        return s, s.policy.descend(critic_loss, rows, cfg.lr, cfg.max_norm)

    columns = {"outcome": 3.0, "sampled": 0.0, "baseline": -1.0, "value": 1.0}
    update, losses = (learn_critic, {"critic": critic_loss}) if cfg.learn == "critic" else (learn_actor, {"policy": policy_loss})
    return TextLearner(init, update, lambda s: s.policy, losses, Written(cfg.batch_size, columns))


def classes(out: Out) -> Tensor:
    """(R, T, 4): the critic's logits of the four outcomes when the token at the place has been read."""
    return torch.stack([out.heads(name) for name in OUTCOMES], -1)


def values(out: Out) -> Tensor:
    """(R, T, 4): the chance of each outcome there; eq. 8's q is that of the outcome which came true."""
    return classes(out).softmax(-1)
