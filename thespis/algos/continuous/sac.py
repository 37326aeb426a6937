"""Soft Actor-Critic, with a learned temperature: maximises return plus the policy's entropy.

Paper: Haarnoja et al. 2018, "Soft Actor-Critic Algorithms and Applications", arXiv:1812.05905.
Parent: DDPG, which it becomes at temperature 0 with a policy of zero width.
Departures: the actor climbs the minimum of the critics, as the paper says (its official code: their mean); the temperature's
step is taken on log alpha, as in early copies of the official code (the paper: alpha): it does not fade with alpha; log std is
clipped to [-20, 2] (official code of arXiv:1801.01290; the paper gives no range).
Assumed: equation and table numbers are cited from memory of the second arXiv version.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from thespis import nets, ops
from thespis.config import Count, Fraction, Interval, Members, Natural, Positive, Rate, Start
from thespis.core import Batch, Box, Fault, Learner, Metrics, OffPolicy, Params, Spec, Trained, replace, tree
from thespis.optim import descend, fresh, polyak


@dataclass(frozen=True)
class Config:
    lr: Rate = 3e-4
    """Adam step size of actor, critics and temperature (table 1)"""
    tau: Fraction = 0.005
    """target smoothing coefficient (table 1)"""
    hidden: tuple[Count, ...] = (256, 256)
    """widths of the hidden layers, ReLU between them (table 1)"""
    start: Start = "torch"
    """networks start as torch.nn.Linear does, or with Glorot's uniform weights and no biases (official code)"""
    critics: Members = 2
    """number of soft Q-functions; targets and actor take the minimum (section 5)"""
    alpha: Positive | None = None
    """fixed temperature; None learns it under the entropy constraint (section 5)"""
    initial_alpha: Positive = 1.0
    """where a learned temperature starts (official code)"""
    entropy_per_dim: float = -1.0
    """target entropy is this times the action dimension (table 1)"""
    log_std: Interval = (-20.0, 2.0)
    """range that the policy's log standard deviation is clipped to (not in the paper)"""
    gamma: Fraction = 0.99
    """discount (table 1)"""
    n_step: Count = 1
    """steps of reward before the bootstrap (the paper: 1)"""
    batch_size: Count = 256
    """transitions in an update (table 1)"""
    replay_size: Count = 1_000_000
    """transitions kept (table 1)"""
    warmup: Natural | None = None
    """uniformly random steps before the first update; None: least of 10 longest episodes (official code), 10,000, steps / 100"""
    updates_per_step: Positive = 1.0
    """gradient steps for each environment step (table 1)"""


@tree
class State:
    actor: Trained
    critic: Trained
    """both critics, on a leading axis"""
    target: Params
    log_alpha: Trained


def make(cfg: Config, spec: Spec, actor: nets.Build | None = None, critic: nets.Build | None = None) -> Learner:
    """`actor(spec)` and `critic(spec)`: your own modules, obs -> (mean, log std) and (obs, action) -> one value."""
    if not isinstance(spec.action, Box):
        raise Fault(f"sac: continuous actions (a Box) are needed, the environment's are {spec.action}")
    obs_dim, act_dim = spec.obs.dim, spec.action.dim
    actor_net = nets.custom(actor, spec, obs_dim, 2 * act_dim) or nets.mlp((obs_dim, *cfg.hidden, 2 * act_dim), start=cfg.start)
    critic_net = nets.custom(critic, spec, obs_dim + act_dim, 1) or nets.mlp((obs_dim + act_dim, *cfg.hidden, 1), start=cfg.start)
    critics = nets.ensemble(critic_net, cfg.critics)
    warmup = 10 * min(spec.horizon or 1_000, 1_000) if cfg.warmup is None else cfg.warmup

    def gaussian(p: Params, obs: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = actor_net.apply(p, obs).chunk(2, -1)
        return mean, log_std.clamp(*cfg.log_std)

    def pi(p: Params, obs: Tensor) -> tuple[Tensor, Tensor]:  # a ~ pi(.|s) and log pi(a|s)
        return ops.squashed_sample(*gaussian(p, obs))

    def q(p: Params, obs: Tensor, action: Tensor) -> Tensor:  # (critics, B)
        return critics.apply(p, torch.cat([obs, action], -1)).squeeze(-1)

    def alpha(s: State) -> Tensor:
        return s.log_alpha.params["x"].exp()

    def critic_loss(p: Params, s: State, b: Batch) -> tuple[Tensor, Metrics]:  # eqs. 3, 5
        action, logp = pi(s.actor.params, b.next_obs)
        value = q(s.target, b.next_obs, action).amin(0) - alpha(s) * logp
        values = q(p, b.obs, b.action)
        square, told = ops.squared(values - ops.backup(b.reward, b.discount, value), b)
        return 0.5 * square.mean(-1).sum(), {"q": values.mean(), **told}

    def actor_loss(p: Params, s: State, b: Batch) -> tuple[Tensor, Metrics]:  # eqs. 7, 9
        action, logp = pi(p, b.obs)
        value = q(s.critic.params, b.obs, action).amin(0)
        return (alpha(s) * logp - value).mean(), {"entropy": -logp.mean()}

    def alpha_loss(p: Params, entropy: Tensor) -> tuple[Tensor, Metrics]:  # eq. 18, on log alpha
        return p["x"] * (entropy - cfg.entropy_per_dim * act_dim), {}

    def init() -> State:
        q0 = critics.init()
        log_alpha = torch.tensor(cfg.initial_alpha if cfg.alpha is None else cfg.alpha).log()
        return State(fresh(actor_net.init()), fresh(q0), q0, fresh({"x": log_alpha}))

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
        experience=OffPolicy(cfg.gamma, cfg.n_step, cfg.batch_size, cfg.replay_size, warmup, cfg.updates_per_step),
        value=lambda s, o, a: (q(s.critic.params, o, a).mean(0), -alpha(s) * pi(s.actor.params, o)[1]),
    )  # fmt: skip
