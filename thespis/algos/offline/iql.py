"""Implicit Q-learning: the value of the best recorded actions by an expectile, and the policy that they have; no other is asked.

Paper: Kostrikov, Nair, Levine 2021, "Offline Reinforcement Learning with Implicit Q-Learning", arXiv:2110.06169.
Parent: SARSA on recorded data, whose value it has at expectile 0.5; at beta 0 the actor is behaviour cloning.
Departures: none known in the update, whose order is that of the authors' code.
Assumed: equation numbers and the numbers of appendix B are cited from memory of the first arXiv version.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from thespis import nets, ops
from thespis.config import Count, Fraction, Interval, Members, Natural, NonNegative, Positive, Rate
from thespis.core import Batch, Box, Fault, Learner, Metrics, Params, Spec, Trained, replace, tree
from thespis.data import Offline
from thespis.optim import descend, fresh, polyak


@dataclass(frozen=True)
class Config:
    lr: Rate = 3e-4
    """Adam step size of actor, critics and value (appendix B)"""
    decay: Natural = 1_000_000
    """updates over which the actor's step size falls to 0 along a cosine (appendix B: over the run); 0: it stays"""
    tau: Fraction = 0.005
    """target smoothing coefficient (appendix B)"""
    hidden: tuple[Count, ...] = (256, 256)
    """widths of the hidden layers, ReLU between them (appendix B)"""
    expectile: Fraction = 0.7
    """of the values of the recorded actions, that is taken for the value of a state (MuJoCo; AntMaze: 0.9)"""
    beta: NonNegative = 3.0
    """inverse temperature of the actor's weights (MuJoCo; AntMaze: 10)"""
    largest: Positive = 100.0
    """those weights are at most so large (authors' code)"""
    log_std: Interval = (-5.0, 2.0)
    """range of the policy's log standard deviation, the same in every state (authors' code)"""
    scale_reward: bool = True
    """rewards times 1,000 over the range of the dataset's returns (authors' code, MuJoCo)"""
    critics: Members = 2
    """number of critics; value and actor see the minimum of their slow copies (appendix B)"""
    gamma: Fraction = 0.99
    """discount (appendix B)"""
    n_step: Count = 1
    """steps of reward before the bootstrap (the paper: 1)"""
    batch_size: Count = 256
    """transitions in an update (appendix B)"""


@tree
class State:
    actor: Trained
    critic: Trained
    """all critics, on a leading axis"""
    value: Trained
    target: Params
    scale: Params
    """what rewards are multiplied by"""


def make(cfg: Config, spec: Spec, actor: nets.Build | None = None, critic: nets.Build | None = None) -> Learner:
    """`actor(spec)` and `critic(spec)`: your own modules, obs -> means before their tanh and (obs, action) -> one value."""
    if not isinstance(spec.action, Box):
        raise Fault(f"iql: continuous actions (a Box) are needed, the environment's are {spec.action}")
    obs_dim, action_dim = spec.obs.dim, spec.action.dim
    actor_net = nets.custom(actor, spec, obs_dim, action_dim) or nets.mlp((obs_dim, *cfg.hidden, action_dim))
    critic_net = nets.custom(critic, spec, obs_dim + action_dim, 1) or nets.mlp((obs_dim + action_dim, *cfg.hidden, 1))
    pi, critics = nets.bounded(spec, actor_net, cfg.log_std), nets.ensemble(critic_net, cfg.critics)
    value_net = nets.mlp((obs_dim, *cfg.hidden, 1))

    def q(p: Params, obs: Tensor, action: Tensor) -> Tensor:  # (critics, B)
        return critics.apply(p, torch.cat([obs, action], -1)).squeeze(-1)

    def v(p: Params, obs: Tensor) -> Tensor:  # (B,)
        return value_net.apply(p, obs).squeeze(-1)

    def value_loss(p: Params, s: State, b: Batch) -> tuple[Tensor, Metrics]:  # eq. 5
        value = v(p, b.obs)
        error = q(s.target, b.obs, b.action).amin(0) - value
        square = error.square()
        return torch.where(error > 0, cfg.expectile * square, (1 - cfg.expectile) * square).mean(), {"value": value.mean()}

    def actor_loss(p: Params, s: State, b: Batch) -> tuple[Tensor, Metrics]:  # eq. 7
        advantage = q(s.target, b.obs, b.action).amin(0) - v(s.value.params, b.obs)
        weight = (cfg.beta * advantage).exp().clamp(max=cfg.largest)
        effective = weight.sum().square() / (len(weight) * weight.square().sum())  # 1 where all weights are equal
        return -(weight * pi.log_prob(pi.apply(p, b.obs), b.action)).mean(), {"effective_sample": effective}

    def critic_loss(p: Params, s: State, b: Batch) -> tuple[Tensor, Metrics]:  # eq. 6
        values = q(p, b.obs, b.action)
        error = values - ops.backup(s.scale["reward"] * b.reward, b.discount, v(s.value.params, b.next_obs))
        return error.square().mean(-1).sum(), {"q": values.mean()}

    def init() -> State:
        q0 = critics.init()
        return State(fresh(pi.init()), fresh(q0), fresh(value_net.init()), q0, {"reward": torch.ones(())})

    def given(s: State, data: Batch) -> State:
        spread = data.extra["episode_return"].max() - data.extra["episode_return"].min()
        return replace(s, scale={"reward": 1_000 / spread}) if cfg.scale_reward and spread > 0 else s

    def update(s: State, b: Batch, k: int = 0) -> tuple[State, Metrics]:  # algorithm 1, in the order of the authors' code
        value, m1 = descend(s.value, value_loss, cfg.lr, s, b)
        s = replace(s, value=value)
        lr = ops.cosine(s.actor.t, cfg.lr, 0.0, cfg.decay) if cfg.decay and not callable(cfg.lr) else cfg.lr
        actor, m2 = descend(s.actor, actor_loss, lr, s, b)
        critic, m3 = descend(s.critic, critic_loss, cfg.lr, s, b)
        return replace(s, actor=actor, critic=critic, target=polyak(s.target, critic.params, cfg.tau)), m1 | m2 | m3

    def act(p: Params, obs: Tensor, explore: bool) -> Tensor:
        d = pi.apply(p, obs)
        return pi.sample(d) if explore else pi.mode(d)

    return Learner(
        init, update, lambda s: s.actor.params, act,
        losses={"value": value_loss, "actor": actor_loss, "critic": critic_loss},
        experience=Offline(cfg.gamma, cfg.n_step, cfg.batch_size), given=given,
        value=lambda s, o, a: (q(s.critic.params, o, a).mean(0) / s.scale["reward"], torch.zeros(len(o))),
    )  # fmt: skip
