"""O-DICE: the value of a DICE objective, learnt along a gradient whose second part is made orthogonal to its first.

Paper: Mao, Xu, Zhang, Zhan 2024, "ODICE: Revealing the Mystery of Distribution Correction Estimation via Orthogonal-gradient
Update", arXiv:2402.00348.
Parent: semi-gradient DICE, as in sparse Q-learning (arXiv:2303.15810), which it becomes at eta 0.
Departures: the policy has the value's widths (authors' code: 1024-1024); the weights are max(e, 0), as in the authors' code, not
the derivative of the conjugate, max(e / 2 + 1, 0).
Assumed: lam and eta, which the paper tunes task by task, are the defaults of the authors' command line; lam of the imitation form
is ours: from 0.5 on and without rewards the residuals settle below 0, where no action has a weight.
Presets: odice_il, Mao et al. 2024, the imitation form, arXiv:2402.00348.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from thespis import nets, ops
from thespis.config import Count, Fraction, Interval, Members, NonNegative, Positive, Rate
from thespis.core import Batch, Box, Fault, Learner, Metrics, Params, Spec, Trained, replace, tree
from thespis.data import Offline
from thespis.optim import adam, descend, fresh, gradient, polyak


@dataclass(frozen=True)
class Config:
    lr: Rate = 2e-4
    """Adam step size of value and policy (authors' code; imitation: 1e-4)"""
    decay: NonNegative = 1e-4
    """weight decay of the policy (authors' code; imitation: 1e-5 on Hopper, 1e-3 on Walker2d)"""
    lam: Fraction = 0.6
    """weight of the conjugate against the mean value (authors' command line)"""
    eta: NonNegative = 1.0
    """weight of the backward gradient, through the value of the next state (authors' command line)"""
    gradient: Literal["orthogonal", "true", "semi"] = "orthogonal"
    """the backward part: without what lies along the forward part; as it is, with no slow copy; or none (section 3)"""
    largest: Positive = 100.0
    """the policy's weights are at most so large (authors' code)"""
    values: Members = 2
    """number of value functions; a state is worth their minimum (authors' code)"""
    norm: bool = True
    """layer norms in the value's network (MuJoCo; AntMaze and imitation: none)"""
    squash: bool = False
    """whether the policy's mean goes through a tanh (imitation: it does)"""
    log_std: Interval = (-5.0, 2.0)
    """range of the policy's log standard deviation, the same in every state (authors' code)"""
    rewarded: bool = True
    """rewards times 1,000 over the range of the dataset's returns; or none at all, to imitate whoever made the data"""
    normalise: bool = False
    """observations by the dataset's mean and spread (imitation)"""
    tau: Fraction = 0.005
    """target smoothing coefficient (authors' code)"""
    hidden: tuple[Count, ...] = (256, 256)
    """widths of the hidden layers, ReLU between them (authors' code, of the value)"""
    gamma: Fraction = 0.99
    """discount (authors' code)"""
    n_step: Count = 1
    """steps of reward before the bootstrap (the paper: 1)"""
    batch_size: Count = 256
    """transitions in an update (authors' code)"""


PRESETS = {"odice_il": Config(lr=1e-4, decay=1e-5, lam=0.4, norm=False, squash=True, rewarded=False, normalise=True)}


@tree
class State:
    actor: Trained
    value: Trained
    """all value functions, on a leading axis"""
    target: Params
    scale: Params
    """what rewards are multiplied by"""
    seen: Params
    """mean and spread of the dataset's observations"""


def make(cfg: Config, spec: Spec, actor: nets.Build | None = None) -> Learner:
    """`actor(spec)`: your own module, obs -> the means of the actions."""
    if not isinstance(spec.action, Box):
        raise Fault(f"odice: continuous actions (a Box) are needed, the environment's are {spec.action}")
    obs_dim, sizes = spec.obs.dim, (spec.obs.dim, *cfg.hidden)
    actor_net = nets.custom(actor, spec, obs_dim, spec.action.dim) or nets.mlp((*sizes, spec.action.dim))
    pi = nets.bounded(spec, actor_net, cfg.log_std, cfg.squash)
    value_net = nets.ensemble(nets.layers("normed" if cfg.norm else "mlp", (*sizes, 1)), cfg.values)

    def v(p: Params, s: State, obs: Tensor) -> Tensor:  # (values, B)
        return value_net.apply(p, ops.normalised(obs, s.seen)).squeeze(-1)

    def conjugate(x: Tensor) -> Tensor:  # of Pearson's chi-square: f* of table 1
        w = (0.5 * x + 1).clamp(min=0)
        return x * w - (w - 1).square()

    def residual(s: State, b: Batch, value: Tensor, ahead: Tensor) -> Tensor:  # e = r + gamma V(s') - V(s)
        return s.scale["reward"] * b.reward + b.discount * ahead - value

    def forward_loss(p: Params, s: State, b: Batch) -> tuple[Tensor, Metrics]:
        value = v(p, s, b.obs)
        error = residual(s, b, value, v(s.target, s, b.next_obs).amin(0))
        return cfg.lam * conjugate(error).mean(), {"value": value.mean(), "range": value.max() - value.min()}

    def backward_loss(p: Params, s: State, b: Batch) -> tuple[Tensor, Metrics]:
        error = residual(s, b, v(s.target, s, b.obs).amin(0), v(p, s, b.next_obs))
        return cfg.lam * cfg.eta * conjugate(error).mean(), {}

    def mean_loss(p: Params, s: State, b: Batch) -> tuple[Tensor, Metrics]:
        return (1 - cfg.lam) * v(p, s, b.obs).mean(), {}

    def true_loss(p: Params, s: State, b: Batch) -> tuple[Tensor, Metrics]:  # both parts of one residual
        value = v(p, s, b.obs)
        error = residual(s, b, value, v(p, s, b.next_obs))
        return cfg.lam * conjugate(error).mean(), {"value": value.mean(), "range": value.max() - value.min()}

    def actor_loss(p: Params, s: State, b: Batch) -> tuple[Tensor, Metrics]:  # weighted cloning
        error = residual(s, b, v(s.value.params, s, b.obs), v(s.target, s, b.next_obs).amin(0))
        weight = error.clamp(0, cfg.largest).mean(0)
        effective = weight.sum().square() / (len(weight) * weight.square().sum() + 1e-12)  # 1 where all weights are equal
        logp = pi.log_prob(pi.apply(p, ops.normalised(b.obs, s.seen)), b.action)
        shrinking = 0.5 * cfg.decay * torch.stack([x.square().sum() for x in p.values()]).sum()
        return shrinking - (weight * logp).mean(), {"effective_sample": effective}

    def value_step(s: State, b: Batch) -> tuple[Trained, Metrics]:  # algorithm 1; the norm is over all parameters at once
        if cfg.gradient == "true":
            first, (loss, metrics) = gradient(true_loss, s.value.params, s, b)
            second = {k: torch.zeros_like(g) for k, g in first.items()}
        else:
            first, (loss, metrics) = gradient(forward_loss, s.value.params, s, b)
            second, _ = gradient(backward_loss, s.value.params, s, b)
            dot, size = (torch.stack([(g * first[k]).sum() for k, g in x.items()]).sum() for x in (second, first))
            along = dot / size.clamp(min=1e-10)
            keep = 1.0 if cfg.gradient == "orthogonal" else 0.0
            second = {k: keep * (g - along * first[k]) for k, g in second.items()}
            left = torch.stack([(g * first[k]).sum() for k, g in second.items()]).sum()
            metrics = metrics | {"conflict": dot, "left_along": left}
        third, _ = gradient(mean_loss, s.value.params, s, b)
        lr: Any = cfg.lr(s.value.t) if callable(cfg.lr) else cfg.lr
        told = metrics | {"value_loss": loss} | ({"value_lr": lr} if callable(cfg.lr) else {})
        return adam(s.value, {k: first[k] + second[k] + third[k] for k in first}, lr), told

    def init() -> State:
        v0, seen = value_net.init(), {"mean": torch.zeros(obs_dim), "std": torch.ones(obs_dim)}
        return State(fresh(pi.init()), fresh(v0), v0, {"reward": torch.tensor(float(cfg.rewarded))}, seen)

    def given(s: State, data: Batch) -> State:
        spread = data.extra["episode_return"].max() - data.extra["episode_return"].min()
        s = replace(s, scale={"reward": 1_000 / spread}) if cfg.rewarded and spread > 0 else s
        return replace(s, seen=ops.mean_and_std(data.obs, 1e-3)) if cfg.normalise else s

    def update(s: State, b: Batch, k: int = 0) -> tuple[State, Metrics]:  # both from where the update began
        value, m1 = value_step(s, b)
        actor, m2 = descend(s.actor, actor_loss, cfg.lr, s, b)
        return replace(s, actor=actor, value=value, target=polyak(s.target, value.params, cfg.tau)), m1 | m2

    def act(p: dict[str, Params], obs: Tensor, explore: bool) -> Tensor:
        d = pi.apply(p["actor"], ops.normalised(obs, p["seen"]))
        return pi.sample(d) if explore else pi.mode(d)

    return Learner(
        init, update, lambda s: {"actor": s.actor.params, "seen": s.seen}, act,
        losses={"forward": forward_loss, "backward": backward_loss, "mean": mean_loss, "true": true_loss, "actor": actor_loss},
        experience=Offline(cfg.gamma, cfg.n_step, cfg.batch_size), given=given,
    )  # fmt: skip
