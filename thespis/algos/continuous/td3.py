"""Twin Delayed DDPG: a deterministic actor against the smaller of two critics, with smoothed targets and a delayed actor.

Paper: Fujimoto, van Hoof, Meger 2018, "Addressing Function Approximation Error in Actor-Critic Methods", arXiv:1802.09477.
Parent: DDPG (arXiv:1509.02971), which it becomes with one critic, delay 1 and no target noise.
Presets: ddpg, Lillicrap et al. 2016, "Continuous control with deep reinforcement learning", arXiv:1509.02971.
Departures: sizes and step sizes are those of the authors' later code (2 x 256, 3e-4, batch 256), not the paper's tables.
Assumed: equation numbers are cited from memory of the third arXiv version.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from thespis import nets, ops
from thespis.config import Count, Fraction, Members, Natural, NonNegative, Positive, Rate
from thespis.core import Batch, Box, Fault, Learner, Metrics, OffPolicy, Params, Spec, Trained, replace, tree
from thespis.optim import descend, fresh, polyak


@dataclass(frozen=True)
class Config:
    lr: Rate = 3e-4
    """Adam step size of actor and critics (authors' code)"""
    tau: Fraction = 0.005
    """target smoothing coefficient (section 6.1)"""
    hidden: tuple[Count, ...] = (256, 256)
    """widths of the hidden layers, ReLU between them (authors' code)"""
    critics: Members = 2
    """number of critics; the target takes the minimum (section 4.2)"""
    delay: Count = 2
    """critic updates for each update of actor and targets (section 5.2)"""
    noise: NonNegative = 0.1
    """standard deviation of the exploration noise (section 6.1)"""
    target_noise: NonNegative = 0.2
    """standard deviation of the noise on the target's action (section 5.3)"""
    target_clip: NonNegative = 0.5
    """bound of that noise (section 5.3)"""
    gamma: Fraction = 0.99
    """discount (section 6.1)"""
    n_step: Count = 1
    """steps of reward before the bootstrap (the paper: 1)"""
    batch_size: Count = 256
    """transitions in an update (authors' code)"""
    replay_size: Count = 1_000_000
    """transitions kept (authors' code)"""
    warmup: Natural = 25_000
    """uniformly random environment steps before the first update (authors' code)"""
    updates_per_step: Positive = 1.0
    """gradient steps for each environment step (algorithm 1)"""


PRESETS = {"ddpg": Config(critics=1, delay=1, target_noise=0.0)}


@tree
class State:
    actor: Trained
    critic: Trained
    """all critics, on a leading axis"""
    actor_target: Params
    critic_target: Params


def make(cfg: Config, spec: Spec, actor: nets.Build | None = None, critic: nets.Build | None = None) -> Learner:
    """`actor(spec)` and `critic(spec)`: your own modules, obs -> action before its tanh and (obs, action) -> one value."""
    if not isinstance(spec.action, Box):
        raise Fault(f"td3: continuous actions (a Box) are needed, the environment's are {spec.action}")
    obs_dim, action_dim = spec.obs.dim, spec.action.dim
    actor_net = nets.custom(actor, spec, obs_dim, action_dim) or nets.mlp((obs_dim, *cfg.hidden, action_dim))
    critic_net = nets.custom(critic, spec, obs_dim + action_dim, 1) or nets.mlp((obs_dim + action_dim, *cfg.hidden, 1))
    critics = nets.ensemble(critic_net, cfg.critics)

    def pi(p: Params, obs: Tensor) -> Tensor:  # (B, action)
        return actor_net.apply(p, obs).tanh()

    def q(p: Params, obs: Tensor, action: Tensor) -> Tensor:  # (critics, B)
        return critics.apply(p, torch.cat([obs, action], -1)).squeeze(-1)

    def critic_loss(p: Params, s: State, b: Batch) -> tuple[Tensor, Metrics]:  # algorithm 1; eqs. 10, 14
        noise = (cfg.target_noise * torch.randn_like(b.action)).clamp(-cfg.target_clip, cfg.target_clip)
        action = (pi(s.actor_target, b.next_obs) + noise).clamp(-1, 1)
        value = q(s.critic_target, b.next_obs, action).amin(0)
        values = q(p, b.obs, b.action)
        square, told = ops.squared(values - ops.backup(b.reward, b.discount, value), b)
        return square.mean(-1).sum(), {"q": values.mean(), **told}

    def actor_loss(p: Params, s: State, b: Batch) -> tuple[Tensor, Metrics]:  # algorithm 1: the first critic alone
        return -q(s.critic.params, b.obs, pi(p, b.obs))[0].mean(), {}

    def init() -> State:
        p, q0 = actor_net.init(), critics.init()
        return State(fresh(p), fresh(q0), p, q0)

    def update(s: State, b: Batch, k: int = 0) -> tuple[State, Metrics]:  # algorithm 1
        critic, metrics = descend(s.critic, critic_loss, cfg.lr, s, b)
        s = replace(s, critic=critic)
        if k == cfg.delay - 1:
            actor, m = descend(s.actor, actor_loss, cfg.lr, s, b, clock=critic.t - 1)
            targets = polyak(s.actor_target, actor.params, cfg.tau), polyak(s.critic_target, critic.params, cfg.tau)
            s, metrics = State(actor, critic, *targets), metrics | m
        return s, metrics

    def act(p: Params, obs: Tensor, explore: bool) -> Tensor:
        action = pi(p, obs)
        return (action + cfg.noise * torch.randn_like(action)).clamp(-1, 1) if explore else action

    return Learner(
        init, update, lambda s: s.actor.params, act,
        losses={"critic": critic_loss, "actor": actor_loss},
        experience=OffPolicy(cfg.gamma, cfg.n_step, cfg.batch_size, cfg.replay_size, cfg.warmup, cfg.updates_per_step),
        value=lambda s, o, a: (q(s.critic.params, o, a).mean(0), torch.zeros(len(o))),
        period=cfg.delay,
    )  # fmt: skip
