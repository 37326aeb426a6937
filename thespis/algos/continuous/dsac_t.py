"""Distributional Soft Actor-Critic with three refinements: each critic learns the mean and the spread of the soft return.

Paper: Duan et al. 2025, "Distributional Soft Actor-Critic with Three Refinements", arXiv:2310.05858.
Parent: sac, whose critic step it becomes with unit spread, unit weight and no sampling: then only the means are regressed.
Departures: one update a step, as in the authors' port to Stable-Baselines3 (their own script: one in twenty), and uniformly
random warm-up steps (theirs come from the untrained policy).
Assumed: nothing in the equations, which were read in the authors' code (Jingliang-Duan/DSAC-v2); section numbers are recalled.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import gelu, huber_loss, softplus

from thespis import nets, ops
from thespis.config import Count, Fraction, Interval, Natural, Positive, Rate
from thespis.core import Batch, Box, Fault, Learner, Metrics, OffPolicy, Params, Spec, Trained, replace, tree
from thespis.optim import descend, fresh, polyak


@dataclass(frozen=True)
class Config:
    lr: Rate = 1e-4
    """Adam step size of actor and critics (authors' code)"""
    alpha_lr: Rate = 3e-4
    """Adam step size of the temperature (authors' code)"""
    tau: Fraction = 0.005
    """target smoothing coefficient (authors' code)"""
    hidden: tuple[Count, ...] = (256, 256, 256)
    """widths of the hidden layers, GELU between them (authors' code)"""
    delay: Count = 2
    """critic updates for each update of actor, temperature and targets (authors' code)"""
    clip: Positive = 3.0
    """sampled targets stay within this times the mean spread (refinement 3, xi)"""
    bias: Positive = 0.1
    """added to squared and plain spreads that are divided by (authors' code)"""
    weight: tuple[Positive, Positive] = (0.1, 10.0)
    """range of a row's weight, the mean spread over its own, squared (authors' code)"""
    huber: Positive | None = 50.0
    """error, in units of reward, beyond which the loss grows linearly (authors' code; not in the paper); None: it never does.
    Where errors are larger, the scale of rewards matters: at a spread of 1,000 the learnt one is 0.17 of what None gives"""
    initial_alpha: Positive = math.e
    """where the temperature starts (authors' code)"""
    entropy_per_dim: float = -1.0
    """target entropy is this times the action dimension (authors' code)"""
    log_std: Interval = (-20.0, 0.5)
    """range that the policy's log standard deviation is clipped to (authors' code)"""
    gamma: Fraction = 0.99
    """discount (authors' code)"""
    n_step: Count = 1
    """steps of reward before the bootstrap (the paper: 1)"""
    batch_size: Count = 256
    """transitions in an update (authors' code)"""
    replay_size: Count = 1_000_000
    """transitions kept (authors' code)"""
    warmup: Natural = 10_000
    """uniformly random environment steps before the first update (authors' code)"""
    updates_per_step: Positive = 1.0
    """critic updates for each environment step (authors' port; their own script: 0.05)"""


@tree
class State:
    actor: Trained
    critic: Trained  # both, on a leading axis
    actor_target: Params
    critic_target: Params
    log_alpha: Trained
    spread: Tensor
    """(2,), each critic's running mean of its standard deviation"""


def make(cfg: Config, spec: Spec, actor: nets.Build | None = None, critic: nets.Build | None = None) -> Learner:
    """`actor(spec)` and `critic(spec)`: your modules, obs -> (mean, log std), (obs, action) -> (mean, std before softplus)."""
    if not isinstance(spec.action, Box):
        raise Fault(f"dsac_t: continuous actions (a Box) are needed, the environment's are {spec.action}")
    obs_dim, action_dim = spec.obs.dim, spec.action.dim
    actor_net = nets.custom(actor, spec, obs_dim, 2 * action_dim) or nets.mlp((obs_dim, *cfg.hidden, 2 * action_dim), gelu)
    critic_net = nets.custom(critic, spec, obs_dim + action_dim, 2) or nets.mlp((obs_dim + action_dim, *cfg.hidden, 2), gelu)
    critics = nets.ensemble(critic_net, 2)
    target_entropy = cfg.entropy_per_dim * action_dim

    def gaussian(p: Params, obs: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = actor_net.apply(p, obs).chunk(2, -1)
        return mean, log_std.clamp(*cfg.log_std)

    def z(p: Params, obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:  # mean and std of the soft return, (2, B)
        out = critics.apply(p, torch.cat([obs, action], -1))
        return out[..., 0], softplus(out[..., 1])

    def alpha(s: State) -> Tensor:
        return s.log_alpha.params["x"].exp()

    def half_square(x: Tensor) -> Tensor:
        return 0.5 * x.square() if cfg.huber is None else huber_loss(x, torch.zeros_like(x), reduction="none", delta=cfg.huber)

    def targets(s: State, b: Batch) -> tuple[Tensor, Tensor]:  # for the mean (refinement 1) and for the spread, (B,)
        action, logp = ops.squashed_sample(*gaussian(s.actor_target, b.next_obs))
        mean, std = z(s.critic_target, b.next_obs, action)
        sample = mean + std * torch.randn_like(std).clamp(-3, 3)
        first = mean[0] < mean[1]  # refinement 2: mean and sample of the critic with the smaller mean
        soft = [torch.where(first, x[0], x[1]) - alpha(s) * logp for x in (mean, sample)]
        return ops.backup(b.reward, b.discount, soft[0]), ops.backup(b.reward, b.discount, soft[1])

    def critic_loss(p: Params, s: State, b: Batch) -> tuple[Tensor, Metrics]:
        y_mean, y_sample = targets(s, b)
        mean, std = z(p, b.obs, b.action)
        q, sigma = mean.detach(), std.detach()
        spread = torch.where(s.critic.t == 0, sigma.mean(-1), torch.lerp(s.spread, sigma.mean(-1), cfg.tau))
        width = spread[:, None]  # refinement 3: clip and weigh by the critic's own scale
        clipped = q + (y_sample - q).clamp(-cfg.clip * width, cfg.clip * width)
        weight = (width**2 / (sigma**2 + cfg.bias)).clamp(*cfg.weight)
        error, square = half_square(mean - y_mean), half_square(q - clipped)
        loss = weight * (error + std * (sigma**2 - square) / (sigma + cfg.bias))
        return loss.mean(-1).sum(), {"q": mean.mean(), "q_std": std.mean(), "spread": spread}

    def actor_loss(p: Params, s: State, b: Batch) -> tuple[Tensor, Metrics]:
        action, logp = ops.squashed_sample(*gaussian(p, b.obs))
        return (alpha(s) * logp - z(s.critic.params, b.obs, action)[0].amin(0)).mean(), {"entropy": -logp.mean()}

    def alpha_loss(p: Params, entropy: Tensor) -> tuple[Tensor, Metrics]:  # authors' code: on log alpha
        return p["x"] * (entropy - target_entropy), {}

    def init() -> State:
        a0, q0 = actor_net.init(), critics.init()
        log_alpha = torch.tensor(cfg.initial_alpha).log()
        return State(fresh(a0), fresh(q0), a0, q0, fresh({"x": log_alpha}), torch.zeros(2))

    def update(s: State, b: Batch, k: int = 0) -> tuple[State, Metrics]:  # all gradients at the old parameters
        critic, metrics = descend(s.critic, critic_loss, cfg.lr, s, b)
        spread = metrics.pop("spread")
        if k < cfg.delay - 1:
            return replace(s, critic=critic, spread=spread), metrics
        actor, m2 = descend(s.actor, actor_loss, cfg.lr, s, b, clock=s.critic.t)
        temperature, m3 = descend(s.log_alpha, alpha_loss, cfg.alpha_lr, m2["entropy"], clock=s.critic.t)
        slow = polyak(s.actor_target, actor.params, cfg.tau), polyak(s.critic_target, critic.params, cfg.tau)
        s = State(actor, critic, *slow, temperature, spread)
        return s, metrics | m2 | m3 | {"alpha": alpha(s)}

    def act(p: Params, obs: Tensor, explore: bool) -> Tensor:
        mean, log_std = gaussian(p, obs)
        return ops.squashed_sample(mean, log_std)[0] if explore else mean.tanh()

    return Learner(
        init, update, lambda s: s.actor.params, act,
        losses={"critic": critic_loss, "actor": actor_loss, "alpha": alpha_loss},
        experience=OffPolicy(cfg.gamma, cfg.n_step, cfg.batch_size, cfg.replay_size, cfg.warmup, cfg.updates_per_step),
        value=lambda s, *x: (
            z(s.critic.params, *x)[0].mean(0), -alpha(s) * ops.squashed_sample(*gaussian(s.actor.params, x[0]))[1]),
        period=cfg.delay,
    )  # fmt: skip
