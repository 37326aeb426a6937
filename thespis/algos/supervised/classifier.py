"""Classification: the network under which the recorded classes are likeliest.

Paper: LeCun, Bottou, Bengio, Haffner 1998, "Gradient-Based Learning Applied to Document Recognition", Proceedings of the IEEE
86(11).
Parent: bc on one choice, which it is where net is mlp.
Departures: the networks are today's and small (relu, batch norm, Adam, cross-entropy), not the paper's.
Presets: classifier_conv, the same paper; classifier_soft, Lu et al. 2024, "Softmax-free Linear Transformers", arXiv:2207.03341.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from thespis import nets, ops
from thespis.config import Count, Fraction, NonNegative, Rate
from thespis.core import Batch, Discrete, Fault, Learner, Metrics, Params, Spec, Trained, replace, tree
from thespis.data import Offline
from thespis.optim import descend, fresh


@dataclass(frozen=True)
class Config:
    lr: Rate = 1e-3
    """Adam step size"""
    net: Literal["mlp", "convolutions", "attention"] = "mlp"
    """hidden layers; or, for observations that are an image, three convolutions with batch norm, or two blocks of attention"""
    hidden: tuple[Count, ...] = (64,)
    """widths of the hidden layers of net mlp, ReLU between them"""
    channels: Count = 16
    """channels of the first convolution; the others have twice as many"""
    attention: Literal["soft", "soft_norm", "softmax", "linear", "none"] = "soft_norm"
    """which attention net attention has: SOFT's (arXiv:2207.03341), or what it is held against (nets/soft.py)"""
    momentum: Fraction = 0.1
    """how far a batch moves the statistics of the batch norms that classify later"""
    decay: NonNegative = 0.0
    """weight decay of AdamW"""
    batch_size: Count = 64
    """pictures in an update"""


PRESETS = {"classifier_conv": Config(net="convolutions"), "classifier_soft": Config(net="attention")}

TAKES = {"images", "mask"}
"""images as images, and action masks"""


@tree
class State:
    actor: Trained
    stats: Params
    """running mean and variance of every batch norm"""


def make(cfg: Config, spec: Spec, actor: nets.Build | None = None) -> Learner:
    """`actor(spec)`: your own module, obs -> a logit a class."""
    if not isinstance(spec.action, Discrete):
        raise Fault(f"classifier: one choice is needed, the class; the environment's actions are {spec.action}")
    obs, classes = spec.obs.dim, spec.action.n
    if own := nets.custom(actor, spec, obs, classes):
        net = nets.unmeasured(own)
    elif cfg.net == "convolutions":
        net = nets.convolutions(spec, classes, cfg.channels)
    elif cfg.net == "attention":
        net = nets.unmeasured(nets.attention(spec, classes, cfg.attention))
    else:
        net = nets.unmeasured(nets.mlp((obs, *cfg.hidden, classes)))

    def actor_loss(p: Params, b: Batch) -> tuple[Tensor, Metrics | Params]:
        logits, stats = net.measure(p, b.obs)
        logits = ops.masked(logits, ops.allowed(spec, b.obs))
        right = (logits.argmax(-1) == b.action).type_as(logits).mean()
        return cross_entropy(logits, b.action), {"accuracy": right, **stats}

    def init() -> State:
        return State(fresh(net.init()), net.stats())

    def update(s: State, b: Batch, k: int = 0) -> tuple[State, Metrics]:
        new, metrics = descend(s.actor, actor_loss, cfg.lr, b, decay=cfg.decay)
        stats = {name: torch.lerp(old, metrics.pop(name), cfg.momentum) for name, old in s.stats.items()}
        return replace(s, actor=new, stats=stats), metrics

    def act(p: dict[str, Params], obs: Tensor, explore: bool) -> Tensor:
        logits = ops.masked(net.apply(p["actor"], p["stats"], obs), ops.allowed(spec, obs))
        if explore:  # the largest of logits plus Gumbel noise is a sample of the softmax
            logits = logits - torch.empty_like(logits).exponential_().log()
        return logits.argmax(-1)

    return Learner(
        init, update, lambda s: {"actor": s.actor.params, "stats": s.stats}, act,
        losses={"actor": actor_loss}, experience=Offline(gamma=1.0, n_step=1, batch_size=cfg.batch_size),
    )  # fmt: skip
