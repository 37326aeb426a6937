"""DPO: makes the answers that were chosen more probable than those that were rejected, held to the start; no reward is fitted.

Paper: Rafailov et al. 2023, "Direct Preference Optimization: Your Language Model is Secretly a Reward Model", arXiv:2305.18290.
Presets: ipo, Azar et al. 2023, "A General Theoretical Paradigm to Understand Learning from Human Preferences", arXiv:2310.12036.
Parent: text_reward_model, whose loss it is with beta log(policy / start) for a score.
Departures: no warm-up of the step size; the gradient's norm is bounded.
Assumed: Adam, where the paper has RMSprop.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from thespis.config import Count, Positive, Rate
from thespis.core import Fault, Metrics
from thespis.lm import Model
from thespis.turns import Out, Paired, Rows, TextLearner, TextSpec


@dataclass(frozen=True)
class Config:
    lr: Rate = 2e-4
    """Adam step size, of a small model (paper, of 6.9e9 parameters: 1e-6)"""
    max_norm: Positive = 1.0
    """largest norm of the gradient"""
    batch_size: Count = 64
    """pairs in an update (paper: 64)"""
    beta: Positive = 0.1
    """how strongly the policy is held to the start (paper: 0.1, of summaries 0.5)"""
    loss: Literal["sigmoid", "ipo"] = "sigmoid"
    """-log sigmoid(beta h) of a pair (arXiv:2305.18290, eq. 7), or (h - 1 / (2 beta))^2, which bounds h where all agree
    (arXiv:2310.12036, eq. 17)"""


PRESETS = {"ipo": Config(loss="ipo")}


@dataclass(frozen=True)
class State:
    policy: Model
    reference: dict[str, Model]
    """{"start": the policy as it began}"""


def make(cfg: Config, spec: object) -> TextLearner:
    if not isinstance(spec, TextSpec):
        raise Fault(f"dpo: a world that is spoken to is needed, the environment's actions are {getattr(spec, 'action', spec)}")

    def policy_loss(out: Out, b: Rows) -> tuple[Tensor, Metrics]:  # a mean over pairs
        ratio = (b.mask * (out.logp - b.reference)).sum(-1)  # (R,): log of policy / start of an answer
        chosen, rejected = ratio[0::2], ratio[1::2]
        h, weight = chosen - rejected, b.weight[0::2, 0]
        if cfg.loss == "sigmoid":
            loss = -torch.nn.functional.logsigmoid(cfg.beta * h)
        else:
            loss = (h - 1 / (2 * cfg.beta)).square()
        told = {"accuracy": (h > 0).float(), "margin": h, "chosen": chosen, "rejected": rejected}
        return (weight * loss).sum(), {name: (weight * x).sum() for name, x in told.items()}

    def init(model: Model) -> State:
        return State(model, {"start": model.frozen()})

    def update(s: State, b: Rows) -> tuple[State, Metrics]:
        weight = torch.full(b.tokens.shape, 2 / len(b))
        rows = b.also(weight=weight, reference=s.reference["start"].read(b))
        return s, s.policy.descend(policy_loss, rows, cfg.lr, cfg.max_norm)

    return TextLearner(init, update, lambda s: s.policy, {"policy": policy_loss}, Paired(cfg.batch_size))
