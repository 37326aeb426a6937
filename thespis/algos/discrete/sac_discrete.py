"""Soft Actor-Critic for discrete actions: every expectation over actions is a sum, nothing is sampled in the losses.

Paper: Christodoulou 2019, "Soft Actor-Critic for Discrete Action Settings", arXiv:1910.07207.
Parent: sac, with the sampled action replaced by the sum over all of them.
Departures: vectors in, so a network of two hidden layers stands where the paper has Atari's convolutions; choices that an action
mask forbids have the probability 0, and are no part of the uniform choice that the target entropy is measured by.
Assumed: equation numbers are cited from memory; the target entropy of 0.98 log |A| is the author's code, not the paper.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from thespis import nets, ops
from thespis.config import Count, Fraction, Members, Natural, Positive, Rate
from thespis.core import Batch, Discrete, Fault, Learner, Metrics, OffPolicy, Params, Spec, Trained, replace, tree
from thespis.optim import descend, fresh, polyak


@dataclass(frozen=True)
class Config:
    lr: Rate = 3e-4
    """Adam step size of actor, critics and temperature (table 2)"""
    tau: Fraction = 0.005
    """target smoothing coefficient (the paper copies its targets every 8,000 steps)"""
    hidden: tuple[Count, ...] = (256, 256)
    """widths of the hidden layers, ReLU between them (not in the paper)"""
    critics: Members = 2
    """number of soft Q-functions; targets and actor take the minimum (section 3)"""
    alpha: Positive | None = None
    """fixed temperature; None learns it under the entropy constraint (eq. 11)"""
    initial_alpha: Positive = 1.0
    """where a learned temperature starts (author's code)"""
    entropy_ratio: Fraction = 0.98
    """target entropy is this times that of a uniform choice, among those allowed (author's code)"""
    gamma: Fraction = 0.99
    """discount (table 2)"""
    n_step: Count = 1
    """steps of reward before the bootstrap (the paper: 1)"""
    batch_size: Count = 64
    """transitions in an update (table 2)"""
    replay_size: Count = 1_000_000
    """transitions kept (table 2)"""
    warmup: Natural = 20_000
    """uniformly random environment steps before the first update (table 2)"""
    updates_per_step: Positive = 0.25
    """gradient steps for each environment step (table 2)"""


# For small tasks with vectors, where Atari's numbers learn nothing in 10,000 steps: a wide step, a quick target and ten rewards
# before the bootstrap; one critic, as the least of two fears what is seldom tried, and a policy that knows one way of failing
# keeps to it. The temperature is fixed, as it is in units of reward: 0.5 is for CartPole's one a step.
PRESETS = {
    "sac_discrete_classic": Config(
        lr=2e-3, tau=0.05, hidden=(128, 128), critics=1, alpha=0.5, n_step=10, batch_size=128, replay_size=100_000,
        warmup=1_000, updates_per_step=0.5,
    )
}  # fmt: skip

TAKES = {"mask"}
"""action masks"""


@tree
class State:
    actor: Trained
    critic: Trained
    """all critics, on a leading axis"""
    target: Params
    log_alpha: Trained


def make(cfg: Config, spec: Spec, actor: nets.Build | None = None, critic: nets.Build | None = None) -> Learner:
    """`actor(spec)` and `critic(spec)`: your own modules, obs -> one logit, or one value, an action."""
    if not isinstance(spec.action, Discrete):
        raise Fault(f"sac_discrete: discrete actions are needed, the environment's are {spec.action}")
    obs_dim, choices = spec.obs.dim, spec.action.n
    actor_net = nets.custom(actor, spec, obs_dim, choices) or nets.mlp((obs_dim, *cfg.hidden, choices))
    critic_net = nets.custom(critic, spec, obs_dim, choices) or nets.mlp((obs_dim, *cfg.hidden, choices))
    critics = nets.ensemble(critic_net, cfg.critics)

    def pi(p: Params, obs: Tensor) -> tuple[Tensor, Tensor]:  # pi(.|s) and log pi(.|s), (B, choices)
        logp = ops.masked(actor_net.apply(p, obs), ops.allowed(spec, obs)).log_softmax(-1)
        return logp.exp(), logp

    q = critics.apply  # (params, obs) -> (critics, B, choices)

    def alpha(s: State) -> Tensor:
        return s.log_alpha.params["x"].exp()

    def critic_loss(p: Params, s: State, b: Batch) -> tuple[Tensor, Metrics]:  # eqs. 4, 5
        prob, logp = pi(s.actor.params, b.next_obs)
        value = (prob * (q(s.target, b.next_obs).amin(0) - alpha(s) * logp)).sum(-1)
        values = q(p, b.obs)[:, torch.arange(len(b.action)), b.action]
        square, told = ops.squared(values - ops.backup(b.reward, b.discount, value), b)
        return 0.5 * square.mean(-1).sum(), {"q": values.mean(), **told}

    def actor_loss(p: Params, s: State, b: Batch) -> tuple[Tensor, Metrics]:  # eq. 12
        prob, logp = pi(p, b.obs)
        value = q(s.critic.params, b.obs).amin(0)
        return (prob * (alpha(s) * logp - value)).sum(-1).mean(), {"entropy": -(prob * logp).sum(-1).mean()}

    def alpha_loss(p: Params, entropy: Tensor, b: Batch) -> tuple[Tensor, Metrics]:  # eq. 11, on log alpha
        mask = ops.allowed(spec, b.obs)
        uniform = math.log(choices) if mask is None else mask.type_as(p["x"]).sum(-1).log().mean()
        return p["x"] * (entropy - cfg.entropy_ratio * uniform), {}

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
            temperature, m3 = descend(s.log_alpha, alpha_loss, cfg.lr, m2["entropy"], b)
            s, m2 = replace(s, log_alpha=temperature), m2 | m3
        s = replace(s, target=polyak(s.target, critic.params, cfg.tau))
        return s, m1 | m2 | {"alpha": alpha(s)}

    def act(p: Params, obs: Tensor, explore: bool) -> Tensor:
        logits = ops.masked(actor_net.apply(p, obs), ops.allowed(spec, obs))
        if explore:  # the largest of logits plus Gumbel noise is a sample of the softmax
            logits = logits - torch.empty_like(logits).exponential_().log()
        return logits.argmax(-1)

    return Learner(
        init, update, lambda s: s.actor.params, act,
        losses={"critic": critic_loss, "actor": actor_loss, "alpha": alpha_loss},
        experience=OffPolicy(cfg.gamma, cfg.n_step, cfg.batch_size, cfg.replay_size, cfg.warmup, cfg.updates_per_step),
        value=lambda s, o, a: (
            q(s.critic.params, o)[:, torch.arange(len(a)), a].mean(0),
            -alpha(s) * torch.mul(*pi(s.actor.params, o)).sum(-1),
        ),
    )  # fmt: skip
