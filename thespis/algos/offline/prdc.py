"""PRDC: TD3 on recorded data, with an actor that is drawn to the action of the nearest recorded pair of state and action.

Paper: Ran, Li, Zhang, Zhang, Yu 2023, "Policy Regularization with Dataset Constraint for Offline Reinforcement Learning",
arXiv:2306.06569.
Parent: TD3+BC (arXiv:2106.06860), which it becomes as beta grows without bound and every recorded pair is a key.
Departures: of a large dataset a random part, `keys`, is searched (the authors' code: all of it, by a KD-tree); the nearest pair
alone, not the k-th; no scale and shift of rewards (authors' code, AntMaze).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from thespis import nets, ops
from thespis.config import Count, Fraction, Members, NonNegative, Rate
from thespis.core import Batch, Box, Fault, Learner, Metrics, Params, Spec, Trained, replace, tree
from thespis.data import Offline
from thespis.optim import descend, fresh, polyak


@dataclass(frozen=True)
class Config:
    lr: Rate = 3e-4
    """Adam step size of actor and critics (authors' code)"""
    tau: Fraction = 0.005
    """target smoothing coefficient (authors' code)"""
    hidden: tuple[Count, ...] = (256, 256)
    """widths of the hidden layers, ReLU between them (authors' code)"""
    alpha: NonNegative = 2.5
    """weight of the critic, once it is divided by its mean size (Hopper, Walker2d; HalfCheetah: 40, AntMaze: 7.5)"""
    beta: NonNegative = 2.0
    """what a normalised state weighs against an action in the distance of two pairs (MuJoCo; AntMaze: 7.5)"""
    keys: Count = 20_000
    """recorded pairs that are searched: drawn at random where there are more (authors' code: all)"""
    normalise: bool = True
    """observations by the dataset's mean and spread (authors' code)"""
    critics: Members = 2
    """number of critics; the target takes the minimum (TD3)"""
    delay: Count = 2
    """critic updates for each update of actor and targets (authors' code)"""
    target_noise: NonNegative = 0.2
    """standard deviation of the noise on the target's action (authors' code)"""
    target_clip: NonNegative = 0.5
    """bound of that noise (authors' code)"""
    noise: NonNegative = 0.1
    """standard deviation of the noise of an action that explores: where the policy records data, or goes on live (TD3)"""
    gamma: Fraction = 0.99
    """discount (authors' code)"""
    n_step: Count = 1
    """steps of reward before the bootstrap (the paper: 1)"""
    batch_size: Count = 256
    """transitions in an update (authors' code)"""


@tree
class State:
    actor: Trained
    critic: Trained
    """all critics, on a leading axis"""
    actor_target: Params
    critic_target: Params
    seen: Params
    """mean and spread of the dataset's observations"""
    keys: Tensor
    """recorded pairs, beta * state beside action"""


def make(cfg: Config, spec: Spec, actor: nets.Build | None = None, critic: nets.Build | None = None) -> Learner:
    """`actor(spec)` and `critic(spec)`: your own modules, obs -> action before its tanh and (obs, action) -> one value."""
    if not isinstance(spec.action, Box):
        raise Fault(f"prdc: continuous actions (a Box) are needed, the environment's are {spec.action}")
    obs_dim, action_dim = spec.obs.dim, spec.action.dim
    actor_net = nets.custom(actor, spec, obs_dim, action_dim) or nets.mlp((obs_dim, *cfg.hidden, action_dim))
    critic_net = nets.custom(critic, spec, obs_dim + action_dim, 1) or nets.mlp((obs_dim + action_dim, *cfg.hidden, 1))
    critics = nets.ensemble(critic_net, cfg.critics)

    def pi(p: Params, x: Tensor) -> Tensor:  # (B, action); x is a normalised observation, here and below
        return actor_net.apply(p, x).tanh()

    def q(p: Params, x: Tensor, action: Tensor) -> Tensor:  # (critics, B)
        return critics.apply(p, torch.cat([x, action], -1)).squeeze(-1)

    def critic_loss(p: Params, s: State, b: Batch) -> tuple[Tensor, Metrics]:  # TD3's
        x, after = ops.normalised(b.obs, s.seen), ops.normalised(b.next_obs, s.seen)
        noise = (cfg.target_noise * torch.randn_like(b.action)).clamp(-cfg.target_clip, cfg.target_clip)
        action = (pi(s.actor_target, after) + noise).clamp(-1, 1)
        values = q(p, x, b.action)
        error = values - ops.backup(b.reward, b.discount, q(s.critic_target, after, action).amin(0))
        return error.square().mean(-1).sum(), {"q": values.mean()}

    def recorded(s: State, x: Tensor, action: Tensor) -> Tensor:  # the action of the nearest recorded pair
        index = ops.nearest(torch.cat([cfg.beta * x, action], -1), s.keys)
        return s.keys[index, obs_dim:]

    def actor_loss(p: Params, s: State, b: Batch) -> tuple[Tensor, Metrics]:
        x = ops.normalised(b.obs, s.seen)
        action = pi(p, x)
        value = q(s.critic.params, x, action)[0]
        weight = cfg.alpha / value.abs().mean().detach()
        distance = (action - recorded(s, x, action.detach())).square().mean()
        return distance - weight * value.mean(), {"distance": distance}

    def init() -> State:
        p, q0, seen = actor_net.init(), critics.init(), {"mean": torch.zeros(obs_dim), "std": torch.ones(obs_dim)}
        return State(fresh(p), fresh(q0), p, q0, seen, ops.keyed(torch.zeros(1, obs_dim + action_dim)))

    def given(s: State, data: Batch) -> State:
        s = replace(s, seen=ops.mean_and_std(data.obs, 1e-3)) if cfg.normalise else s
        kept = torch.randperm(len(data.obs))[: cfg.keys].sort().values
        pairs = torch.cat([cfg.beta * ops.normalised(data.obs[kept], s.seen), data.action[kept]], -1)
        return replace(s, keys=ops.keyed(pairs))

    def update(s: State, b: Batch, k: int = 0) -> tuple[State, Metrics]:
        critic, metrics = descend(s.critic, critic_loss, cfg.lr, s, b)
        s = replace(s, critic=critic)
        if k == cfg.delay - 1:
            actor, m = descend(s.actor, actor_loss, cfg.lr, s, b, clock=critic.t - 1)
            targets = polyak(s.actor_target, actor.params, cfg.tau), polyak(s.critic_target, critic.params, cfg.tau)
            s, metrics = replace(s, actor=actor, actor_target=targets[0], critic_target=targets[1]), metrics | m
        return s, metrics

    def act(p: dict[str, Params], obs: Tensor, explore: bool) -> Tensor:
        action = pi(p["actor"], ops.normalised(obs, p["seen"]))
        return (action + cfg.noise * torch.randn_like(action)).clamp(-1, 1) if explore else action

    return Learner(
        init, update, lambda s: {"actor": s.actor.params, "seen": s.seen}, act,
        losses={"critic": critic_loss, "actor": actor_loss},
        experience=Offline(cfg.gamma, cfg.n_step, cfg.batch_size), given=given, period=cfg.delay,
        value=lambda s, o, a: (q(s.critic.params, ops.normalised(o, s.seen), a).mean(0), torch.zeros(len(o))),
    )  # fmt: skip
