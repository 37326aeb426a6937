"""Truncated quantile critics: SAC whose critics learn the return's distribution, of which targets leave out the highest part.

Paper: Kuznetsov et al. 2020, "Controlling Overestimation Bias with Truncated Mixture of Continuous Distributional Quantile
Critics", arXiv:2005.04269.
Parent: sac, which it becomes with one critic of one quantile: while errors are below 1 its critic loss is half of sac's, and
Adam does not see the half.
Departures: the actor climbs critics that have taken their step, as in sac and sb3-contrib (authors' code: forward before that
step, backward after it).
Assumed: equation numbers are cited from memory; losses and numbers are those of the authors' code (bayesgroup/tqc_pytorch).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from thespis import nets, ops
from thespis.config import Count, Fraction, Interval, Members, Natural, Positive, Rate
from thespis.core import Batch, Box, Fault, Learner, Metrics, OffPolicy, Params, Spec, Trained, replace, tree
from thespis.optim import descend, fresh, polyak


@dataclass(frozen=True)
class Config:
    lr: Rate = 3e-4
    """Adam step size of actor, critics and temperature (authors' code)"""
    tau: Fraction = 0.005
    """target smoothing coefficient (authors' code)"""
    hidden: tuple[Count, ...] = (256, 256)
    """widths of the actor's hidden layers, ReLU between them (authors' code)"""
    critic_hidden: tuple[Count, ...] = (512, 512, 512)
    """widths of each critic's hidden layers (authors' code)"""
    critics: Members = 5
    """number of critics, N (authors' code)"""
    quantiles: Members = 25
    """quantiles of the return that each critic gives, M (authors' code)"""
    drop: Natural = 2
    """highest quantiles left out of the target, for each critic (authors: Hopper 5, HalfCheetah 0, Walker2d, Ant, Humanoid 2)"""
    alpha: Positive | None = None
    """fixed temperature; None learns it (authors' code: learnt)"""
    initial_alpha: Positive = 1.0
    """where a learned temperature starts (authors' code)"""
    entropy_per_dim: float = -1.0
    """target entropy is this times the action dimension (authors' code)"""
    log_std: Interval = (-20.0, 2.0)
    """range that the policy's log standard deviation is clipped to (authors' code)"""
    gamma: Fraction = 0.99
    """discount (authors' code)"""
    n_step: Count = 1
    """steps of reward before the bootstrap (the paper: 1)"""
    batch_size: Count = 256
    """transitions in an update (authors' code)"""
    replay_size: Count = 1_000_000
    """transitions kept (authors' code)"""
    warmup: Natural = 256
    """uniformly random environment steps before the first update (authors' code: one batch, acted by the policy)"""
    updates_per_step: Positive = 1.0
    """gradient steps for each environment step (authors' code)"""


@tree
class State:
    actor: Trained
    critic: Trained
    """all critics, on a leading axis"""
    target: Params
    log_alpha: Trained


def make(cfg: Config, spec: Spec, actor: nets.Build | None = None, critic: nets.Build | None = None) -> Learner:
    """`actor(spec)` and `critic(spec)`: your own modules, obs -> (mean, log std) and (obs, action) -> quantiles."""
    if not isinstance(spec.action, Box):
        raise Fault(f"tqc: continuous actions (a Box) are needed, the environment's are {spec.action}")
    if cfg.drop >= cfg.quantiles:
        raise Fault(f"drop is {cfg.drop}; allowed: less than quantiles, {cfg.quantiles}")
    obs_dim, action_dim = spec.obs.dim, spec.action.dim
    actor_net = nets.custom(actor, spec, obs_dim, 2 * action_dim) or nets.mlp((obs_dim, *cfg.hidden, 2 * action_dim))
    sizes = (obs_dim + action_dim, *cfg.critic_hidden, cfg.quantiles)
    critics = nets.ensemble(nets.custom(critic, spec, sizes[0], sizes[-1]) or nets.mlp(sizes), cfg.critics)
    kept = cfg.critics * (cfg.quantiles - cfg.drop)

    def gaussian(p: Params, obs: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = actor_net.apply(p, obs).chunk(2, -1)
        return mean, log_std.clamp(*cfg.log_std)

    def pi(p: Params, obs: Tensor) -> tuple[Tensor, Tensor]:  # a ~ pi(.|s) and log pi(a|s)
        return ops.squashed_sample(*gaussian(p, obs))

    def z(p: Params, obs: Tensor, action: Tensor) -> Tensor:  # (critics, B, quantiles)
        return critics.apply(p, torch.cat([obs, action], -1))

    def alpha(s: State) -> Tensor:
        return s.log_alpha.params["x"].exp()

    def critic_loss(p: Params, s: State, b: Batch) -> tuple[Tensor, Metrics]:  # eqs. 9-12
        action, logp = pi(s.actor.params, b.next_obs)
        pool = z(s.target, b.next_obs, action).transpose(0, 1).flatten(1)
        least = pool.sort(-1)[0][:, :kept] - (alpha(s) * logp)[:, None]
        out = z(p, b.obs, b.action)
        return ops.quantile_huber(out, ops.backup(b.reward[:, None], b.discount[:, None], least)), {"q": out.mean()}

    def actor_loss(p: Params, s: State, b: Batch) -> tuple[Tensor, Metrics]:  # eq. 14: nothing is left out
        action, logp = pi(p, b.obs)
        return (alpha(s) * logp - z(s.critic.params, b.obs, action).mean((0, 2))).mean(), {"entropy": -logp.mean()}

    def alpha_loss(p: Params, entropy: Tensor) -> tuple[Tensor, Metrics]:  # on log alpha, as the authors' code
        return p["x"] * (entropy - cfg.entropy_per_dim * action_dim), {}

    def init() -> State:
        z0 = critics.init()
        log_alpha = torch.tensor(cfg.initial_alpha if cfg.alpha is None else cfg.alpha).log()
        return State(fresh(actor_net.init()), fresh(z0), z0, fresh({"x": log_alpha}))

    def update(s: State, b: Batch, k: int = 0) -> tuple[State, Metrics]:  # algorithm 1
        critic, m1 = descend(s.critic, critic_loss, cfg.lr, s, b)
        s = replace(s, critic=critic)
        actor, m2 = descend(s.actor, actor_loss, cfg.lr, s, b)
        s = replace(s, actor=actor)
        if cfg.alpha is None:
            temperature, m3 = descend(s.log_alpha, alpha_loss, cfg.lr, m2["entropy"])
            s, m2 = replace(s, log_alpha=temperature), m2 | m3
        return replace(s, target=polyak(s.target, critic.params, cfg.tau)), m1 | m2 | {"alpha": alpha(s)}

    def act(p: Params, obs: Tensor, explore: bool) -> Tensor:
        return pi(p, obs)[0] if explore else gaussian(p, obs)[0].tanh()

    return Learner(
        init, update, lambda s: s.actor.params, act,
        losses={"critic": critic_loss, "actor": actor_loss, "alpha": alpha_loss},
        experience=OffPolicy(cfg.gamma, cfg.n_step, cfg.batch_size, cfg.replay_size, cfg.warmup, cfg.updates_per_step),
        value=lambda s, o, a: (z(s.critic.params, o, a).mean((0, 2)), -alpha(s) * pi(s.actor.params, o)[1]),
    )  # fmt: skip
