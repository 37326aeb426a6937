"""RLIV-UA: which author a user is shown, by the lifelong value of the pair: the clicks, follows and gifts still to come of it.

Paper: Li et al. 2025, "Reinforce Lifelong Interaction Value of User-Author Pairs for Large-Scale Recommendation Systems",
arXiv:2507.16253.
Parent: an actor-critic of choices that pays for its entropy, whose critic is shared by the choices. At gamma 0 it is greedy:
supervised learning of what showing gives at once.
Departures: a reconstruction. The parts are those that the abstract names (a process whose steps are the showings of one pair,
adjacent states for its next one, a critic of several tasks in a row, a supervised task beside); no formula of it could be read.
An action is the candidate that is shown, where the paper's is not known.
Assumed: the next state of a pair is its user's at the next request, with what is known of the pair moved on by what came of it.
One discount for each step of a pair, whatever time lies between. All numbers are ours.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from thespis import nets, ops
from thespis.config import Count, Fraction, Natural, NonNegative, Positive, Rate
from thespis.core import Batch, Discrete, Fault, Learner, Metrics, Params, Spec, Trained, replace, tree
from thespis.data import Offline
from thespis.optim import descend, fresh, polyak


@dataclass(frozen=True)
class Config:
    lr: Rate = 3e-4
    """Adam step size of the policy"""
    critic_lr: Rate = 1e-3
    """Adam step size of the critic"""
    worth: tuple[str, ...] = ()
    """NAME=NUMBER each, what one of a reward counts for, or NAME: 1; none: what is recorded of each reward counts the same"""
    user: Natural | None = None
    """numbers at the observation's front about the user; the rest is a block a choice, a counter a reward first; None: all"""
    counted: Positive = 0.2
    """what one more of a reward adds to its counter in the observation, which ends at 1"""
    adjacent: bool = True
    """the pair's next state is made of the user's next request; no: the recorded next one has the same pair at the same place"""
    critics: Literal["chain", "each", "joint"] = "chain"
    """a head a reward, each of which sees the one before it, or sees none, or one head of the sum"""
    supervised: NonNegative = 0.3
    """weight of predicting beside whether each reward comes at all"""
    temperature: Positive = 0.1
    """what the policy is paid for its entropy, in units of the recorded mean of all rewards together"""
    tau: Fraction = 0.005
    """target smoothing coefficient"""
    hidden: tuple[Count, ...] = (64, 64)
    """widths of the hidden layers, with layer norm and ReLU; the heads share all but the last"""
    gamma: Fraction = 0.95
    """discount of a step of a pair, of every reward"""
    batch_size: Count = 512
    """transitions in an update"""


TAKES = {"rewards"}
"""several rewards, one after the other in how far an interaction goes"""


@tree
class State:
    actor: Trained
    critic: Trained
    target: Params
    scale: Params
    """of each reward the mean "size" in the recorded steps, and its "share" of the sum that is raised"""


def make(cfg: Config, spec: Spec) -> Learner:
    if not isinstance(spec.action, Discrete):
        raise Fault(f"rliv_ua: discrete actions are needed, the environment's are {spec.action}")
    choices, many = spec.action.n, len(spec.rewards)
    if many < 2:
        raise Fault("rliv_ua: several rewards are needed, as click, follow and gift; the environment has one")
    worth = {i: 1.0 if x is None else x for i, x in ops.floors(spec, cfg.worth, "worth").items()} if cfg.worth else {}
    user = spec.obs.dim if cfg.user is None else cfg.user
    block, left = divmod(spec.obs.dim - user, choices)
    if left or (block < many and cfg.user is not None):
        raise Fault(
            f"user is {cfg.user}; an observation has {spec.obs.dim} numbers, and the others must be shared equally by {choices} "
            f"choices, at least {many} each"
        )
    inputs, heads = user + (block or choices), 1 if cfg.critics == "joint" else many
    *shared, width = inputs, *cfg.hidden
    trunk = nets.layers("normed", (*shared, width))
    head = {f"head{i}": nets.mlp((width + (cfg.critics == "chain" and i > 0), width, 1)) for i in range(heads)}
    beside = nets.mlp((width, many))
    score = nets.layers("normed", (inputs, *cfg.hidden, 1))
    level = f"b{len(cfg.hidden)}"  # of all choices alike: no softmax would see it

    def pairs(obs: Tensor) -> Tensor:  # what is known of the user and each choice, (B, choices, inputs)
        blocks = torch.eye(choices, dtype=obs.dtype, device=obs.device).expand(obs.shape[0], -1, -1)
        if block:
            blocks = obs[:, user:].unflatten(-1, (choices, -1))
        return torch.cat([obs[:, None, :user].expand(-1, choices, -1), blocks], -1)

    def logits(p: Params, x: Tensor) -> Tensor:  # (B, choices)
        return score.apply(p | {level: x.new_zeros(1)}, x).squeeze(-1)

    def onward(b: Batch, at: Tensor) -> Tensor:  # the pair's next state, (B, inputs)
        after = pairs(b.next_obs)[at, b.action]
        if not (cfg.adjacent and block):
            return after
        here = pairs(b.obs)[at, b.action, user:]
        counters = (here[:, :many] + cfg.counted * (b.reward > 0)).clamp(max=1)
        return torch.cat([after[:, :user], counters, here[:, many:]], -1)

    def q(p: Params, x: Tensor) -> tuple[Tensor, Tensor]:  # (..., heads), and logits of what comes (..., rewards)
        h = trunk.apply(nets.part(p, "trunk"), x).relu()
        values: list[Tensor] = []
        for name, net in head.items():
            seen = [h, values[-1].detach()] if values and cfg.critics == "chain" else [h]
            values.append(net.apply(nets.part(p, name), torch.cat(seen, -1)))
        return torch.cat(values, -1), beside.apply(nets.part(p, "beside"), h)

    def critic_loss(p: Params, s: State, b: Batch) -> tuple[Tensor, Metrics]:
        at = torch.arange(len(b.action))
        reward, discount = b.reward / s.scale["size"], b.discount
        if cfg.critics == "joint":
            reward, discount = (reward @ s.scale["share"])[:, None], discount[:, :1]
        values, ahead = q(p, pairs(b.obs)[at, b.action])
        error = values - ops.backup(reward, discount, q(s.target, onward(b, at))[0])
        comes = binary_cross_entropy_with_logits(ahead, (b.reward > 0).type_as(ahead), reduction="none").sum(-1)
        return (error.square().sum(-1) + cfg.supervised * comes).mean(), {"q": values.mean(), "cross_entropy": comes.mean()}

    def actor_loss(p: Params, s: State, b: Batch) -> tuple[Tensor, Metrics]:
        x = pairs(b.obs)
        logp, values = logits(p, x).log_softmax(-1), q(s.critic.params, x)[0]
        total = values.squeeze(-1) if cfg.critics == "joint" else values @ s.scale["share"]
        return (logp.exp() * (cfg.temperature * logp - total)).sum(-1).mean(), {"entropy": -(logp.exp() * logp).sum(-1).mean()}

    def init() -> State:
        nets_ = {"trunk": trunk, "beside": beside} | head
        q0 = nets.joined(**{name: net.init() for name, net in nets_.items()})
        actor = {name: x for name, x in score.init().items() if name != level}
        return State(fresh(actor), fresh(q0), q0, {"size": torch.ones(many), "share": torch.full((many,), 1 / many)})

    def given(s: State, data: Batch) -> State:
        size = data.reward.abs().mean(0).clamp(min=1e-6)
        share = size * size.new_tensor([worth.get(i, 0.0) for i in range(many)]) if worth else torch.ones_like(size)
        return replace(s, scale={"size": size, "share": share / share.abs().sum().clamp(min=1e-6)})

    def update(s: State, b: Batch, k: int = 0) -> tuple[State, Metrics]:
        critic, m1 = descend(s.critic, critic_loss, cfg.critic_lr, s, b)
        s = replace(s, critic=critic, target=polyak(s.target, critic.params, cfg.tau))
        actor, m2 = descend(s.actor, actor_loss, cfg.lr, s, b)
        return replace(s, actor=actor), m1 | m2

    def act(p: Params, obs: Tensor, explore: bool) -> Tensor:
        scores = logits(p, pairs(obs))
        if explore:  # the largest of scores plus Gumbel noise is a sample of the softmax
            scores = scores - torch.empty_like(scores).exponential_().log()
        return scores.argmax(-1)

    return Learner(
        init, update, lambda s: s.actor.params, act,
        losses={"critic": critic_loss, "actor": actor_loss},
        experience=Offline(cfg.gamma, 1, cfg.batch_size), given=given,
    )  # fmt: skip
