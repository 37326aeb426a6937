"""GMORL: discrete Soft Actor-Critic for every preference between several rewards at once, which is part of what it observes.

Paper: Yang, Wen, Zhang, Tang 2025, "Generalizable Pareto-Optimal Offloading with Reinforcement Learning in Mobile
Edge Computing", arXiv:2509.10474.
Parent: sac_discrete, whose losses it has on the weighted sum of the rewards; with one preference for all episodes it is that.
Presets: gmorl_edge, for thespis/EdgeComputing-v0: the paper's encoder of servers, small.
Departures: preferences are drawn for each episode, where the paper has a grid of 64 environments; by default a network of two
hidden layers sees all. `encoder="choices"` is the paper's network, one function for all servers and then one of all of them
together, but that its last layer scores each server by its own features and the mean of all: the paper flattens them, so that a
server has weights of its own. No residual blocks. Larger step sizes, for less than the paper's 2.5 million updates.
Assumed: a server that is not there is not masked; in our world it stands for the cloud. Rewards have the units that their weights
are meant for: the paper has 0.01 for a second and 50 for a joule.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from thespis import nets, ops
from thespis.config import Count, Fraction, Members, Natural, Positive, Rate
from thespis.core import Batch, Discrete, Fault, Learner, Metrics, OffPolicy, Params, Spec, Trained, replace, tree
from thespis.optim import descend, fresh, polyak


@dataclass(frozen=True)
class Config:
    preference: Fraction | None = None
    """weight of the first reward in every episode, the others share the rest; None: each episode draws its own"""
    points: Count = 21
    """preferences that evaluations go through, from the last reward alone to the first alone (the paper: 101)"""
    encoder: Literal["flat", "choices"] = "flat"
    """choices: an observation is a row of features for each choice, and each goes through one function (the paper's)"""
    lr: Rate = 3e-4
    """Adam step size of actor and critics (the paper: 1e-6)"""
    tau: Fraction = 0.005
    """target smoothing coefficient"""
    hidden: tuple[Count, ...] = (256, 256)
    """widths of the hidden layers, ReLU between them; with choices, of both functions (the paper: 512, 1024)"""
    critics: Members = 2
    """soft Q-functions; targets and actor take the least (the paper: 2)"""
    alpha: Positive = 0.05
    """temperature, fixed (the paper's)"""
    gamma: Fraction = 0.95
    """discount (the paper's)"""
    batch_size: Count = 256
    """transitions in an update (the paper: 4096)"""
    replay_size: Count = 100_000
    """transitions kept (the paper's)"""
    warmup: Natural = 1_000
    """uniformly random environment steps before the first update"""
    updates_per_step: Positive = 0.1
    """gradient steps for each environment step (the paper: 10 for 100)"""


PRESETS = {"gmorl_edge": Config(encoder="choices", lr=1e-3, tau=0.02, hidden=(64,), updates_per_step=0.25)}
TAKES = {"rewards"}
"""several rewards of a step"""


@tree
class State:
    actor: Trained
    critic: Trained
    """all critics, on a leading axis"""
    target: Params


def make(cfg: Config, spec: Spec) -> Learner:
    """A preference, one weight a reward, stands behind each observation."""
    if not isinstance(spec.action, Discrete):
        raise Fault(f"gmorl: discrete actions are needed, the environment's are {spec.action}")
    choices, several = spec.action.n, len(spec.rewards)
    if cfg.encoder == "choices" and spec.obs.dim % choices:
        raise Fault(
            f"encoder is 'choices', which needs a row of features for each of {choices}; observed are {spec.obs.dim} numbers"
        )
    net = scores(cfg, spec.obs.dim, choices, several)
    critics = nets.ensemble(net, cfg.critics)

    def pi(p: Params, obs: Tensor) -> tuple[Tensor, Tensor]:  # pi(.|s, w) and its logarithm, (B, choices)
        logp = net.apply(p, obs).log_softmax(-1)
        return logp.exp(), logp

    q = critics.apply  # (params, obs) -> (critics, B, choices)

    def scalar(b: Batch) -> tuple[Tensor, Tensor]:  # r = w . r, and the discount, which all rewards share
        if several == 1:
            return b.reward, b.discount
        return (b.obs[:, -several:] * b.reward).sum(-1), b.discount[:, 0]

    def critic_loss(p: Params, s: State, b: Batch) -> tuple[Tensor, Metrics]:
        prob, logp = pi(s.actor.params, b.next_obs)
        value = (prob * (q(s.target, b.next_obs).amin(0) - cfg.alpha * logp)).sum(-1)
        values = q(p, b.obs)[:, torch.arange(len(b.action)), b.action]
        reward, discount = scalar(b)
        square, told = ops.squared(values - ops.backup(reward, discount, value), b)
        return 0.5 * square.mean(-1).sum(), {"q": values.mean(), **told}

    def actor_loss(p: Params, s: State, b: Batch) -> tuple[Tensor, Metrics]:
        prob, logp = pi(p, b.obs)
        value = q(s.critic.params, b.obs).amin(0)
        return (prob * (cfg.alpha * logp - value)).sum(-1).mean(), {"entropy": -(prob * logp).sum(-1).mean()}

    def init() -> State:
        q0 = critics.init()
        return State(fresh(net.init()), fresh(q0), q0)

    def update(s: State, b: Batch, k: int = 0) -> tuple[State, Metrics]:
        critic, m1 = descend(s.critic, critic_loss, cfg.lr, s, b)
        s = replace(s, critic=critic)
        actor, m2 = descend(s.actor, actor_loss, cfg.lr, s, b)
        return replace(s, actor=actor, target=polyak(s.target, critic.params, cfg.tau)), m1 | m2

    def act(p: Params, obs: Tensor, explore: bool) -> Tensor:
        logits = net.apply(p, obs)
        if explore:  # the largest of logits plus Gumbel noise is a sample of the softmax
            logits = logits - torch.empty_like(logits).exponential_().log()
        return logits.argmax(-1)

    def context(s: State, n: int, explore: bool) -> Tensor:
        if several == 1:
            return torch.ones(n, 1)
        if cfg.preference is not None:
            rest = (1 - cfg.preference) / (several - 1)
            return torch.tensor([[cfg.preference] + [rest] * (several - 1)] * n)
        if several == 2 and not explore:
            first = (torch.arange(n, device="cpu") % cfg.points) / max(cfg.points - 1, 1)
            return torch.stack([first, 1 - first], -1)
        fixed = None if explore else torch.Generator().manual_seed(0)
        drawn = torch.empty(n, several, device="cpu").exponential_(generator=fixed)
        return drawn / drawn.sum(-1, keepdim=True)

    return Learner(
        init, update, lambda s: s.actor.params, act, losses={"critic": critic_loss, "actor": actor_loss}, context=context,
        experience=OffPolicy(cfg.gamma, 1, cfg.batch_size, cfg.replay_size, cfg.warmup, cfg.updates_per_step),
    )  # fmt: skip


def scores(cfg: Config, obs: int, choices: int, told: int) -> nets.Net:
    """(..., obs + told) -> one number a choice."""
    if cfg.encoder == "flat":
        return nets.mlp((obs + told, *cfg.hidden, choices))
    each = nets.mlp((obs // choices + told, *cfg.hidden))
    last = nets.mlp((2 * cfg.hidden[-1] + told, *cfg.hidden, 1))

    def init() -> Params:
        return nets.joined(each=each.init(), last=last.init())

    def apply(p: Params, x: Tensor) -> Tensor:
        rows = x[..., :obs].unflatten(-1, (choices, -1))
        told_each = x[..., None, obs:].expand(*rows.shape[:-1], told)
        seen = each.apply(nets.part(p, "each"), torch.cat([rows, told_each], -1)).relu()
        mean = seen.mean(-2, keepdim=True).expand_as(seen)
        return last.apply(nets.part(p, "last"), torch.cat([seen, mean, told_each], -1)).squeeze(-1)

    return nets.Net(init, apply)
