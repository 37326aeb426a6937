"""Mirror Descent Policy Optimization, on-policy: several full-batch steps on one trust-region problem around the old policy.

Paper: Tomar et al. 2022, "Mirror Descent Policy Optimization", arXiv:2005.09814.
Parent: the policy gradient, which the first inner step of every rollout is: there the divergence has no slope.
Departures: t_k is 1 in the first rollout (authors' code: 1 + 1 / K) and never 0: it stays at 1 / K from the K-th on; rewards are
scaled by the spread of returns when the rollout is full, and observations by statistics that move once a rollout, where the
authors do both at each step; the KL alone, not the Tsallis divergences.
Assumed: equations and numbers were read in the authors' code (manantomar/Mirror-Descent-Policy-Optimization, mdpo_on), as the
paper's own tables were not at hand.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from thespis import nets, ops
from thespis.config import Count, Fraction, Positive, Rate
from thespis.core import Batch, Learner, Metrics, Params, Spec, Trained, replace, tree
from thespis.data import OnPolicy
from thespis.optim import descend, fresh


@dataclass(frozen=True)
class Config:
    iterations: Count = 4_882
    """K, the rollouts of the run: steps / (rollout * environments); t_k = 1 - k / K is the divergence's inverse weight (authors'
    code, whose 10M steps these are)"""
    inner_steps: Count = 10
    """m, actor steps on each rollout, every one on all of its rows (authors' code)"""
    lr: Rate = 3e-4
    """Adam step size of actor and critic (authors' code)"""
    anneal: bool = False
    """lr and value_clip times t_k as well (authors' code means to, but hands its schedules constants: off)"""
    adam_eps: Positive = 1e-5
    """what the actor's Adam adds to the root of the second moment (authors' code; the critic's: 1e-8)"""
    hidden: tuple[Count, ...] = (64, 64)
    """widths of the hidden layers, tanh between them (authors' code)"""
    value_clip: Positive | None = 0.2
    """how far a value may go from the old one and still gain (authors' code); None: as far as it likes"""
    rollout: Count = 2048
    """steps of each environment between two rounds of learning (authors' code)"""
    epochs: Count = 5
    """passes of the value function over a rollout (authors' code)"""
    batch_size: Count = 128
    """rows of a minibatch of the value function (authors' code)"""
    gamma: Fraction = 0.99
    """discount (authors' code)"""
    lam: Fraction = 0.95
    """lambda of the generalised advantages (authors' code)"""
    max_norm: Positive = 0.5
    """longest gradient of the actor (authors' code)"""
    normalise_obs: bool = True
    """observations by the mean and spread of all before this rollout, within 10; in the first by its own (authors' code)"""
    normalise_reward: bool = True
    """rewards by the spread of discounted returns, within 10 (authors' code)"""


TAKES = {"unbounded", "mask"}
"""actions without bounds, and action masks"""


@tree
class State:
    actor: Trained
    critic: Trained
    rollouts: Tensor
    """(), rollouts learnt from, the one at work among them: k + 1"""
    seen: Params
    """count, mean and variance of the observations; until there are any, the policy acts as on their mean"""


def make(cfg: Config, spec: Spec, actor: nets.Build | None = None, critic: nets.Build | None = None) -> Learner:
    """`actor(spec)` and `critic(spec)`: your own modules, obs -> means or logits (one after the other), obs -> value (B, 1)."""
    pi, critic_net = nets.actor_critic(spec, cfg.hidden, actor, critic)
    value, obs_dim = critic_net.apply, spec.obs.dim - spec.mask

    def view(seen: Params, obs: Tensor) -> Tensor:  # what the networks are shown
        return ops.whitened(obs, seen) if cfg.normalise_obs else obs

    def t(s: State) -> Tensor:  # t_k
        return (1 - (s.rollouts - 1) / cfg.iterations).clamp(1 / cfg.iterations, 1)

    def shrunk(s: State) -> Tensor:  # what lr and value_clip are multiplied by
        return t(s) if cfg.anneal else torch.ones_like(s.rollouts)

    def lr(s: State) -> Any:
        rate = cfg.lr(s.critic.t) if cfg.anneal and callable(cfg.lr) else cfg.lr
        return rate * t(s) if cfg.anneal else rate

    def actor_loss(
        p: Params, old: nets.Dist, t: Tensor, b: Batch
    ) -> tuple[Tensor, Metrics]:  # mean(KL(pi || old) / t_k - ratio A)
        dist = pi.apply(p, b.obs)
        ratio = (pi.log_prob(dist, b.action) - pi.log_prob(old, b.action)).exp()
        gain, kl = (ratio * ops.standardised(b.extra["advantage"])).mean(), pi.kl(dist, old).mean()
        return kl / t - gain, {"kl": kl, "entropy": pi.entropy(dist).mean()}

    def critic_loss(p: Params, part: Tensor, b: Batch) -> tuple[Tensor, Metrics]:
        v, old, target = value(p, b.obs), b.extra["value"], b.extra["target"]
        error = (v - target).square()
        if cfg.value_clip is not None:
            room = cfg.value_clip * part
            error = torch.maximum(error, (old + (v - old).clamp(-room, room) - target).square())
        return error.mean(), {"value": v.mean()}

    def prepare(s: State, rollout: Batch) -> tuple[State, Batch, Metrics]:
        s = replace(s, rollouts=s.rollouts + 1)
        seen = ops.first_moments(s.seen, rollout.obs)
        shown = replace(rollout, obs=view(seen, rollout.obs), next_obs=view(seen, rollout.next_obs))
        before, ahead = value(s.critic.params, shown.obs), value(s.critic.params, shown.next_obs)
        rows, metrics = ops.with_advantages(shown, before, ahead, cfg.gamma * cfg.lam)
        old, new = pi.apply(s.actor.params, rows.obs), s.actor
        for _ in range(cfg.inner_steps):
            new, said = descend(
                new, actor_loss, lr(s), old, t(s), rows, max_norm=cfg.max_norm, eps=cfg.adam_eps, clock=s.critic.t
            )
        rate = {name: x for name, x in said.items() if name == "actor_lr"}  # of a schedule
        reached, told = actor_loss(new.params, old, t(s), rows)
        seen = ops.moments(s.seen, rollout.obs) if cfg.normalise_obs else s.seen
        return replace(s, actor=new, seen=seen), rows, metrics | told | rate | {"actor_loss": reached, "t": t(s)}

    def init() -> State:
        return State(fresh(pi.init()), fresh(critic_net.init()), torch.zeros(()), ops.unseen(obs_dim))

    def update(s: State, b: Batch, k: int = 0) -> tuple[State, Metrics]:  # the value function's; the policy has moved already
        new, metrics = descend(s.critic, critic_loss, lr(s), shrunk(s), b)
        return replace(s, critic=new), metrics

    def act(p: dict[str, Params], obs: Tensor, explore: bool) -> Tensor:
        dist = pi.apply(p["actor"], view(p["seen"], obs))
        return pi.sample(dist) if explore else pi.mode(dist)

    return Learner(
        init, update, lambda s: {"actor": s.actor.params, "seen": s.seen}, act, prepare=prepare,
        losses={"actor": actor_loss, "critic": critic_loss},
        experience=OnPolicy(cfg.gamma, cfg.rollout, cfg.epochs, cfg.batch_size),
        needs=frozenset({"return_scale"} if cfg.normalise_reward else ()),
    )  # fmt: skip
