"""Trust Region Policy Optimization: the natural gradient of each rollout, as long a step as the divergence allows.

Paper: Schulman et al. 2015, "Trust Region Policy Optimization", arXiv:1502.05477.
Parent: the natural policy gradient of Kakade 2001, whose direction its step has as max_kl goes to 0.
Departures: advantages are generalised ones and the value function has a network of its own (Schulman et al. 2016,
arXiv:1506.02438); every row has a say in the Fisher matrix (baselines: each fifth); no step leaves the region (baselines: by
half of max_kl at most); statistics of observations move once a rollout (baselines: at each step).
Assumed: what the paper leaves open is as in openai/baselines (trpo_mpi, on MuJoCo), but for the start, which is ppo's.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import grad

from thespis import nets, ops
from thespis.config import Count, Fraction, NonNegative, Positive, Rate
from thespis.core import Batch, Learner, Metrics, Params, Spec, Trained, replace, tree
from thespis.data import OnPolicy
from thespis.optim import descend, fresh


@dataclass(frozen=True)
class Config:
    max_kl: Positive = 0.01
    """delta, the largest mean divergence of a step: KL(old || new) over the rollout's observations (eq. 12, table 2)"""
    damping: NonNegative = 0.1
    """added to the diagonal of the Fisher matrix (baselines)"""
    cg_iterations: Count = 10
    """iterations of conjugate gradients (appendix C)"""
    halvings: Count = 10
    """lengths of step that the line search tries, each half the one before (appendix C; baselines)"""
    lr: Rate = 1e-3
    """Adam step size of the value function (baselines)"""
    hidden: tuple[Count, ...] = (32, 32)
    """widths of the hidden layers, tanh between them (baselines)"""
    rollout: Count = 1024
    """steps of each environment between two rounds of learning (baselines)"""
    epochs: Count = 5
    """passes of the value function over a rollout (baselines); the policy makes one step"""
    batch_size: Count = 64
    """rows of a minibatch of the value function (baselines)"""
    gamma: Fraction = 0.99
    """discount (table 2)"""
    lam: Fraction = 0.98
    """lambda of the generalised advantages (baselines)"""
    normalise_obs: bool = True
    """observations by the mean and spread of all before this rollout, within 10; in the first by its own (baselines: within 5)"""
    normalise_reward: bool = False
    """rewards by the spread of discounted returns, within 10 (baselines: not so)"""


TAKES = {"unbounded", "mask"}
"""actions without bounds, and action masks"""


@tree
class State:
    actor: Params
    critic: Trained
    seen: Params
    """count, mean and variance of the observations; until there are any, the policy acts as on their mean"""


def make(cfg: Config, spec: Spec, actor: nets.Build | None = None, critic: nets.Build | None = None) -> Learner:
    """`actor(spec)` and `critic(spec)`: your own modules, obs -> means or logits (one after the other), obs -> value (B, 1)."""
    pi, critic_net = nets.actor_critic(spec, cfg.hidden, actor, critic)
    value, obs_dim = critic_net.apply, spec.obs.dim - spec.mask

    def view(seen: Params, obs: Tensor) -> Tensor:  # what the networks are shown
        return ops.whitened(obs, seen) if cfg.normalise_obs else obs

    def actor_loss(p: Params, b: Batch) -> tuple[Tensor, Metrics]:  # eq. 14
        dist = pi.apply(p, b.obs)
        ratio = (pi.log_prob(dist, b.action) - b.extra["logp"]).exp()
        return -(ratio * ops.standardised(b.extra["advantage"])).mean(), {"entropy": pi.entropy(dist).mean()}

    def critic_loss(p: Params, b: Batch) -> tuple[Tensor, Metrics]:
        v = value(p, b.obs)
        return 0.5 * (v - b.extra["target"]).square().mean(), {"value": v.mean()}

    def step(p: Params, b: Batch) -> tuple[Params, Metrics]:  # appendix C
        old, theta = pi.apply(p, b.obs), torch.cat([x.flatten() for x in p.values()])

        def named(theta: Tensor) -> Params:
            parts = theta.split([x.numel() for x in p.values()])
            return {k: part.view_as(x) for (k, x), part in zip(p.items(), parts, strict=True)}

        def loss(theta: Tensor) -> Tensor:
            return actor_loss(named(theta), b)[0]

        def kl(theta: Tensor) -> Tensor:
            return pi.kl(old, pi.apply(named(theta), b.obs)).mean()

        def fisher(v: Tensor) -> Tensor:  # the divergence's Hessian at the old policy, times v
            return grad(lambda x: grad(kl)(x) @ v)(theta) + cfg.damping * v

        direction = ops.conjugate_gradient(fisher, -grad(loss)(theta), cfg.cg_iterations)
        longest = direction * (2 * cfg.max_kl / (direction @ fisher(direction))).sqrt()
        before, taken = loss(theta), theta
        for i in reversed(range(cfg.halvings)):  # of those that gain within the region, the longest has the last word
            near = theta + 0.5**i * longest
            taken = torch.where((loss(near) < before) & (kl(near) <= cfg.max_kl), near, taken)
        metrics = {"kl": kl(taken), "accepted": (taken != theta).any().float(), "gain": before - loss(taken)}
        return named(taken), metrics | actor_loss(p, b)[1]

    def prepare(s: State, rollout: Batch) -> tuple[State, Batch, Metrics]:
        seen = ops.first_moments(s.seen, rollout.obs)
        shown = replace(rollout, obs=view(seen, rollout.obs), next_obs=view(seen, rollout.next_obs))
        old, ahead = value(s.critic.params, shown.obs), value(s.critic.params, shown.next_obs)
        rows, m1 = ops.with_advantages(shown, old, ahead, cfg.gamma * cfg.lam)
        rows.extra["logp"] = pi.log_prob(pi.apply(s.actor, rows.obs), rows.action)
        new, m2 = step(s.actor, rows)
        seen = ops.moments(s.seen, rollout.obs) if cfg.normalise_obs else s.seen
        return replace(s, actor=new, seen=seen), rows, m1 | m2

    def init() -> State:
        return State(pi.init(), fresh(critic_net.init()), ops.unseen(obs_dim))

    def update(s: State, b: Batch, k: int = 0) -> tuple[State, Metrics]:  # the value function's; the policy has moved already
        new, metrics = descend(s.critic, critic_loss, cfg.lr, b)
        return replace(s, critic=new), metrics

    def act(p: dict[str, Params], obs: Tensor, explore: bool) -> Tensor:
        dist = pi.apply(p["actor"], view(p["seen"], obs))
        return pi.sample(dist) if explore else pi.mode(dist)

    return Learner(
        init, update, lambda s: {"actor": s.actor, "seen": s.seen}, act, prepare=prepare,
        losses={"actor": actor_loss, "critic": critic_loss},
        experience=OnPolicy(cfg.gamma, cfg.rollout, cfg.epochs, cfg.batch_size),
        needs=frozenset({"return_scale"} if cfg.normalise_reward else ()),
    )  # fmt: skip
