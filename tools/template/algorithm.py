"""A deterministic actor and its critic, as make new writes them.

Paper: none of its own yet; the core of Lillicrap et al. 2016, arXiv:1509.02971.
Parent: the deterministic policy gradient of Silver et al. 2014, whose critic target it takes at tau = 1.
Departures: no target actor; Gaussian exploration noise instead of an Ornstein-Uhlenbeck process.
"""

# REPLACE the header: what it is; its paper; the algorithm it grew from, and the limit at which it becomes that one; where this
# file leaves the paper, and why. Then keep what the paper keeps, write over the rest, and delete these remarks.

from dataclasses import dataclass

import torch
from torch import Tensor

from thespis import nets, ops
from thespis.config import Count, Fraction, Natural, Positive, Rate
from thespis.core import Batch, Box, Fault, Learner, Metrics, OffPolicy, Params, Spec, Trained, replace, tree
from thespis.optim import descend, fresh, polyak


@dataclass(frozen=True)
class Config:
    # REPLACE the numbers, and name under each the equation or table where it stands
    lr: Rate = 3e-4
    """Adam step size of actor and critic (table ?)"""
    tau: Fraction = 0.005
    """target smoothing coefficient (table ?)"""
    hidden: tuple[Count, ...] = (256, 256)
    """widths of the hidden layers, ReLU between them (table ?)"""
    noise: Positive = 0.1
    """standard deviation of the exploration noise (table ?)"""
    gamma: Fraction = 0.99
    """discount (table ?)"""
    n_step: Count = 1
    """steps of reward before the bootstrap (table ?)"""
    batch_size: Count = 256
    """transitions in an update (table ?)"""
    replay_size: Count = 1_000_000
    """transitions kept (table ?)"""
    warmup: Natural = 10_000
    """uniformly random environment steps before the first update (table ?)"""
    updates_per_step: Positive = 1.0
    """gradient steps for each environment step (table ?)"""


@tree
class State:
    actor: Trained
    critic: Trained
    target: Params
    """slow copy of the critic"""


def make(cfg: Config, spec: Spec, actor: nets.Build | None = None, critic: nets.Build | None = None) -> Learner:
    """`actor(spec)` and `critic(spec)`: your own modules, obs -> action before its tanh and (obs, action) -> one value."""
    if not isinstance(spec.action, Box):
        raise Fault(f"NAME: continuous actions (a Box) are needed, the environment's are {spec.action}")
    obs_dim, action_dim = spec.obs.dim, spec.action.dim
    actor_net = nets.custom(actor, spec, obs_dim, action_dim) or nets.mlp((obs_dim, *cfg.hidden, action_dim))
    critic_net = nets.custom(critic, spec, obs_dim + action_dim, 1) or nets.mlp((obs_dim + action_dim, *cfg.hidden, 1))

    def pi(p: Params, obs: Tensor) -> Tensor:  # (B, action)
        return actor_net.apply(p, obs).tanh()

    def q(p: Params, obs: Tensor, action: Tensor) -> Tensor:  # (B,)
        return critic_net.apply(p, torch.cat([obs, action], -1)).squeeze(-1)

    def critic_loss(p: Params, s: State, b: Batch) -> tuple[Tensor, Metrics]:  # eq. ?
        value = q(s.target, b.next_obs, pi(s.actor.params, b.next_obs))
        values = q(p, b.obs, b.action)
        error = values - ops.backup(b.reward, b.discount, value)
        return error.square().mean(), {"q": values.mean()}

    def actor_loss(p: Params, s: State, b: Batch) -> tuple[Tensor, Metrics]:  # eq. ?
        return -q(s.critic.params, b.obs, pi(p, b.obs)).mean(), {}

    def init() -> State:
        q0 = critic_net.init()
        return State(fresh(actor_net.init()), fresh(q0), q0)

    def update(s: State, b: Batch, k: int = 0) -> tuple[State, Metrics]:  # algorithm ?
        critic, m1 = descend(s.critic, critic_loss, cfg.lr, s, b)
        s = replace(s, critic=critic)
        actor, m2 = descend(s.actor, actor_loss, cfg.lr, s, b)
        s = replace(s, actor=actor, target=polyak(s.target, critic.params, cfg.tau))
        return s, m1 | m2

    def act(p: Params, obs: Tensor, explore: bool) -> Tensor:
        action = pi(p, obs)
        return (action + cfg.noise * torch.randn_like(action)).clamp(-1, 1) if explore else action

    return Learner(
        init, update, lambda s: s.actor.params, act,
        losses={"critic": critic_loss, "actor": actor_loss},
        experience=OffPolicy(cfg.gamma, cfg.n_step, cfg.batch_size, cfg.replay_size, cfg.warmup, cfg.updates_per_step),
        value=lambda s, o, a: (q(s.critic.params, o, a), torch.zeros(len(o))),
    )  # fmt: skip
