"""Proximal Policy Optimization: many small steps on each rollout, and no gain from leaving the old policy far behind.

Paper: Schulman et al. 2017, "Proximal Policy Optimization Algorithms", arXiv:1707.06347.
Parent: advantage actor-critic, whose gradient it takes where the policy is still the old one: at each rollout's first minibatch.
Departures: actor and critic are apart, so the weight of the value loss falls away and each gradient is shortened by itself;
rewards are scaled by the spread of returns when the rollout is full, and observations by statistics that move once a rollout,
where other codes do both at each step; the step size stays, as in table 3 (baselines, on MuJoCo: falls in a line to 0).
Assumed: what the paper leaves open is as in openai/baselines (ppo2): orthogonal start, shortened gradients, Adam's epsilon,
normalised advantages, and on MuJoCo normalised observations and rewards.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from thespis import nets, ops
from thespis.config import Count, Fraction, NonNegative, Positive, Rate
from thespis.core import Batch, Learner, Metrics, Params, Spec, Trained, replace, tree
from thespis.data import OnPolicy
from thespis.optim import descend, fresh


@dataclass(frozen=True)
class Config:
    lr: Rate = 3e-4
    """Adam step size of actor and critic (table 3: constant; baselines, on MuJoCo: linear:3e-4)"""
    adam_eps: Positive = 1e-5
    """what Adam adds to the root of the second moment (baselines; Adam's own: 1e-8)"""
    hidden: tuple[Count, ...] = (64, 64)
    """widths of the hidden layers, tanh between them (section 6.1)"""
    clip: Positive = 0.2
    """how far the ratio of new to old probability may go from 1 and still gain (eq. 7, table 1)"""
    value_clip: Positive | None = None
    """how far a value may go from the old one and still gain (baselines: as clip); None: as far as it likes"""
    entropy_weight: NonNegative = 0.0
    """weight of the entropy bonus (eq. 9; none on MuJoCo)"""
    rollout: Count = 2048
    """steps of each environment between two rounds of learning (table 3)"""
    epochs: Count = 10
    """passes over a rollout (table 3)"""
    batch_size: Count = 64
    """rows of a minibatch (table 3)"""
    gamma: Fraction = 0.99
    """discount (table 3)"""
    lam: Fraction = 0.95
    """lambda of the generalised advantages (table 3)"""
    max_norm: Positive = 0.5
    """longest gradient, of actor and critic each (baselines)"""
    normalise_advantage: bool = True
    """advantages of a minibatch to mean 0 and spread 1 (baselines)"""
    normalise_obs: bool = True
    """observations by the mean and spread of all before this rollout, within 10; in the first by its own (baselines)"""
    normalise_reward: bool = True
    """rewards by the spread of discounted returns, within 10 (baselines)"""


PRESETS = {
    "ppo_discrete": Config(rollout=128, epochs=4, batch_size=256, lr=1e-3, entropy_weight=0.01, normalise_reward=False),
}

TAKES = {"unbounded", "mask"}
"""actions without bounds, and action masks"""


@tree
class State:
    actor: Trained
    critic: Trained
    seen: Params
    """count, mean and variance of the observations; until there are any, the policy acts as on their mean"""


def make(cfg: Config, spec: Spec, actor: nets.Build | None = None, critic: nets.Build | None = None) -> Learner:
    """`actor(spec)` and `critic(spec)`: your own modules, obs -> means or logits (one after the other), obs -> value (B, 1)."""
    pi, critic_net = nets.actor_critic(spec, cfg.hidden, actor, critic)
    value, obs_dim = critic_net.apply, spec.obs.dim - spec.mask

    def view(seen: Params, obs: Tensor) -> Tensor:  # what the networks are shown
        return ops.whitened(obs, seen) if cfg.normalise_obs else obs

    def prepare(s: State, rollout: Batch) -> tuple[State, Batch, Metrics]:
        seen = ops.first_moments(s.seen, rollout.obs)
        shown = replace(rollout, obs=view(seen, rollout.obs), next_obs=view(seen, rollout.next_obs))
        old, ahead = value(s.critic.params, shown.obs), value(s.critic.params, shown.next_obs)
        rows, told = ops.with_advantages(shown, old, ahead, cfg.gamma * cfg.lam)
        rows.extra["logp"] = pi.log_prob(pi.apply(s.actor.params, rows.obs), rows.action)
        return replace(s, seen=ops.moments(s.seen, rollout.obs)) if cfg.normalise_obs else s, rows, told

    def actor_loss(p: Params, b: Batch) -> tuple[Tensor, Metrics]:  # eqs. 7, 9
        dist, advantage = pi.apply(p, b.obs), b.extra["advantage"]
        if cfg.normalise_advantage:
            advantage = ops.standardised(advantage)
        log_ratio = pi.log_prob(dist, b.action) - b.extra["logp"]
        ratio, entropy = log_ratio.exp(), pi.entropy(dist).mean()
        gain = torch.minimum(ratio * advantage, ratio.clamp(1 - cfg.clip, 1 + cfg.clip) * advantage).mean()
        clipped = ((ratio - 1).abs() > cfg.clip).float().mean()
        metrics = {"entropy": entropy, "kl": (ratio - 1 - log_ratio).mean(), "clipped": clipped}
        return -gain - cfg.entropy_weight * entropy, metrics

    def critic_loss(p: Params, b: Batch) -> tuple[Tensor, Metrics]:
        v, old, target = value(p, b.obs), b.extra["value"], b.extra["target"]
        error = (v - target).square()
        if cfg.value_clip is not None:
            error = torch.maximum(error, (old + (v - old).clamp(-cfg.value_clip, cfg.value_clip) - target).square())
        return 0.5 * error.mean(), {"value": v.mean()}

    def init() -> State:
        return State(fresh(pi.init()), fresh(critic_net.init()), ops.unseen(obs_dim))

    def update(s: State, b: Batch, k: int = 0) -> tuple[State, Metrics]:  # one minibatch of algorithm 1
        actor, m1 = descend(s.actor, actor_loss, cfg.lr, b, max_norm=cfg.max_norm, eps=cfg.adam_eps)
        critic, m2 = descend(s.critic, critic_loss, cfg.lr, b, max_norm=cfg.max_norm, eps=cfg.adam_eps)
        return replace(s, actor=actor, critic=critic), m1 | m2

    def act(p: dict[str, Params], obs: Tensor, explore: bool) -> Tensor:
        dist = pi.apply(p["actor"], view(p["seen"], obs))
        return pi.sample(dist) if explore else pi.mode(dist)

    return Learner(
        init, update, lambda s: {"actor": s.actor.params, "seen": s.seen}, act, prepare=prepare,
        losses={"actor": actor_loss, "critic": critic_loss},
        experience=OnPolicy(cfg.gamma, cfg.rollout, cfg.epochs, cfg.batch_size),
        needs=frozenset({"return_scale"} if cfg.normalise_reward else ()),
    )  # fmt: skip
