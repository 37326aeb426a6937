"""Distributional Soft Actor-Critic: one critic learns a Gaussian over the soft return, against sampled targets.

Paper: Duan et al. 2021 "Distributional Soft Actor-Critic: Off-Policy RL for Addressing Value Estimation Errors", arXiv:2001.02811
Parent: sac with one critic, which its critic step becomes with unit spread and targets at the mean: 1 / (1 + bias) of sac's.
Departures: the critic's spread is a softplus, as in the authors' second repository (the first: a log std in [-0.1, 4]); one
process and constant step sizes (theirs anneal to 1e-6 over 3M updates of four learners); one update a step.
Assumed: nothing in the equations, which were read in the authors' code (Jingliang-Duan/DSAC-v2, dsac_v1.py).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import gelu, softplus

from thespis import nets, ops
from thespis.config import Count, Fraction, Interval, Natural, Positive, Rate
from thespis.core import Batch, Box, Fault, Learner, Metrics, OffPolicy, Params, Spec, Trained, replace, tree
from thespis.optim import descend, fresh, polyak


@dataclass(frozen=True)
class Config:
    lr: Rate = 1e-4
    """Adam step size of actor and critic (second repository; the first: 5e-5 and 8e-5, annealed)"""
    alpha_lr: Rate = 3e-4
    """Adam step size of the temperature (second repository; the first: 5e-5, annealed)"""
    tau: Fraction = 0.005
    """target smoothing coefficient (second repository; the first: 0.001)"""
    hidden: tuple[Count, ...] = (256, 256, 256)
    """widths of the hidden layers, GELU between them (second repository)"""
    delay: Count = 2
    """critic updates for each update of actor, temperature and targets (authors' code)"""
    bound: Positive = 20.0
    """sampled targets stay within this of the mean, for the spread's gradient; in units of reward (first repository, whose
    rewards are times 0.2: 100 in the task's own unit; the second, without that: 1)"""
    bias: Positive = 0.1
    """added to powers of the spread that are divided by (authors' code)"""
    initial_alpha: Positive = math.e
    """where the temperature starts (authors' code)"""
    entropy_per_dim: float = -1.0
    """target entropy is this times the action dimension (authors' code)"""
    log_std: Interval = (-20.0, 0.5)
    """range that the policy's log standard deviation is clipped to (second repository)"""
    gamma: Fraction = 0.99
    """discount (authors' code)"""
    n_step: Count = 1
    """steps of reward before the bootstrap (the paper: 1)"""
    batch_size: Count = 256
    """transitions in an update (authors' code)"""
    replay_size: Count = 1_000_000
    """transitions kept (second repository)"""
    warmup: Natural = 10_000
    """uniformly random environment steps before the first update (second repository)"""
    updates_per_step: Positive = 1.0
    """critic updates for each environment step"""


@tree
class State:
    actor: Trained
    critic: Trained
    actor_target: Params
    critic_target: Params
    log_alpha: Trained


def make(cfg: Config, spec: Spec, actor: nets.Build | None = None, critic: nets.Build | None = None) -> Learner:
    """`actor(spec)` and `critic(spec)`: your modules, obs -> (mean, log std), (obs, action) -> (mean, std before softplus)."""
    if not isinstance(spec.action, Box):
        raise Fault(f"dsac: continuous actions (a Box) are needed, the environment's are {spec.action}")
    obs_dim, action_dim = spec.obs.dim, spec.action.dim
    actor_net = nets.custom(actor, spec, obs_dim, 2 * action_dim) or nets.mlp((obs_dim, *cfg.hidden, 2 * action_dim), gelu)
    critic_net = nets.custom(critic, spec, obs_dim + action_dim, 2) or nets.mlp((obs_dim + action_dim, *cfg.hidden, 2), gelu)
    target_entropy = cfg.entropy_per_dim * action_dim

    def gaussian(p: Params, obs: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = actor_net.apply(p, obs).chunk(2, -1)
        return mean, log_std.clamp(*cfg.log_std)

    def z(p: Params, obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:  # mean and std of the soft return, (B,)
        out = critic_net.apply(p, torch.cat([obs, action], -1))
        return out[..., 0], softplus(out[..., 1])

    def alpha(s: State) -> Tensor:
        return s.log_alpha.params["x"].exp()

    def critic_loss(p: Params, s: State, b: Batch) -> tuple[Tensor, Metrics]:  # written by its gradients in mean and std
        action, logp = ops.squashed_sample(*gaussian(s.actor_target, b.next_obs))
        next_mean, next_std = z(s.critic_target, b.next_obs, action)
        sample = next_mean + next_std * torch.randn_like(next_std).clamp(-3, 3)
        y = ops.backup(b.reward, b.discount, sample - alpha(s) * logp)
        mean, std = z(p, b.obs, b.action)
        error, sigma = y - mean.detach(), std.detach()
        square = error.clamp(-cfg.bound, cfg.bound) ** 2
        loss = -error / (sigma**2 + cfg.bias) * mean - (square - sigma**2) / (sigma**3 + cfg.bias) * std
        return loss.mean(), {"q": mean.mean(), "q_std": std.mean()}

    def actor_loss(p: Params, s: State, b: Batch) -> tuple[Tensor, Metrics]:
        action, logp = ops.squashed_sample(*gaussian(p, b.obs))
        return (alpha(s) * logp - z(s.critic.params, b.obs, action)[0]).mean(), {"entropy": -logp.mean()}

    def alpha_loss(p: Params, entropy: Tensor) -> tuple[Tensor, Metrics]:  # authors' code: on log alpha
        return p["x"] * (entropy - target_entropy), {}

    def init() -> State:
        a0, q0 = actor_net.init(), critic_net.init()
        log_alpha = torch.tensor(cfg.initial_alpha).log()
        return State(fresh(a0), fresh(q0), a0, q0, fresh({"x": log_alpha}))

    def update(s: State, b: Batch, k: int = 0) -> tuple[State, Metrics]:  # all gradients at the old parameters
        critic, metrics = descend(s.critic, critic_loss, cfg.lr, s, b)
        if k < cfg.delay - 1:
            return replace(s, critic=critic), metrics
        actor, m2 = descend(s.actor, actor_loss, cfg.lr, s, b, clock=s.critic.t)
        temperature, m3 = descend(s.log_alpha, alpha_loss, cfg.alpha_lr, m2["entropy"], clock=s.critic.t)
        slow = polyak(s.actor_target, actor.params, cfg.tau), polyak(s.critic_target, critic.params, cfg.tau)
        s = State(actor, critic, *slow, temperature)
        return s, metrics | m2 | m3 | {"alpha": alpha(s)}

    def act(p: Params, obs: Tensor, explore: bool) -> Tensor:
        mean, log_std = gaussian(p, obs)
        return ops.squashed_sample(mean, log_std)[0] if explore else mean.tanh()

    return Learner(
        init, update, lambda s: s.actor.params, act,
        losses={"critic": critic_loss, "actor": actor_loss, "alpha": alpha_loss},
        experience=OffPolicy(cfg.gamma, cfg.n_step, cfg.batch_size, cfg.replay_size, cfg.warmup, cfg.updates_per_step),
        value=lambda s, o, a: (z(s.critic.params, o, a)[0], -alpha(s) * ops.squashed_sample(*gaussian(s.actor.params, o))[1]),
        period=cfg.delay,
    )  # fmt: skip
