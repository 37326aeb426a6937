"""Mirror Descent Policy Optimization, off-policy: many actor steps on one trust-region problem around an old policy.

Paper: Tomar et al. 2022, "Mirror Descent Policy Optimization", arXiv:2005.09814.
Parent: sac_v1, whose update it is where the weight of the KL equals that of the entropy: then the old policy drops out.
Departures: collects with sampled actions, as the paper's algorithm does (authors' code: mean actions; the field `sample`);
inner steps are counted in updates; the KL and the Shannon entropy alone, not the Tsallis ones.
Assumed: nothing in the equations, which were read in the authors' code (manantomar/Mirror-Descent-Policy-Optimization); the
numbers are those of its scripts, as the paper's own tables were not at hand.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from thespis import nets, ops
from thespis.config import Count, Fraction, Interval, Members, Natural, NonNegative, Positive, Rate
from thespis.core import Batch, Box, Fault, Learner, Metrics, OffPolicy, Params, Spec, Trained, tree
from thespis.optim import descend, fresh, polyak


@dataclass(frozen=True)
class Config:
    lr: Rate = 3e-4
    """Adam step size of all networks (authors' code)"""
    tau: Fraction = 0.005
    """smoothing coefficient of the value target (authors' code)"""
    hidden: tuple[Count, ...] = (256, 256)
    """widths of the hidden layers, ReLU between them (authors' code)"""
    critics: Members = 2
    """number of soft Q-functions; the value takes the minimum (authors' code)"""
    alpha: NonNegative = 0.2
    """weight of the entropy, fixed; lambda in the authors' code (their example: 0.2)"""
    kl: NonNegative = 1.0
    """weight 1 / t_k of the KL to the old policy, held constant (authors' code, klcoeff)"""
    inner_steps: Count = 1_000
    """m, actor steps against one old policy (authors' example; their code counts environment steps)"""
    moments: NonNegative = 1e-3
    """weight of the squared mean and log std in the actor's loss (authors' code)"""
    log_std: Interval = (-20.0, 2.0)
    """range that the policy's log standard deviation is clipped to (authors' code)"""
    sample: bool = True
    """collect with sampled actions; false: with the mean action, as the authors' code does"""
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
    """gradient steps for each environment step (authors' code)"""


@tree
class State:
    actor: Trained
    """its count of steps tells when the old policy is due"""
    old: Params
    """the policy around which the trust region lies"""
    critic: Trained
    """all critics, on a leading axis"""
    value: Trained
    target: Params
    """slow copy of the value function"""


def make(cfg: Config, spec: Spec, actor: nets.Build | None = None, critic: nets.Build | None = None) -> Learner:
    """`actor(spec)` and `critic(spec)`: your own modules, obs -> (mean, log std) and (obs, action) -> one value."""
    if not isinstance(spec.action, Box):
        raise Fault(f"mdpo: continuous actions (a Box) are needed, the environment's are {spec.action}")
    obs_dim, action_dim = spec.obs.dim, spec.action.dim
    actor_net = nets.custom(actor, spec, obs_dim, 2 * action_dim) or nets.mlp((obs_dim, *cfg.hidden, 2 * action_dim))
    critic_net = nets.custom(critic, spec, obs_dim + action_dim, 1) or nets.mlp((obs_dim + action_dim, *cfg.hidden, 1))
    critics, value_net = nets.ensemble(critic_net, cfg.critics), nets.mlp((obs_dim, *cfg.hidden, 1))

    def gaussian(p: Params, obs: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = actor_net.apply(p, obs).chunk(2, -1)
        return mean, log_std.clamp(*cfg.log_std)

    def q(p: Params, obs: Tensor, action: Tensor) -> Tensor:  # (critics, B)
        return critics.apply(p, torch.cat([obs, action], -1)).squeeze(-1)

    def v(p: Params, obs: Tensor) -> Tensor:  # (B,)
        return value_net.apply(p, obs).squeeze(-1)

    def value_loss(p: Params, s: State, b: Batch) -> tuple[Tensor, Metrics]:  # min Q - lambda log pi
        action, logp = ops.squashed_sample(*gaussian(s.actor.params, b.obs))
        error = v(p, b.obs) - (q(s.critic.params, b.obs, action).amin(0) - cfg.alpha * logp).detach()
        return 0.5 * error.square().mean(), {}

    def critic_loss(p: Params, s: State, b: Batch) -> tuple[Tensor, Metrics]:
        values = q(p, b.obs, b.action)
        square, told = ops.squared(values - ops.backup(b.reward, b.discount, v(s.target, b.next_obs)), b)
        return 0.5 * square.mean(-1).sum(), {"q": values.mean(), **told}

    def actor_loss(p: Params, s: State, b: Batch) -> tuple[Tensor, Metrics]:  # mean(KL(pi || old) / t_k - A)
        mean, log_std = gaussian(p, b.obs)
        u = mean + log_std.exp() * torch.randn_like(mean)
        logp = ops.squashed_log_prob(mean, log_std, u)
        logp_old = ops.squashed_log_prob(*gaussian(s.old, b.obs), u)  # a function of theta through u
        # that is kl (logp - logp_old) - (Q - alpha logp_old): both return and entropy are made linear at old
        cost = cfg.kl * logp + (cfg.alpha - cfg.kl) * logp_old - q(s.critic.params, b.obs, u.tanh())[0]
        small = cfg.moments * (mean.square().mean() + log_std.square().mean())
        return cost.mean() + small, {"entropy": -logp.mean(), "kl": (logp - logp_old).mean()}

    def init() -> State:
        a0, v0 = actor_net.init(), value_net.init()
        return State(fresh(a0), a0, fresh(critics.init()), fresh(v0), v0)

    def update(s: State, b: Batch, k: int = 0) -> tuple[State, Metrics]:  # all gradients at the old parameters
        value, m1 = descend(s.value, value_loss, cfg.lr, s, b)
        critic, m2 = descend(s.critic, critic_loss, cfg.lr, s, b)
        actor, m3 = descend(s.actor, actor_loss, cfg.lr, s, b)
        due = actor.t % cfg.inner_steps == 0  # the problem is solved well enough: the next one lies around its solution
        old = {name: torch.where(due, p, s.old[name]) for name, p in actor.params.items()}
        return State(actor, old, critic, value, polyak(s.target, value.params, cfg.tau)), m1 | m2 | m3

    def act(p: Params, obs: Tensor, explore: bool) -> Tensor:
        mean, log_std = gaussian(p, obs)
        return ops.squashed_sample(mean, log_std)[0] if explore and cfg.sample else mean.tanh()

    return Learner(
        init, update, lambda s: s.actor.params, act,
        losses={"value": value_loss, "critic": critic_loss, "actor": actor_loss},
        experience=OffPolicy(cfg.gamma, cfg.n_step, cfg.batch_size, cfg.replay_size, cfg.warmup, cfg.updates_per_step),
        value=lambda s, o, a: (
            q(s.critic.params, o, a).mean(0),
            -cfg.alpha * ops.squashed_sample(*gaussian(s.actor.params, o))[1],
        ),
    )  # fmt: skip
