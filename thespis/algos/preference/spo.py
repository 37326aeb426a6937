"""SPO: preferences between whole episodes; the reward of one is how often it is preferred to others of the same policy.

Paper: Swamy, Dann, Kidambi, Wu, Agarwal 2024, "A Minimaximalist Approach to Reinforcement Learning from Human Feedback",
arXiv:2401.04056.
Parent: ppo, whose losses it has; with a rater that gives p(first) - p(second) + 1/2 its reward is that p, less a constant.
Departures: the learner is ppo (the paper's experiments: SAC, with old rewards in its replay); the rivals of an episode are others
of its own rollout (a queue of recent ones); a win rate is paid at an episode's last step (a part of it at each).
Assumed: of the paper its abstract and its page were read; the queue and the parts are from memory, the numbers are ppo's for
small tasks. What converges is the mean of the policies: on cyclic preferences the newest one turns around it.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from thespis import nets, ops
from thespis.config import Count, Fraction, Function, NonNegative, Positive, Rate
from thespis.core import Batch, Learner, Metrics, Params, Spec, Trained, replace, tree
from thespis.data import OnPolicy, compared, rater, win_rates
from thespis.optim import descend, fresh


@dataclass(frozen=True)
class Config:
    rater: Function | None = None
    """who prefers, as module:function, a function of two episodes; None: the higher return is preferred"""
    comparisons: Count = 512
    """questions to the rater for each rollout, of pairs of its whole episodes drawn at random"""
    lr: Rate = 1e-3
    """Adam step size of actor and critic"""
    hidden: tuple[Count, ...] = (64, 64)
    """widths of the hidden layers, tanh between them"""
    clip: Positive = 0.2
    """how far the ratio of new to old probability may go from 1 and still gain (ppo)"""
    entropy_weight: NonNegative = 0.0
    """weight of the entropy bonus (ppo)"""
    rollout: Count = 512
    """steps of each environment between two rounds of learning; each round begins with new episodes"""
    epochs: Count = 4
    """passes over a rollout"""
    batch_size: Count = 256
    """rows of a minibatch"""
    gamma: Fraction = 1.0
    """discount: 1, for a win rate belongs to the whole episode"""
    lam: Fraction = 0.98
    """lambda of the generalised advantages"""
    max_norm: Positive = 0.5
    """longest gradient, of actor and critic each (ppo)"""
    normalise_obs: bool = True
    """observations by the mean and spread of all before this rollout, within 10; in the first by its own (ppo)"""


TAKES = {"unbounded", "mask"}
"""actions without bounds, and action masks"""


@tree
class State:
    actor: Trained
    critic: Trained
    seen: Params
    """count, mean and variance of the observations"""


def make(cfg: Config, spec: Spec, actor: nets.Build | None = None, critic: nets.Build | None = None) -> Learner:
    """`actor(spec)` and `critic(spec)`: your own modules, obs -> means or logits (one after the other), obs -> value (B, 1)."""
    pi, critic_net = nets.actor_critic(spec, cfg.hidden, actor, critic)
    value, obs_dim = critic_net.apply, spec.obs.dim - spec.mask

    def view(seen: Params, obs: Tensor) -> Tensor:  # what the networks are shown
        return ops.whitened(obs, seen) if cfg.normalise_obs else obs

    def prepare(s: State, rollout: Batch) -> tuple[State, Batch, Metrics]:
        found = compared(rollout, rater(cfg.rater), cfg.comparisons)
        whole = found.episode < rollout.reward.numel()
        last = rollout.extra["ended"] & whole
        gains = (2 * win_rates(found) - 1).type_as(rollout.reward)
        reward = torch.where(last, gains[found.episode.clamp(max=len(gains) - 1)], 0.0)
        rollout = replace(rollout, reward=reward, discount=torch.where(last, 0.0, rollout.discount))
        seen = ops.first_moments(s.seen, rollout.obs)
        shown = replace(rollout, obs=view(seen, rollout.obs), next_obs=view(seen, rollout.next_obs))
        old, ahead = value(s.critic.params, shown.obs), value(s.critic.params, shown.next_obs)
        rows, told = ops.with_advantages(shown, old, ahead, cfg.gamma * cfg.lam)
        rows.extra["logp"] = pi.log_prob(pi.apply(s.actor.params, rows.obs), rows.action)
        told |= {"rated": whole.type_as(reward).mean(), "level": 4 * (found.won * (1 - found.won) * found.weight).mean()}
        return replace(s, seen=ops.moments(s.seen, rollout.obs)) if cfg.normalise_obs else s, rows, told

    def actor_loss(p: Params, b: Batch) -> tuple[Tensor, Metrics]:  # ppo's
        dist, advantage = pi.apply(p, b.obs), ops.standardised(b.extra["advantage"])
        log_ratio = pi.log_prob(dist, b.action) - b.extra["logp"]
        ratio, entropy = log_ratio.exp(), pi.entropy(dist).mean()
        gain = torch.minimum(ratio * advantage, ratio.clamp(1 - cfg.clip, 1 + cfg.clip) * advantage).mean()
        return -gain - cfg.entropy_weight * entropy, {"entropy": entropy, "kl": (ratio - 1 - log_ratio).mean()}

    def critic_loss(p: Params, b: Batch) -> tuple[Tensor, Metrics]:
        v = value(p, b.obs)
        return 0.5 * (v - b.extra["target"]).square().mean(), {"value": v.mean()}

    def init() -> State:
        return State(fresh(pi.init()), fresh(critic_net.init()), ops.unseen(obs_dim))

    def update(s: State, b: Batch, k: int = 0) -> tuple[State, Metrics]:
        actor, m1 = descend(s.actor, actor_loss, cfg.lr, b, max_norm=cfg.max_norm, eps=1e-5)
        critic, m2 = descend(s.critic, critic_loss, cfg.lr, b, max_norm=cfg.max_norm, eps=1e-5)
        return replace(s, actor=actor, critic=critic), m1 | m2

    def act(p: dict[str, Params], obs: Tensor, explore: bool) -> Tensor:
        dist = pi.apply(p["actor"], view(p["seen"], obs))
        return pi.sample(dist) if explore else pi.mode(dist)

    return Learner(
        init, update, lambda s: {"actor": s.actor.params, "seen": s.seen}, act, prepare=prepare,
        losses={"actor": actor_loss, "critic": critic_loss},
        experience=OnPolicy(cfg.gamma, cfg.rollout, cfg.epochs, cfg.batch_size, whole=True),
    )  # fmt: skip
