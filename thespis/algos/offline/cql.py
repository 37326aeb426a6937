"""Conservative Q-learning: SAC on recorded data, whose critics are pushed down wherever the data says nothing.

Paper: Kumar, Zhou, Tucker, Levine 2020, "Conservative Q-Learning for Offline Reinforcement Learning", arXiv:2006.04779.
Parent: SAC (arXiv:1812.05905), which it becomes at weight 0 with `entropy_backup`, no cloning and one step size: its critic
loss is then twice SAC's, which is nothing to Adam.
Departures: the form CQL(H) alone; numbers, and no half before the Bellman error, as in the authors' code for MuJoCo; the order of
the steps is SAC's (authors' code: all from where the update began); the temperature's step is on log alpha.
Assumed: equation numbers are cited from memory of the third arXiv version, and so are the authors' numbers.
"""

import math
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
    """Adam step size of the critics (authors' code)"""
    actor_lr: Rate = 1e-4
    """Adam step size of actor and temperature (authors' code, MuJoCo)"""
    weight: NonNegative = 5.0
    """of the conservative loss (authors' code, MuJoCo)"""
    gap: Positive | None = None
    """how far values of other actions may lie above the recorded ones'; where given, the weight is learnt from it (eq. 30)"""
    samples: Count = 10
    """actions of each kind in the sum over actions: random, the policy's there, the policy's one step on (appendix F)"""
    entropy_backup: bool = False
    """whether a target has SAC's entropy bonus (authors' code: no)"""
    cloning: Natural = 10_000
    """updates at the start in which the actor climbs the recorded actions' likelihood, not the critics (authors' code)"""
    tau: Fraction = 0.005
    """target smoothing coefficient (SAC)"""
    hidden: tuple[Count, ...] = (256, 256)
    """widths of the hidden layers, ReLU between them (SAC)"""
    critics: Members = 2
    """number of critics; targets and actor take the minimum (as in SAC)"""
    initial_alpha: Positive = 1.0
    """where the temperature starts (SAC)"""
    entropy_per_dim: float = -1.0
    """target entropy is this times the action dimension (SAC)"""
    log_std: Interval = (-20.0, 2.0)
    """range that the policy's log standard deviation is clipped to (SAC)"""
    gamma: Fraction = 0.99
    """discount (as in SAC)"""
    n_step: Count = 1
    """steps of reward before the bootstrap (the paper: 1)"""
    batch_size: Count = 256
    """transitions in an update (SAC)"""


@tree
class State:
    actor: Trained
    critic: Trained
    """both critics, on a leading axis"""
    target: Params
    log_alpha: Trained
    log_weight: dict[str, Trained]
    """of the conservative loss, where it is learnt"""


def make(cfg: Config, spec: Spec, actor: nets.Build | None = None, critic: nets.Build | None = None) -> Learner:
    """`actor(spec)` and `critic(spec)`: your own modules, obs -> (mean, log std) and (obs, action) -> one value."""
    if not isinstance(spec.action, Box):
        raise Fault(f"cql: continuous actions (a Box) are needed, the environment's are {spec.action}")
    obs_dim, act_dim = spec.obs.dim, spec.action.dim
    actor_net = nets.custom(actor, spec, obs_dim, 2 * act_dim) or nets.mlp((obs_dim, *cfg.hidden, 2 * act_dim))
    critic_net = nets.custom(critic, spec, obs_dim + act_dim, 1) or nets.mlp((obs_dim + act_dim, *cfg.hidden, 1))
    critics = nets.ensemble(critic_net, cfg.critics)

    def gaussian(p: Params, obs: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = actor_net.apply(p, obs).chunk(2, -1)
        return mean, log_std.clamp(*cfg.log_std)

    def pi(p: Params, obs: Tensor) -> tuple[Tensor, Tensor]:  # a ~ pi(.|s) and log pi(a|s)
        return ops.squashed_sample(*gaussian(p, obs))

    def q(p: Params, obs: Tensor, action: Tensor) -> Tensor:  # (critics, ...)
        return critics.apply(p, torch.cat([obs, action], -1)).squeeze(-1)

    def alpha(s: State) -> Tensor:
        return s.log_alpha.params["x"].exp()

    def weight(p: Params) -> Tensor:
        return p["x"].exp().clamp(max=1e6)

    def critic_loss(p: Params, s: State, b: Batch) -> tuple[Tensor, Metrics]:  # eq. 4, SAC's loss with eq. 30's weight
        action, logp = pi(s.actor.params, b.next_obs)
        value = q(s.target, b.next_obs, action).amin(0) - (alpha(s) * logp if cfg.entropy_backup else 0.0)
        values = q(p, b.obs, b.action)
        error = values - ops.backup(b.reward, b.discount, value)

        here, after, at = (x.expand(cfg.samples, *x.shape) for x in (b.obs, b.next_obs, b.action))
        drawn = [(2 * torch.rand_like(at) - 1, at.new_full((), -act_dim * math.log(2)).expand(at.shape[:-1]))]
        drawn += [pi(s.actor.params, here), pi(s.actor.params, after)]
        others, density = torch.cat([a for a, _ in drawn]), torch.cat([d for _, d in drawn])
        above = (q(p, here.repeat(3, 1, 1), others) - density).logsumexp(1) - values  # (critics, B), appendix F
        gaps = above.mean(-1) if cfg.gap is None else above.mean(-1) - cfg.gap
        how = cfg.weight if cfg.gap is None else cfg.weight * weight(s.log_weight["x"].params)
        metrics = {"q": values.mean(), "above": above.mean(), "gap": gaps.mean()}
        return error.square().mean(-1).sum() + (how * gaps).sum(), metrics

    def actor_loss(p: Params, s: State, b: Batch) -> tuple[Tensor, Metrics]:
        action, logp = pi(p, b.obs)
        value = q(s.critic.params, b.obs, action).amin(0)
        if cfg.cloning:
            recorded = ops.squashed_log_prob(*gaussian(p, b.obs), b.action.clamp(-1 + 1e-6, 1 - 1e-6).atanh())
            value = torch.where(s.actor.t < cfg.cloning, recorded, value)
        return (alpha(s) * logp - value).mean(), {"entropy": -logp.mean()}

    def alpha_loss(p: Params, entropy: Tensor) -> tuple[Tensor, Metrics]:
        return p["x"] * (entropy - cfg.entropy_per_dim * act_dim), {}

    def weight_loss(p: Params, gap: Tensor) -> tuple[Tensor, Metrics]:  # eq. 30
        return -cfg.weight * weight(p) * gap, {}

    def init() -> State:
        q0, log_alpha = critics.init(), fresh({"x": torch.tensor(cfg.initial_alpha).log()})
        log_weight = {"x": fresh({"x": torch.zeros(())})} if cfg.gap else {}
        return State(fresh(actor_net.init()), fresh(q0), q0, log_alpha, log_weight)

    def update(s: State, b: Batch, k: int = 0) -> tuple[State, Metrics]:  # algorithm 1
        critic, m1 = descend(s.critic, critic_loss, cfg.lr, s, b)
        if cfg.gap:
            learnt, m2 = descend(s.log_weight["x"], weight_loss, cfg.lr, m1["gap"])
            s, m1 = replace(s, log_weight={"x": learnt}), m1 | m2 | {"weight": weight(learnt.params)}
        s = replace(s, critic=critic)
        actor, m3 = descend(s.actor, actor_loss, cfg.actor_lr, s, b)
        temperature, m4 = descend(s.log_alpha, alpha_loss, cfg.actor_lr, m3["entropy"])
        s = replace(s, actor=actor, log_alpha=temperature, target=polyak(s.target, critic.params, cfg.tau))
        return s, m1 | m3 | m4 | {"alpha": alpha(s)}

    def act(p: Params, obs: Tensor, explore: bool) -> Tensor:
        return pi(p, obs)[0] if explore else gaussian(p, obs)[0].tanh()

    return Learner(
        init, update, lambda s: s.actor.params, act,
        losses={"critic": critic_loss, "actor": actor_loss, "alpha": alpha_loss, "weight": weight_loss},
        experience=Offline(cfg.gamma, cfg.n_step, cfg.batch_size),
        value=lambda s, o, a: (q(s.critic.params, o, a).mean(0), torch.zeros(len(o))),
    )  # fmt: skip
