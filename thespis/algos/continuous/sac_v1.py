"""Soft Actor-Critic, first version: a fixed temperature of one, scaled rewards, and a separate soft value function.

Paper: Haarnoja et al. 2018, "Soft Actor-Critic: Off-Policy Maximum Entropy Deep RL with a Stochastic Actor", arXiv:1801.01290.
Parent: sac, whose soft Bellman target it shares: V(s') = E[min Q - log pi], here learnt by regression instead of sampled.
Departures: none known; as in the official code the actor climbs the first critic and keeps its Gaussian's moments small.
Assumed: equation and table numbers are cited from memory of the second arXiv version.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from thespis import nets, ops
from thespis.config import Count, Fraction, Interval, Members, Natural, NonNegative, Positive, Rate
from thespis.core import Batch, Box, Fault, Learner, Metrics, OffPolicy, Params, Spec, Trained, tree
from thespis.optim import descend, fresh, polyak


@dataclass(frozen=True)
class Config:
    lr: Rate = 3e-4
    """Adam step size of all three networks (table 1)"""
    tau: Fraction = 0.005
    """smoothing coefficient of the value target (table 1)"""
    hidden: tuple[Count, ...] = (256, 256)
    """widths of the hidden layers, ReLU between them (table 1)"""
    critics: Members = 2
    """number of soft Q-functions; the value takes the minimum (section 4.2)"""
    reward_scale: Positive = 5.0
    """1 / temperature; 5 for Hopper, HalfCheetah, Walker2d and Ant, 20 for Humanoid (table 2)"""
    moments: NonNegative = 1e-3
    """weight of the squared mean and log std in the actor's loss (official code)"""
    log_std: Interval = (-20.0, 2.0)
    """range that the policy's log standard deviation is clipped to (official code)"""
    gamma: Fraction = 0.99
    """discount (table 1)"""
    n_step: Count = 1
    """steps of reward before the bootstrap (the paper: 1)"""
    batch_size: Count = 256
    """transitions in an update (table 1)"""
    replay_size: Count = 1_000_000
    """transitions kept (table 1)"""
    warmup: Natural = 1_000
    """uniformly random environment steps before the first update; 10,000 for HalfCheetah and Ant (official code)"""
    updates_per_step: Positive = 1.0
    """gradient steps for each environment step (table 1)"""


@tree
class State:
    actor: Trained
    critic: Trained
    """all critics, on a leading axis"""
    value: Trained
    target: Params
    """slow copy of the value function"""


def make(cfg: Config, spec: Spec, actor: nets.Build | None = None, critic: nets.Build | None = None) -> Learner:
    """`actor(spec)` and `critic(spec)`: your own modules, obs -> (mean, log std) and (obs, action) -> one value."""
    if not isinstance(spec.action, Box):
        raise Fault(f"sac_v1: continuous actions (a Box) are needed, the environment's are {spec.action}")
    obs_dim, action_dim = spec.obs.dim, spec.action.dim
    actor_net = nets.custom(actor, spec, obs_dim, 2 * action_dim) or nets.mlp((obs_dim, *cfg.hidden, 2 * action_dim))
    critic_net = nets.custom(critic, spec, obs_dim + action_dim, 1) or nets.mlp((obs_dim + action_dim, *cfg.hidden, 1))
    critics, value_net = nets.ensemble(critic_net, cfg.critics), nets.mlp((obs_dim, *cfg.hidden, 1))

    def gaussian(p: Params, obs: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = actor_net.apply(p, obs).chunk(2, -1)
        return mean, log_std.clamp(*cfg.log_std)

    def q(p: Params, obs: Tensor, action: Tensor) -> Tensor:  # (critics, B)
        return critics.apply(p, torch.cat([obs, action], -1)).squeeze(-1)

    def v(p: Params, obs: Tensor) -> Tensor:  # (B,)
        return value_net.apply(p, obs).squeeze(-1)

    def value_loss(p: Params, s: State, b: Batch) -> tuple[Tensor, Metrics]:  # eq. 5
        action, logp = ops.squashed_sample(*gaussian(s.actor.params, b.obs))
        error = v(p, b.obs) - (q(s.critic.params, b.obs, action).amin(0) - logp).detach()
        return 0.5 * error.square().mean(), {}

    def critic_loss(p: Params, s: State, b: Batch) -> tuple[Tensor, Metrics]:  # eqs. 7, 8
        values = q(p, b.obs, b.action)
        square, told = ops.squared(values - ops.backup(cfg.reward_scale * b.reward, b.discount, v(s.target, b.next_obs)), b)
        return 0.5 * square.mean(-1).sum(), {"q": values.mean(), **told}

    def actor_loss(p: Params, s: State, b: Batch) -> tuple[Tensor, Metrics]:  # eq. 12: the first critic alone
        mean, log_std = gaussian(p, b.obs)
        action, logp = ops.squashed_sample(mean, log_std)
        small = cfg.moments * 0.5 * (mean.square().mean() + log_std.square().mean())
        return (logp - q(s.critic.params, b.obs, action)[0]).mean() + small, {"entropy": -logp.mean()}

    def init() -> State:
        v0 = value_net.init()
        return State(fresh(actor_net.init()), fresh(critics.init()), fresh(v0), v0)

    def update(s: State, b: Batch, k: int = 0) -> tuple[State, Metrics]:  # algorithm 1: all gradients at the old parameters
        value, m1 = descend(s.value, value_loss, cfg.lr, s, b)
        critic, m2 = descend(s.critic, critic_loss, cfg.lr, s, b)
        actor, m3 = descend(s.actor, actor_loss, cfg.lr, s, b)
        return State(actor, critic, value, polyak(s.target, value.params, cfg.tau)), m1 | m2 | m3

    def act(p: Params, obs: Tensor, explore: bool) -> Tensor:
        mean, log_std = gaussian(p, obs)
        return ops.squashed_sample(mean, log_std)[0] if explore else mean.tanh()

    return Learner(
        init, update, lambda s: s.actor.params, act,
        losses={"value": value_loss, "critic": critic_loss, "actor": actor_loss},
        experience=OffPolicy(cfg.gamma, cfg.n_step, cfg.batch_size, cfg.replay_size, cfg.warmup, cfg.updates_per_step),
        value=lambda s, o, a: (
            q(s.critic.params, o, a).mean(0) / cfg.reward_scale,
            -ops.squashed_sample(*gaussian(s.actor.params, o))[1] / cfg.reward_scale,
        ),
    )  # fmt: skip
