"""Reward model: a reward of single steps is fitted to preferences between episodes, and ppo learns from it.

Paper: Christiano, Leike, Brown, Martic, Legg, Amodei 2017, "Deep Reinforcement Learning from Human Preferences",
arXiv:1706.03741.
Parent: ppo, whose losses it has. It is the baseline of spo, and like it in all but where the reward is from.
Departures: whole episodes are compared (the paper: clips of 1 to 2 seconds), pairs drawn at random (those that an ensemble
disagrees on); one network (an ensemble); no share of wrong answers is allowed for; the policy learns by ppo (a2c, trpo).
Assumed: the numbers are ppo's for small tasks; the model goes on from its last fit, on the comparisons of the newest rollouts.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

from thespis import nets, ops
from thespis.config import Count, Fraction, Function, NonNegative, Positive, Rate
from thespis.core import Batch, Learner, Metrics, Params, Spec, Trained, replace, tree
from thespis.data import Compared, OnPolicy, compared, rater
from thespis.optim import descend, fresh


@dataclass(frozen=True)
class Config:
    rater: Function | None = None
    """who prefers, as module:function, a function of two episodes; None: the higher return is preferred"""
    comparisons: Count = 512
    """questions to the rater for each rollout, of pairs of its whole episodes drawn at random"""
    kept: Count = 16_384
    """newest steps of whole episodes that the reward is fitted to, by the comparisons of these episodes"""
    fits: Count = 20
    """steps of the reward's fit for each rollout, each over all comparisons that are kept"""
    lr: Rate = 1e-3
    """Adam step size of actor and critic"""
    reward_step: Positive = 1e-3
    """Adam step size of the reward"""
    hidden: tuple[Count, ...] = (64, 64)
    """widths of the hidden layers, tanh between them (of the reward: ReLU)"""
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
    gamma: Fraction = 0.99
    """discount of the fitted rewards (ppo)"""
    lam: Fraction = 0.95
    """lambda of the generalised advantages (ppo)"""
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
    reward: Trained
    seen: Params
    """count, mean and variance of the observations"""
    asked: Params
    """the newest steps of whole episodes (kept, ...), each with the number of its episode, -1 before any; and the newest
    comparisons"""


def make(cfg: Config, spec: Spec, actor: nets.Build | None = None, critic: nets.Build | None = None) -> Learner:
    """`actor(spec)` and `critic(spec)`: your own modules, obs -> means or logits (one after the other), obs -> value (B, 1)."""
    pi, critic_net = nets.actor_critic(spec, cfg.hidden, actor, critic)
    value, obs_dim = critic_net.apply, spec.obs.dim - spec.mask
    width = obs_dim + nets.outputs(spec)
    reward_net = nets.mlp((width, *cfg.hidden, 1))

    def view(seen: Params, obs: Tensor) -> Tensor:  # what the networks are shown
        return ops.whitened(obs, seen) if cfg.normalise_obs else obs

    def pairs(obs: Tensor, action: Tensor) -> Tensor:  # (B, width)
        return torch.cat([obs[..., :obs_dim], ops.features(spec.action, action)], -1).flatten(0, 1)

    def r(p: Params, x: Tensor) -> Tensor:
        return reward_net.apply(p, x)[..., 0]

    def reward_loss(p: Params, asked: Params) -> tuple[Tensor, Metrics]:  # Bradley and Terry's: eq. 1
        oldest = asked["episode"][0]  # of it a part may be gone
        each = r(p, asked["steps"])
        totals = torch.zeros(len(each) + 1, dtype=each.dtype, device=each.device).index_add(0, asked["episode"] - oldest, each)
        held = (torch.minimum(asked["first"], asked["second"]) > oldest).type_as(each)
        at = [(asked[k] - oldest).clamp(min=0) for k in ("first", "second")]
        ahead = totals[at[0]] - totals[at[1]]
        weight = held / held.sum().clamp(min=1)
        loss = (weight * (softplus(ahead) - asked["won"] * ahead)).sum()
        return loss, {"agreed": (weight * (1 - ((ahead > 0).type_as(each) - asked["won"]).abs())).sum()}

    def remembered(asked: Params, found: Compared, steps: Tensor) -> Params:
        number = found.episode.flatten()
        order = number.argsort(stable=True)[: int((number < len(number)).sum())]  # whole episodes, one after another
        first = asked["episode"][-1] + 1
        new = {"steps": steps[order], "episode": number[order] + first}
        if bool(found.weight.any()):
            new |= {"first": found.first + first, "second": found.second + first, "won": found.won.type_as(steps)}
        return asked | {k: torch.cat([asked[k], x])[-len(asked[k]) :] for k, x in new.items()}

    def prepare(s: State, rollout: Batch) -> tuple[State, Batch, Metrics]:
        found = compared(rollout, rater(cfg.rater), cfg.comparisons)
        seen = ops.first_moments(s.seen, rollout.obs)
        shown = replace(rollout, obs=view(seen, rollout.obs), next_obs=view(seen, rollout.next_obs))
        steps, told = pairs(shown.obs, rollout.action), Metrics()
        asked, reward = remembered(s.asked, found, steps), s.reward
        for _ in range(cfg.fits):
            reward, told = descend(reward, reward_loss, cfg.reward_step, asked)
        gains = r(reward.params, steps).view(rollout.reward.shape)
        shown = replace(shown, reward=gains / (gains.square().mean().sqrt() + 1e-8))
        old, ahead = value(s.critic.params, shown.obs), value(s.critic.params, shown.next_obs)
        rows, m = ops.with_advantages(shown, old, ahead, cfg.gamma * cfg.lam)
        rows.extra["logp"] = pi.log_prob(pi.apply(s.actor.params, rows.obs), rows.action)
        m |= {
            "misfit": told["reward_loss"],
            "agreed": told["agreed"],
            "rated": (found.episode < found.episode.numel()).type_as(gains).mean(),
        }
        s = replace(s, reward=reward, asked=asked)
        return replace(s, seen=ops.moments(s.seen, rollout.obs)) if cfg.normalise_obs else s, rows, m

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
        none = torch.full((cfg.comparisons * 8,), -1)
        asked = {
            "steps": torch.zeros(cfg.kept, width), "episode": torch.full((cfg.kept,), -1), "first": none, "second": none,
            "won": torch.full((len(none),), 0.5),
        }  # fmt: skip
        return State(fresh(pi.init()), fresh(critic_net.init()), fresh(reward_net.init()), ops.unseen(obs_dim), asked)

    def update(s: State, b: Batch, k: int = 0) -> tuple[State, Metrics]:
        actor, m1 = descend(s.actor, actor_loss, cfg.lr, b, max_norm=cfg.max_norm, eps=1e-5)
        critic, m2 = descend(s.critic, critic_loss, cfg.lr, b, max_norm=cfg.max_norm, eps=1e-5)
        return replace(s, actor=actor, critic=critic), m1 | m2

    def act(p: dict[str, Params], obs: Tensor, explore: bool) -> Tensor:
        dist = pi.apply(p["actor"], view(p["seen"], obs))
        return pi.sample(dist) if explore else pi.mode(dist)

    return Learner(
        init, update, lambda s: {"actor": s.actor.params, "seen": s.seen}, act, prepare=prepare,
        losses={"actor": actor_loss, "critic": critic_loss, "reward": reward_loss},
        experience=OnPolicy(cfg.gamma, cfg.rollout, cfg.epochs, cfg.batch_size, whole=True),
    )  # fmt: skip
