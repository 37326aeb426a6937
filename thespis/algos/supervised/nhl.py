"""NHL: a classifier that adapts to what it is shown, without labels: a Hebbian first layer, and a modulator led by entropy.

Paper: Tang, Zhang, Xu, Chen, Cheng, Leng, Guo, He 2023, "Neuro-Modulated Hebbian Learning for Fully Test-Time Adaptation", CVPR
2023, arXiv:2303.00914.
Parent: classifier_conv, whose policy it begins with (--start-from); with adapt tent it is TENT (arXiv:2006.10726).
Departures: a class is named before its batch is learnt from (the paper: after).
Assumed: the paper's equations could not be read. The Hebbian rule is that of SoftHebb (arXiv:2107.05747) with the change divided
by its largest entry and each filter's length kept; the modulator is the scale and shift of the first batch norm; eta and tau
are tuned; all batch norms take the statistics of the newest batch, as TENT's do.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import unfold

from thespis import nets
from thespis.config import Count, NonNegative, Positive, Rate
from thespis.core import Batch, Discrete, Fault, Learner, Metrics, Params, Spec, Trained, replace, tree, tree_map
from thespis.data import OnPolicy
from thespis.optim import descend, fresh


@dataclass(frozen=True)
class Config:
    adapt: Literal["nhl", "hebb", "modulator", "tent", "statistics"] = "nhl"
    """what changes: the first layer and its modulator; one of them; scale and shift of all batch norms; their statistics alone"""
    winner: Literal["soft", "hard"] = "soft"
    """whether filters share a patch by a softmax, or the one that answers most has it"""
    eta: NonNegative = 0.002
    """size of a Hebbian step: the largest change of a weight"""
    tau: Positive = 0.1
    """temperature of the softmax among filters"""
    lr: Rate = 1e-3
    """Adam step size of scales and shifts (TENT)"""
    channels: Count = 16
    """channels of the first convolution, as the classifier's"""
    rollout: Count = 64
    """observations that are learnt from at once"""


TAKES = {"images"}
"""images as images"""


@tree
class State:
    kept: Params
    """of the network what no gradient moves; "w0", the first layer, is the Hebbian rule's"""
    actor: Trained
    """the scales and shifts that are led by entropy"""
    stats: Params
    """mean and variance of every batch norm, of the newest batch"""


def make(cfg: Config, spec: Spec) -> Learner:
    """For observations that are one image, and a choice of its class. Rewards are never looked at."""
    if not isinstance(spec.action, Discrete):
        raise Fault(f"nhl: one choice is needed, the class; the environment's actions are {spec.action}")
    net = nets.convolutions(spec, spec.action.n, cfg.channels)
    led = {"tent": ("scale", "shift"), "nhl": ("scale0", "shift0"), "modulator": ("scale0", "shift0")}.get(cfg.adapt, ())

    def hebbian(w: Tensor, obs: Tensor) -> tuple[Tensor, Metrics]:  # one step of y (x - u w), and how evenly patches are shared
        x = unfold(nets.channels_first(obs.unflatten(-1, spec.shapes[0]), spec.shapes[0]), 3, padding=1)  # (B, C 9, places)
        x, old = x.transpose(1, 2).flatten(0, 1), w.flatten(1)
        u = x @ old.T  # (patches, filters)
        y = (u / cfg.tau).softmax(-1)
        if cfg.winner == "hard":
            y = (u >= u.amax(-1, keepdim=True)).type_as(u)
        change = (y.T @ x - (y * u).sum(0)[:, None] * old) / len(x)
        new = old + cfg.eta * change / change.abs().amax().clamp(min=1e-12)
        new = new * (old.norm(dim=-1, keepdim=True) / new.norm(dim=-1, keepdim=True).clamp(min=1e-12))
        shared = -torch.xlogy(y, y).sum(-1).mean()
        return new.view_as(w), {"shared": shared}

    def actor_loss(p: Params, kept: Params, obs: Tensor) -> tuple[Tensor, Metrics]:  # the entropy of the classes named
        logp = net.measure({**kept, **p}, obs)[0].log_softmax(-1)
        return -(logp.exp() * logp).sum(-1).mean(), {"sure": logp.amax(-1).exp().mean()}

    def prepare(s: State, rollout: Batch) -> tuple[State, Batch, Metrics]:
        return s, tree_map(lambda x: x.flatten(0, 1), replace(rollout, extra={})), {}

    def init() -> State:
        p = net.init()
        return State(
            {k: x for k, x in p.items() if not k.startswith(led)},
            fresh({k: x for k, x in p.items() if k.startswith(led)}),
            net.stats(),
        )

    def update(s: State, b: Batch, k: int = 0) -> tuple[State, Metrics]:
        metrics: Metrics = {}
        if cfg.adapt in ("nhl", "hebb"):
            w0, metrics = hebbian(s.kept["w0"], b.obs)
            s = replace(s, kept={**s.kept, "w0": w0})
        if led:
            actor, told = descend(s.actor, actor_loss, cfg.lr, s.kept, b.obs)
            s, metrics = replace(s, actor=actor), metrics | told
        else:
            loss, told = actor_loss({}, s.kept, b.obs)
            metrics = metrics | {"actor_loss": loss, **told}
        return replace(s, stats=net.measure({**s.kept, **s.actor.params}, b.obs)[1]), metrics

    def act(p: dict[str, Params], obs: Tensor, explore: bool) -> Tensor:
        logits = net.apply(p["actor"], p["stats"], obs)
        if explore:  # the largest of logits plus Gumbel noise is a sample of the softmax
            logits = logits - torch.empty_like(logits).exponential_().log()
        return logits.argmax(-1)

    return Learner(
        init, update, lambda s: {"actor": {**s.kept, **s.actor.params}, "stats": s.stats}, act,
        prepare=prepare, losses={"actor": actor_loss},
        experience=OnPolicy(gamma=1.0, rollout=cfg.rollout, epochs=1, batch_size=cfg.rollout),
    )  # fmt: skip
