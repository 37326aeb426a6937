# docs/examples/own_algorithm.py
"""A deterministic actor that steps less often than its critic.

Paper: none of its own; DDPG is Lillicrap et al. 2016, arXiv:1509.02971, the delay is from Fujimoto et al. 2018, arXiv:1802.09477.
Parent: DDPG, which it becomes at delay 1.
Departures: Gaussian exploration noise, not Ornstein-Uhlenbeck's; no weight decay.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from thespis import nets, ops
from thespis.config import Count, Fraction, Natural, Positive
from thespis.core import Batch, Box, Fault, Learner, Metrics, OffPolicy, Params, Spec, Trained, replace, tree
from thespis.optim import descend, fresh, polyak


@dataclass(frozen=True)
class Config:
    lr: Positive = 1e-3
    """Adam step size of actor and critic"""
    tau: Fraction = 0.005
    """target smoothing coefficient"""
    hidden: tuple[Count, ...] = (256, 256)
    """widths of the hidden layers"""
    delay: Count = 2
    """updates of the critic for each one of the actor and the targets"""
    noise: Positive = 0.1
    """standard deviation of the exploration noise"""
    gamma: Fraction = 0.99
    """discount"""
    batch_size: Count = 256
    """transitions in an update"""
    warmup: Natural = 1_000
    """uniformly random environment steps before the first update"""


@tree
class State:
    actor: Trained
    critic: Trained
    slow_actor: Params
    slow_critic: Params


def make(cfg: Config, spec: Spec) -> Learner:
    if not isinstance(spec.action, Box):
        raise Fault(f"own_algorithm: continuous actions (a Box) are needed, the environment's are {spec.action}")
    obs_dim, action_dim = spec.obs.dim, spec.action.dim
    actor, critic = nets.mlp((obs_dim, *cfg.hidden, action_dim)), nets.mlp((obs_dim + action_dim, *cfg.hidden, 1))

    def pi(p: Params, obs: Tensor) -> Tensor:  # (B, action)
        return actor.apply(p, obs).tanh()

    def q(p: Params, obs: Tensor, action: Tensor) -> Tensor:  # (B,)
        return critic.apply(p, torch.cat([obs, action], -1)).squeeze(-1)

    def critic_loss(p: Params, s: State, b: Batch) -> tuple[Tensor, Metrics]:
        target = ops.backup(b.reward, b.discount, q(s.slow_critic, b.next_obs, pi(s.slow_actor, b.next_obs)))
        return (q(p, b.obs, b.action) - target).square().mean(), {"target": target.mean()}

    def actor_loss(p: Params, s: State, b: Batch) -> tuple[Tensor, Metrics]:
        return -q(s.critic.params, b.obs, pi(p, b.obs)).mean(), {}

    def init() -> State:
        p, w = actor.init(), critic.init()
        return State(fresh(p), fresh(w), p, w)

    def update(s: State, b: Batch, k: int = 0) -> tuple[State, Metrics]:  # k runs through 0 .. delay - 1
        new, metrics = descend(s.critic, critic_loss, cfg.lr, s, b)
        s = replace(s, critic=new)
        if k == cfg.delay - 1:
            new, more = descend(s.actor, actor_loss, cfg.lr, s, b)
            slow = polyak(s.slow_actor, new.params, cfg.tau), polyak(s.slow_critic, s.critic.params, cfg.tau)
            s, metrics = replace(s, actor=new, slow_actor=slow[0], slow_critic=slow[1]), metrics | more
        return s, metrics

    def act(p: Params, obs: Tensor, explore: bool) -> Tensor:
        action = pi(p, obs)
        return (action + cfg.noise * torch.randn_like(action)).clamp(-1, 1) if explore else action

    return Learner(
        init, update, lambda s: s.actor.params, act,
        losses={"critic": critic_loss, "actor": actor_loss},
        experience=OffPolicy(cfg.gamma, 1, cfg.batch_size, 1_000_000, cfg.warmup, updates_per_step=1.0),
        period=cfg.delay,
    )  # fmt: skip
