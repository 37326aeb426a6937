"""Recurrent PPO: a GRU remembers what was seen, where one observation does not tell the state.

Paper: Pleines, Pallasch, Zimmer, Preuss 2022, "Generalization, Mayhems and Limits in Recurrent Proximal Policy Optimization",
arXiv:2205.11104.
Parent: ppo, whose objective its own is where the GRU's output is passed over; but the value loss has a weight, as GRU, actor and
critic are trained together.
Departures: a rollout is cut into sequences of one length, in which the memory starts anew where an episode does (the paper: a
sequence ends with its episode, and is padded); sequences begin with what was remembered when they were played; actor and critic
see the observation beside the memory, and have hidden layers of their own.
Assumed: the numbers are those of this library's ppo, or were tried on CartPole without velocities.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from thespis import nets, ops
from thespis.config import Count, Fraction, NonNegative, Positive, Rate
from thespis.core import Batch, Box, Learner, Metrics, Params, Spec, Trained, replace, tree, tree_map
from thespis.data import Segments
from thespis.optim import descend, fresh


@dataclass(frozen=True)
class Config:
    memory: Count = 64
    """numbers that the GRU remembers"""
    length: Count = 15
    """steps of a sequence, through which gradients go back; as many more as divide the rollout"""
    lr: Rate = 1e-3
    """Adam step size of the whole network"""
    adam_eps: Positive = 1e-5
    """what Adam adds to the root of the second moment (as ppo)"""
    hidden: tuple[Count, ...] = (64,)
    """widths of the hidden layers of actor and critic, after the GRU, tanh between them"""
    clip: Positive = 0.2
    """how far the ratio of new to old probability may go from 1 and still gain"""
    value_weight: Positive = 0.5
    """weight of the value loss"""
    entropy_weight: NonNegative = 0.0
    """weight of the entropy bonus"""
    rollout: Count = 120
    """steps of each environment between two rounds of learning"""
    epochs: Count = 4
    """passes over a rollout"""
    batch_size: Count = 16
    """sequences of a minibatch"""
    gamma: Fraction = 0.99
    """discount (as ppo)"""
    lam: Fraction = 0.95
    """lambda of the generalised advantages"""
    max_norm: Positive = 0.5
    """longest gradient (as ppo)"""
    normalise_advantage: bool = True
    """advantages of a minibatch to mean 0 and spread 1"""
    normalise_obs: bool = True
    """observations by the mean and spread of all before this rollout, within 10 (as ppo)"""
    normalise_reward: bool = True
    """rewards by the spread of discounted returns, within 10 (as ppo)"""


TAKES = {"unbounded", "mask"}
"""actions without bounds, and action masks"""


@tree
class State:
    net: Trained
    """GRU, actor and critic"""
    seen: Params
    """as ppo's"""


def make(cfg: Config, spec: Spec) -> Learner:
    length = next(n for n in range(min(cfg.length, cfg.rollout), cfg.rollout + 1) if cfg.rollout % n == 0)
    obs_dim = spec.obs.dim - spec.mask
    gru = nets.gru(obs_dim, cfg.memory)
    pi, critic = nets.actor_critic(spec._replace(obs=Box(cfg.memory + spec.obs.dim)), cfg.hidden)

    def view(seen: Params, obs: Tensor) -> Tensor:
        return ops.whitened(obs, seen) if cfg.normalise_obs else obs

    def remember(p: Params, obs: Tensor, h: Tensor) -> Tensor:  # h_t, of o_t and h_{t-1}
        return gru.apply(nets.part(p, "gru"), obs[..., :obs_dim], h)

    def memories(p: Params, b: Batch) -> Tensor:  # (B, length, memory): h_t
        h, out = b.extra["hidden"], []
        for t in range(length):
            h = remember(p, b.obs[:, t], torch.where(b.extra["begins"][:, t, None], 0.0, h))
            out.append(h)
        return torch.stack(out, 1)

    def value(p: Params, h: Tensor, obs: Tensor) -> Tensor:
        return critic.apply(nets.part(p, "critic"), torch.cat([h, obs], -1))

    def distribution(p: Params, h: Tensor, obs: Tensor) -> nets.Dist:
        return pi.apply(nets.part(p, "actor"), torch.cat([h, obs], -1))

    def prepare(s: State, rollout: Batch) -> tuple[State, Batch, Metrics]:
        shape, p, seen = rollout.reward.shape, s.net.params, ops.first_moments(s.seen, rollout.obs)
        after = ops.moments(s.seen, rollout.obs) if cfg.normalise_obs else s.seen
        rollout = replace(rollout, obs=view(seen, rollout.obs), next_obs=view(seen, rollout.next_obs))
        begins = torch.cat([torch.zeros_like(rollout.extra["ended"][:1]), rollout.extra["ended"][:-1]])

        def cut(x: Tensor) -> Tensor:  # (T, N, ...) -> (B, length, ...)
            return x.unflatten(0, (-1, length)).transpose(1, 2).flatten(0, 1)

        def whole(x: Tensor) -> Tensor:  # and back
            return x.unflatten(0, (-1, shape[1])).transpose(1, 2).flatten(0, 1)

        memory = {"hidden": cut(rollout.extra["hidden"])[:, 0], "begins": cut(begins)}
        rows = replace(tree_map(cut, replace(rollout, extra={})), extra=memory)
        h = memories(p, rows)
        old, ahead = value(p, h, rows.obs), value(p, remember(p, rows.next_obs, h), rows.next_obs)
        told, metrics = ops.with_advantages(rollout, whole(old), whole(ahead), cfg.gamma * cfg.lam)
        rows.extra.update({k: cut(x.unflatten(0, shape)) for k, x in told.extra.items()})
        rows.extra["logp"] = pi.log_prob(distribution(p, h, rows.obs), rows.action)
        return replace(s, seen=after), rows, metrics

    def joint_loss(p: Params, b: Batch) -> tuple[Tensor, Metrics]:
        h = memories(p, b)
        dist, v, advantage = distribution(p, h, b.obs), value(p, h, b.obs), b.extra["advantage"]
        if cfg.normalise_advantage:
            advantage = ops.standardised(advantage)
        log_ratio = pi.log_prob(dist, b.action) - b.extra["logp"]
        ratio, entropy = log_ratio.exp(), pi.entropy(dist).mean()
        gain = torch.minimum(ratio * advantage, ratio.clamp(1 - cfg.clip, 1 + cfg.clip) * advantage).mean()
        wrong = 0.5 * (v - b.extra["target"]).square().mean()
        clipped = ((ratio - 1).abs() > cfg.clip).float().mean()
        metrics = {"entropy": entropy, "kl": (ratio - 1 - log_ratio).mean(), "clipped": clipped, "value": v.mean()}
        total = -gain - cfg.entropy_weight * entropy + cfg.value_weight * wrong
        return total, metrics | {"gain": gain, "value_error": wrong}

    def init() -> State:
        return State(fresh(nets.joined(gru=gru.init(), actor=pi.init(), critic=critic.init())), ops.unseen(obs_dim))

    def update(s: State, b: Batch, k: int = 0) -> tuple[State, Metrics]:  # one minibatch of sequences
        net, metrics = descend(s.net, joint_loss, cfg.lr, b, max_norm=cfg.max_norm, eps=cfg.adam_eps)
        return replace(s, net=net), metrics

    def policy(s: State) -> dict[str, Params]:
        return {"net": {k: x for k, x in s.net.params.items() if not k.startswith("critic.")}, "seen": s.seen}

    def memory(n: int) -> Params:
        return {"hidden": torch.zeros(n, cfg.memory)}

    def act(p: dict[str, Params], obs: Tensor, explore: bool, memory: Params, look: Tensor) -> tuple[Tensor, Params]:
        obs = view(p["seen"], obs)
        h = torch.where(look[:, None], remember(p["net"], obs, memory["hidden"]), memory["hidden"])
        dist = distribution(p["net"], h, obs)
        return pi.sample(dist) if explore else pi.mode(dist), {"hidden": h}

    feed = Segments(cfg.gamma, cfg.rollout, cfg.epochs, cfg.batch_size, length=length, memory=cfg.memory)
    return Learner(
        init, update, policy, act, losses={"joint": joint_loss}, experience=feed, memory=memory, prepare=prepare,
        needs=frozenset({"return_scale"} if cfg.normalise_reward else ()),
    )  # fmt: skip
