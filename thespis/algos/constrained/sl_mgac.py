"""SL-MGAC: whether to put a live stream into a feed, by a critic that learns rewards as a supervised task, a head a user group.

Paper: Liu et al. 2024, "Supervised Learning-enhanced Multi-Group Actor Critic for Live Stream Allocation in Feed",
arXiv:2412.10381.
Parent: sac_discrete on recorded data at a fixed temperature, which it becomes with groups 1, net mlp and `supervised` 0. At gamma
0 it is greedy: supervised learning of what an action gives at once.
Departures: a reconstruction. The parts are those that the abstract names (supervised learning of several rewards, groups of users
in actor and critic, a reward against greed, limits of the platform), with bins and layer norm; no formula of the paper could be
read. Left out: target attention over ids, and the distillation to a smaller policy.
Assumed: Q = R + F, where R is learnt from rewards alone and F bootstraps, so that its target holds no reward, which is noisy.
Groups are quantiles of one number of the observation. The reward against greed is the first of the world's, which is to count
what a live takes from videos. All numbers are ours.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import layer_norm, pad

from thespis import nets, ops
from thespis.config import Count, Fraction, Members, Natural, NonNegative, Positive, Rate
from thespis.core import Batch, Discrete, Fault, Learner, Metrics, Params, Spec, Trained, replace, tree
from thespis.data import Offline
from thespis.optim import descend, fresh, polyak

Inputs = tuple[Tensor, Tensor]
"""observations (B, obs), and the group of each (B,)"""


@dataclass(frozen=True)
class Config:
    lr: Rate = 3e-4
    """Adam step size of the policy"""
    critic_lr: Rate = 1e-3
    """Adam step size of the critics"""
    main: str | None = None
    """name of the reward that is raised; none: the first"""
    floors: tuple[str, ...] = ()
    """NAME=NUMBER each, the least that a step is to give on average, or NAME: as the recorded; none: all but the first reward"""
    dual_step: NonNegative = 1e-2
    """how far a multiplier moves for a floor that is missed by its reward's whole size; 0: floors have no say"""
    most: Positive = 10.0
    """no multiplier is larger"""
    groups: Count = 5
    """users are split by quantiles, a head each in actor and critics; 1: one head"""
    group_by: Natural = 0
    """which number of the observation they are split by"""
    supervised: NonNegative = 1.0
    """weight of learning rewards by bins; 0: a usual critic, whose targets hold the recorded rewards, and floors have no say"""
    bins: Members = 51
    """into which a reward's range is cut"""
    clip: Fraction = 0.999
    """of the recorded rewards, the quantile at which the range ends; larger ones count as this"""
    net: Literal["normed", "mlp"] = "normed"
    """hidden layers with layer norm, or without"""
    critics: Members = 2
    """number of critics; targets and actor take the minimum"""
    temperature: Positive = 0.02
    """what the policy is paid for its entropy, in units of the main reward's recorded mean"""
    tau: Fraction = 0.02
    """target smoothing coefficient"""
    hidden: tuple[Count, ...] = (64, 64)
    """widths of the hidden layers, ReLU between them; the groups share all but the last"""
    gamma: Fraction = 0.98
    """discount, of every reward"""
    n_step: Count = 1
    """steps of reward before the bootstrap"""
    batch_size: Count = 512
    """transitions in an update"""


TAKES = {"rewards"}
"""several rewards, of which one is raised"""


@tree
class State:
    actor: Trained
    critic: Trained
    """both critics, on a leading axis"""
    target: Params
    multiplier: Params
    """of each reward with a floor"""
    scale: Params
    """of each reward the range "low", "high" and the mean "size" in the recorded steps; the "floor"s; the groups' "edge"s"""


def grouped(kind: str, sizes: tuple[int, ...], groups: int) -> nets.Net:
    """Inputs -> (B, out): hidden layers that all groups share, but the last one, and then a head a group."""
    *shared, width, out = sizes
    trunk, head = nets.layers(kind, shared), nets.layers(kind, (shared[-1], width, out))

    def init() -> Params:
        return nets.joined(trunk=trunk.init(), head=nets.ensemble(head, groups).init())

    def apply(p: Params, x: Inputs) -> Tensor:
        obs, group = x
        if len(shared) > 1:
            h = trunk.apply(nets.part(p, "trunk"), obs)
            obs = (layer_norm(h, h.shape[-1:]) if kind == "normed" else h).relu()
        own = nets.part(p, "head")  # one by one: a file that is exported holds no vmap
        each = [(group == i)[:, None] * head.apply({k: x[i] for k, x in own.items()}, obs) for i in range(groups)]
        return torch.stack(each).sum(0)

    return nets.Net(init, apply)  # type: ignore[arg-type]


def make(cfg: Config, spec: Spec) -> Learner:
    if not isinstance(spec.action, Discrete):
        raise Fault(f"sl_mgac: discrete actions are needed, the environment's are {spec.action}")
    if len(spec.rewards) < 2:
        raise Fault("sl_mgac: several rewards are needed, a main one and those with a floor; the environment has one")
    if cfg.main and cfg.main not in spec.rewards:
        raise Fault(f"main is {cfg.main!r}; allowed: {', '.join(spec.rewards)}")
    if cfg.group_by >= spec.obs.dim:
        raise Fault(f"group_by is {cfg.group_by}; an observation has {spec.obs.dim} numbers, counted from 0")
    main, choices, many = spec.rewards.index(cfg.main or spec.rewards[0]), spec.action.n, len(spec.rewards)
    floors = ops.floors(spec, cfg.floors)
    limited = list(floors)
    sizes, bins = (spec.obs.dim, *cfg.hidden), many * cfg.bins if cfg.supervised else 0
    pi = grouped(cfg.net, (*sizes, choices), cfg.groups)
    critics = nets.ensemble(grouped(cfg.net, (*sizes, choices * (1 + bins)), cfg.groups), cfg.critics)

    def inputs(obs: Tensor, edge: Tensor) -> Inputs:
        return obs, (obs[:, cfg.group_by, None] > edge).sum(-1)

    def log_pi(p: Params, s: State, obs: Tensor) -> Tensor:  # (B, choices)
        return pi.apply(p, inputs(obs, s.scale["edge"])).log_softmax(-1)  # type: ignore[arg-type]

    def heads(p: Params, s: State, obs: Tensor) -> tuple[Tensor, Tensor]:  # F (critics, B, choices), logits (..., R * bins)
        y = critics.apply(p, inputs(obs, s.scale["edge"])).unflatten(-1, (choices, -1))  # type: ignore[arg-type]
        return y[..., 0], y[..., 1:]

    def rewards(s: State, logits: Tensor) -> Tensor:  # R (..., rewards), in units of their size
        if not bins:
            return logits.new_zeros(*logits.shape[:-1], many)
        share = ops.expectation(logits.unflatten(-1, (many, -1)).softmax(-1), 0, 1)
        return (s.scale["low"] + (s.scale["high"] - s.scale["low"]) * share) / s.scale["size"]

    def q(p: Params, s: State, obs: Tensor) -> tuple[Tensor, Tensor]:  # Q = R + F, (critics, B, choices), and R (B, choices, R)
        ahead, logits = heads(p, s, obs)
        now = rewards(s, logits)
        return ahead + now[..., main], now.mean(0)

    def critic_loss(p: Params, s: State, b: Batch) -> tuple[Tensor, Metrics]:
        logp, at = log_pi(s.actor.params, s, b.next_obs), torch.arange(len(b.action))
        value = (logp.exp() * (q(s.target, s, b.next_obs)[0].amin(0) - cfg.temperature * logp)).sum(-1)
        ahead, logits = (x[:, at, b.action] for x in heads(p, s, b.obs))
        now = torch.zeros_like(value) if bins else b.reward[:, main] / s.scale["size"][main]
        loss = 0.5 * (ahead - ops.backup(now, b.discount[:, main], value)).square()
        told = {"q": (ahead + rewards(s, logits)[..., main]).mean()}
        if bins:
            place = ((b.reward - s.scale["low"]) / (s.scale["high"] - s.scale["low"]))[..., None]  # 0 .. 1
            mass = pad(torch.ones_like(place), (0, cfg.bins - 1))
            wanted = ops.project(mass, place.expand_as(mass), 0, 1)
            entropy = -(wanted * logits.unflatten(-1, (many, -1)).log_softmax(-1)).sum((-2, -1))
            loss = loss + cfg.supervised * entropy
            told |= {"cross_entropy": entropy.mean(), "clipped": (place[:, main] > 1).float().mean()}
        return loss.mean(-1).sum(), told

    def actor_loss(p: Params, s: State, b: Batch) -> tuple[Tensor, Metrics]:
        logp = log_pi(p, s, b.obs)
        values, now = q(s.critic.params, s, b.obs)
        gives = (logp.exp()[..., None] * now).sum(1).mean(0)  # of a step, of each reward
        gain = values.amin(0) + now[..., limited] @ s.multiplier["x"]
        told = {"entropy": -(logp.exp() * logp).sum(-1).mean()} | {
            f"gives/{name}": gives[i] for i, name in enumerate(spec.rewards)
        }
        return (logp.exp() * (cfg.temperature * logp - gain)).sum(-1).mean(), told

    def init() -> State:
        q0, none = critics.init(), torch.zeros(many)
        scale = {"low": none, "high": none + 1, "size": none + 1, "floor": torch.zeros(len(limited))}
        scale["edge"] = torch.zeros(cfg.groups - 1)
        return State(fresh(pi.init()), fresh(q0), q0, {"x": torch.zeros(len(limited))}, scale)

    def given(s: State, data: Batch) -> State:
        r, mean = data.reward, data.reward.mean(0)
        low, size = r.amin(0), r.abs().mean(0).clamp(min=1e-6)
        high = torch.maximum(r.quantile(cfg.clip, 0), low + 1e-3 * size)
        floor = torch.stack([mean[i] if x is None else mean.new_tensor(x) for i, x in floors.items()])
        edge = data.obs[:, cfg.group_by].quantile(torch.linspace(0, 1, cfg.groups + 1, dtype=r.dtype, device=r.device)[1:-1])
        return replace(s, scale={"low": low, "high": high, "size": size, "floor": floor / size[limited], "edge": edge})

    def update(s: State, b: Batch, k: int = 0) -> tuple[State, Metrics]:
        critic, m1 = descend(s.critic, critic_loss, cfg.critic_lr, s, b)
        s = replace(s, critic=critic)
        actor, m2 = descend(s.actor, actor_loss, cfg.lr, s, b)
        s = replace(s, actor=actor, target=polyak(s.target, critic.params, cfg.tau))
        if not bins:
            return s, m1 | m2
        short = s.scale["floor"] - torch.stack([m2[f"gives/{spec.rewards[i]}"] for i in limited])
        multiplier = (s.multiplier["x"] + cfg.dual_step * short).clamp(0, cfg.most)
        told = {f"multiplier/{spec.rewards[i]}": multiplier[n] for n, i in enumerate(limited)}
        return replace(s, multiplier={"x": multiplier}), m1 | m2 | told

    def act(p: Params, obs: Tensor, explore: bool) -> Tensor:
        logits = pi.apply(nets.part(p, "actor"), inputs(obs, p["edge"]))  # type: ignore[arg-type]
        if explore:  # the largest of logits plus Gumbel noise is a sample of the softmax
            logits = logits - torch.empty_like(logits).exponential_().log()
        return logits.argmax(-1)

    return Learner(
        init, update, lambda s: nets.joined(actor=s.actor.params) | {"edge": s.scale["edge"]}, act,
        losses={"critic": critic_loss, "actor": actor_loss},
        experience=Offline(cfg.gamma, cfg.n_step, cfg.batch_size), given=given,
    )  # fmt: skip
