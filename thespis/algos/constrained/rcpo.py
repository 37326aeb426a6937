"""Reward-constrained policy optimisation from recorded data: learnt multipliers add rewards with a floor to the main one.

Paper: Tessler, Mankowitz, Mannor 2019, "Reward Constrained Policy Optimization", arXiv:1805.11074.
Parent: an actor-critic that pays for its divergence from who acted, which it becomes at `dual_step` 0, as multipliers start at 0.
Departures: recorded data and choices, where the paper has a simulator: an expectation over actions is a sum over all of them, and
the actor stays near who acted, a cloned policy. What a policy gives is estimated on each batch, by the capped importance ratio of
single steps, normalised (NCIS; as in arXiv:2302.01680). Rewards are in units of their recorded mean size. Beside the
paper's one critic of the summed reward there is one a reward, "each", as in Cai et al. 2023.
Assumed: all numbers are ours, sized for the worlds of feeds here.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from thespis import nets, ops
from thespis.config import Count, Fraction, NonNegative, Positive, Rate
from thespis.core import Batch, Discrete, Fault, Learner, Metrics, Params, Spec, Trained, replace, tree
from thespis.data import Offline
from thespis.optim import descend, fresh, polyak


@dataclass(frozen=True)
class Config:
    lr: Rate = 3e-4
    """Adam step size of the policies"""
    critic_lr: Rate = 1e-3
    """Adam step size of the critics"""
    floors: tuple[str, ...] = ()
    """NAME=NUMBER each, the least that a step is to give on average, or NAME: as the recorded; none: all but the first reward"""
    dual_step: NonNegative = 1e-3
    """how far a multiplier moves for a floor that is missed by its whole size"""
    most: Positive = 10.0
    """no multiplier is larger"""
    critics: Literal["joint", "each"] = "joint"
    """one critic of the sum, as in the paper, or one a reward"""
    temperature: Positive = 0.1
    """what the policy pays for its divergence from who acted, in units of the main reward's recorded mean"""
    cap: Positive = 10.0
    """largest importance ratio of a step in the estimate of what the policy gives (as in arXiv:2302.01680)"""
    tau: Fraction = 0.005
    """target smoothing coefficient"""
    hidden: tuple[Count, ...] = (64, 64)
    """widths of the hidden layers, ReLU between them"""
    gamma: Fraction = 0.95
    """discount, of every reward"""
    n_step: Count = 1
    """steps of reward before the bootstrap"""
    batch_size: Count = 512
    """transitions in an update"""


TAKES = {"rewards"}
"""several rewards, of which the first is the main one"""


@tree
class State:
    actor: Trained
    behaviour: Trained
    """who acted, cloned"""
    critic: Trained
    """one, or one a reward, on a leading axis"""
    target: Params
    multiplier: Params
    """of each reward with a floor"""
    scale: Params
    """the mean size of each reward in the recorded steps, and the floors in these units"""


def make(cfg: Config, spec: Spec, actor: nets.Build | None = None, critic: nets.Build | None = None) -> Learner:
    """`actor(spec)` and `critic(spec)`: your own modules, obs -> one logit, or one value, an action."""
    if not isinstance(spec.action, Discrete):
        raise Fault(f"rcpo: discrete actions are needed, the environment's are {spec.action}")
    if len(spec.rewards) < 2:
        raise Fault("rcpo: several rewards are needed, a main one and those with a floor; the environment has one")
    floors = {i: x for i, x in ops.floors(spec, cfg.floors).items() if i}
    columns = [0, *floors]
    sizes = (spec.obs.dim, *cfg.hidden, spec.action.n)
    pi = nets.custom(actor, spec, sizes[0], sizes[-1]) or nets.mlp(sizes)
    each = nets.custom(critic, spec, sizes[0], sizes[-1]) or nets.mlp(sizes)
    critics = nets.ensemble(each, len(columns) if cfg.critics == "each" else 1)
    q = critics.apply  # (params, obs) -> (critics, B, choices)

    def weights(s: State) -> Tensor:  # (1 + floors,)
        return torch.cat([torch.ones_like(s.multiplier["x"][:1]), s.multiplier["x"]])

    def critic_loss(p: Params, s: State, b: Batch) -> tuple[Tensor, Metrics]:
        reward, discount = (b.reward[:, columns] / s.scale["reward"]).T, b.discount[:, columns].T
        if cfg.critics == "joint":  # eq. 10: of the penalised reward
            reward, discount = weights(s) @ reward, discount[0]
        value = (pi.apply(s.actor.params, b.next_obs).softmax(-1) * q(s.target, b.next_obs)).sum(-1)
        values = q(p, b.obs)[:, torch.arange(len(b.action)), b.action]
        return (values - ops.backup(reward, discount, value)).square().mean(-1).sum(), {"q": values[0].mean()}

    def behaviour_loss(p: Params, s: State, b: Batch) -> tuple[Tensor, Metrics]:
        logp = pi.apply(p, b.obs).log_softmax(-1)
        return -logp[torch.arange(len(b.action)), b.action].mean(), {}

    def actor_loss(p: Params, s: State, b: Batch) -> tuple[Tensor, Metrics]:
        logp, near = (pi.apply(x, b.obs).log_softmax(-1) for x in (p, s.behaviour.params))
        total = q(s.critic.params, b.obs)
        total = torch.tensordot(weights(s), total, 1) if cfg.critics == "each" else total[0]
        kl = (logp.exp() * (logp - near)).sum(-1)
        at = torch.arange(len(b.action)), b.action
        ratio = (logp[at] - near[at]).exp().clamp(max=cfg.cap)
        gives = ratio @ (b.reward[:, columns] / s.scale["reward"]) / ratio.sum()
        metrics = {"entropy": -(logp.exp() * logp).sum(-1).mean(), "kl": kl.mean()}
        metrics |= {f"gives/{spec.rewards[i]}": gives[n] for n, i in enumerate(columns)}
        return (cfg.temperature * kl - (logp.exp() * total).sum(-1)).mean(), metrics

    def init() -> State:
        q0, many = critics.init(), len(columns)
        scale = {"reward": torch.ones(many), "floor": torch.zeros(many - 1)}
        return State(fresh(pi.init()), fresh(pi.init()), fresh(q0), q0, {"x": torch.zeros(many - 1)}, scale)

    def given(s: State, data: Batch) -> State:
        reward = data.reward[:, columns]
        size, mean = reward.abs().mean(0).clamp(min=1e-6), reward.mean(0)
        floor = torch.stack([mean[n + 1] if x is None else mean.new_tensor(x) for n, x in enumerate(floors.values())])
        return replace(s, scale={"reward": size, "floor": floor / size[1:]})

    def update(s: State, b: Batch, k: int = 0) -> tuple[State, Metrics]:  # algorithm 1
        critic, m1 = descend(s.critic, critic_loss, cfg.critic_lr, s, b)
        behaviour, m2 = descend(s.behaviour, behaviour_loss, cfg.lr, s, b)
        s = replace(s, critic=critic, behaviour=behaviour, target=polyak(s.target, critic.params, cfg.tau))
        main, m3 = descend(s.actor, actor_loss, cfg.lr, s, b)
        short = s.scale["floor"] - torch.stack([m3[f"gives/{spec.rewards[i]}"] for i in floors])
        multiplier = (s.multiplier["x"] + cfg.dual_step * short).clamp(0, cfg.most)  # eq. 8
        told = {f"multiplier/{spec.rewards[i]}": multiplier[n] for n, i in enumerate(floors)}
        return replace(s, actor=main, multiplier={"x": multiplier}), m1 | m2 | m3 | told

    def act(p: Params, obs: Tensor, explore: bool) -> Tensor:
        logits = pi.apply(p, obs)
        if explore:  # the largest of logits plus Gumbel noise is a sample of the softmax
            logits = logits - torch.empty_like(logits).exponential_().log()
        return logits.argmax(-1)

    return Learner(
        init, update, lambda s: s.actor.params, act,
        losses={"critic": critic_loss, "behaviour": behaviour_loss, "actor": actor_loss},
        experience=Offline(cfg.gamma, cfg.n_step, cfg.batch_size), given=given,
    )  # fmt: skip
