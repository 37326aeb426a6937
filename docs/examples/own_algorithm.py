# docs/examples/own_algorithm.py
"""A deterministic actor-critic whose rewards are centred: their running mean is taken off before the critic sees them.

Paper: Naik, Wan, Tomar, Sutton 2024, "Reward Centering", arXiv:2405.09999.
Parent: DDPG, which it becomes at centring 0.
Departures: the paper centres tabular and linear methods, Q-learning and PPO; here it is an actor-critic with replay.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from thespis import nets, ops
from thespis.config import Count, Fraction, Natural, Positive, Rate
from thespis.core import Batch, Box, Fault, Learner, Metrics, OffPolicy, Params, Spec, Trained, replace, tree
from thespis.optim import descend, fresh, polyak


@dataclass(frozen=True)
class Config:
    lr: Rate = 1e-3
    """Adam step size of actor and critic"""
    centring: Fraction = 0.01
    """step size of the running mean of the rewards"""
    noise: Positive = 0.1
    """standard deviation of the exploration noise"""
    hidden: tuple[Count, ...] = (256, 256)
    """widths of the hidden layers"""
    tau: Fraction = 0.005
    """target smoothing coefficient"""
    gamma: Fraction = 0.99
    """discount"""
    warmup: Natural = 1_000
    """uniformly random environment steps before the first update"""


@tree
class State:
    actor: Trained
    critic: Trained
    target: Params
    mean: Tensor
    """(), the running mean of the rewards"""


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
        value = q(s.target, b.next_obs, pi(s.actor.params, b.next_obs))
        error = ops.backup(b.reward - s.mean, b.discount, value) - q(p, b.obs, b.action)
        return error.square().mean(), {"error": error.mean()}

    def actor_loss(p: Params, s: State, b: Batch) -> tuple[Tensor, Metrics]:
        return -q(s.critic.params, b.obs, pi(p, b.obs)).mean(), {}

    def init() -> State:
        q0 = critic.init()
        return State(fresh(actor.init()), fresh(q0), q0, torch.zeros(()))

    def update(s: State, b: Batch, k: int = 0) -> tuple[State, Metrics]:
        new, m1 = descend(s.critic, critic_loss, cfg.lr, s, b)
        s = replace(s, critic=new, mean=s.mean + cfg.centring * m1["error"])
        new, m2 = descend(s.actor, actor_loss, cfg.lr, s, b)
        s = replace(s, actor=new, target=polyak(s.target, s.critic.params, cfg.tau))
        return s, m1 | m2 | {"mean": s.mean}

    def act(p: Params, obs: Tensor, explore: bool) -> Tensor:
        action = pi(p, obs)
        return (action + cfg.noise * torch.randn_like(action)).clamp(-1, 1) if explore else action

    return Learner(
        init, update, lambda s: s.actor.params, act,
        losses={"critic": critic_loss, "actor": actor_loss},
        experience=OffPolicy(cfg.gamma, n_step=1, batch_size=256, replay_size=1_000_000, warmup=cfg.warmup, updates_per_step=1),
    )  # fmt: skip
